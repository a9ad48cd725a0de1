"""`make test` shows every promise of the README's table; what it leaves out says why."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/machine", "webapp/tests", "cloud/saltext-digitalocean/tests", "tests/unit")


def collect(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def collected(output: str) -> set[str]:
    """``{test function@release}`` of the collected ones."""
    return {
        f"{name}@{'dev12' if '[dev12' in line else 'main'}"
        for line in output.splitlines()
        for name in re.findall(r"::(test_\w+)", line)
    }


@pytest.fixture(scope="module")
def in_make_test() -> set[str]:
    done = collect(ROOT, "--tier=test", *FOLDERS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return collected(done.stdout)


@pytest.fixture(scope="module")
def promised() -> list[str]:
    """Names of the table's second column; one that ends with … stands for all that begin so."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## What is promised")[1].split("\n## ")[0]
    return [name for line in table.splitlines() if line.startswith("| ")
            for name in re.findall(r"`(test_\w+…?)`", line)]  # fmt: skip


def test_make_test_shows_every_promise(in_make_test: set[str], promised: list[str]) -> None:
    assert len(promised) >= 50
    shown = {name.partition("@")[0] for name in in_make_test}
    missing = [
        name
        for name in promised
        if not any(one.startswith(name.rstrip("…")) if name.endswith("…") else one == name for one in shown)
    ]  # fmt: skip
    assert missing == [], "in the README's table, but make test does not run it"


def test_make_test_runs_on_debian_12_what_differs_there(in_make_test: set[str]) -> None:
    second = {name for name in in_make_test if name.endswith("@dev12")}
    assert 30 <= len(second) < len(in_make_test) / 3
    assert "test_second_apply_changes_nothing@dev12" in second


def test_make_test_all_leaves_nothing_out(in_make_test: set[str]) -> None:
    done = collect(ROOT, "--tier=all", "tests/machine")
    assert "more tests" not in done.stdout
    everything = collected(done.stdout)
    machine = collected(collect(ROOT, "--tier=test", "tests/machine").stdout)
    assert machine < everything
    faults = collected(collect(ROOT, "--tier=faults", "tests/machine").stdout)
    assert faults and faults < everything


def test_what_is_left_to_the_night_says_why(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.nightly\ndef test_it():\n    pass\n"
    )
    done = collect(ROOT, "-c", "/dev/null", "-p", "tests.tiers", "--tier=test", str(tmp_path))
    assert done.returncode == 4
    assert "test_it: nightly wants its reason" in done.stderr
