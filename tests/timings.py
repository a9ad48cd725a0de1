"""Where the tests' time goes: what each run spends, by test, fixture, command and wait.

A pytest plugin (see addopts in pyproject.toml). Every process that runs tests writes one JSON
object a line to ``.test-logs/timings/``: ``{"kind": …, "what": …, "test": …, "seconds": …}``.

    python -m tests.timings [ROWS]     the tables of the last run, the dearest first
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import IO, Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / ".test-logs" / "timings"
_output: list[IO[str]] = []
_test = [""]


def record(kind: str, what: str, seconds: float) -> None:
    """Write one measurement; outside a test run, nothing."""
    for output in _output:
        row = {"kind": kind, "what": what, "test": _test[0], "seconds": round(seconds, 3)}
        output.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def measured(kind: str, what: str) -> Iterator[None]:
    """Record how long the block takes, also when it fails."""
    begin = time.monotonic()
    try:
        yield
    finally:
        record(kind, what, time.monotonic() - begin)


def processor_time() -> float:
    """Seconds of CPU time that this process and those it has waited for have used, Salt's (control/salt_copy.py), and the
    controller's copies' (tests/machine/controller.py)."""
    own = sum(os.times()[:4])
    if copies := sys.modules.get("controller"):
        own += sum(copies.processor_times)
    salt = getattr(forkserver._forkserver, "_forkserver_pid", None)  # type: ignore[attr-defined]
    if salt is None:
        return own
    fields = Path(f"/proc/{salt}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return own + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def pytest_configure(config: pytest.Config) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if config.option.collectonly:
        return
    if worker is None:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = f"{worker or 'main'}.jsonl"
    _output.append(open(FOLDER / name, "a", encoding="utf-8"))  # noqa: SIM115


def pytest_unconfigure(config: pytest.Config) -> None:
    for output in _output:
        output.close()
    _output.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    _test[0] = item.nodeid
    before = processor_time()
    try:
        with measured("test", item.nodeid):
            return (yield)
    finally:
        record("CPU time", item.nodeid, processor_time() - before)
        for output in _output:
            output.flush()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    with measured("test alone", item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    with measured("fixture", fixturedef.argname):
        return (yield)


def table(rows: dict[str, list[float]], most: int) -> str:
    """Sum, number and name of what was measured, the dearest first."""
    dearest = sorted(rows.items(), key=lambda row: -sum(row[1]))[:most]
    return "\n".join(f"{sum(s):9.1f} s {len(s):6}  {name}" for name, s in dearest)


def main(most: int) -> None:
    kinds: dict[str, dict[str, list[float]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for path in sorted(FOLDER.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            kinds[row["kind"]][row["what"]].append(row["seconds"])
            if row["kind"] == "CPU time":
                kinds["CPU time by file"][row["what"].partition("::")[0]].append(row["seconds"])
            if row["kind"] == "test":
                kinds["file"][row["what"].partition("::")[0]].append(row["seconds"])
                kinds["worker"][path.stem].append(row["seconds"])
    if not kinds:
        sys.exit(f"no timings in {FOLDER}: run the tests first")
    for kind in sorted(kinds):
        print(f"\n{kind}\n{table(kinds[kind], most)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
