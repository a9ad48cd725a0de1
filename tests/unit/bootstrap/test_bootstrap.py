"""Getting Salt onto a machine, and what a person reads of a run."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from control import ssh
from control.deploy import roll

ROOT = Path(__file__).resolve().parents[3]
# A lock and the list it is made from.
LOCKS = {
    "bootstrap/salt.lock": "bootstrap/salt.in",
    "cloud/saltext-digitalocean/tests/salt-3007.lock": "cloud/saltext-digitalocean/tests/salt-3007.in",
    "requirements/audit.lock": "requirements/audit.in",
    "requirements/bench.lock": "requirements/bench.in",
    "requirements/cloud.lock": "requirements/cloud.in",
    "requirements/control.lock": "requirements/control.in",
    "requirements/docs.lock": "requirements/docs.in",
    "requirements/s3.lock": "requirements/s3.in",
    "requirements/dev.lock": "requirements/dev.in",
    "webapp/requirements.lock": "webapp/requirements.in",
    "webapp/serving.lock": "webapp/serving.in",
    "webapp/tests/sixteen/requirements.lock": "webapp/tests/sixteen/requirements.in",
    "examples/notes/requirements.lock": "examples/notes/requirements.in",
    "examples/shop/requirements.lock": "examples/shop/requirements.in",
}


# --- bootstrap/converge ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converge(load_source: Callable[..., ModuleType]) -> Any:
    return load_source("bootstrap/converge")


def result(outcome: bool | None, changes: dict[str, Any] | None = None, **more: Any) -> Any:
    return {"result": outcome, "changes": changes or {}, "comment": "", "__run_num__": 0, **more}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (result(False, {"a": 1}), "FAILED"),
        (result(None, {"a": 1}), "would change"),
        (result(True, {"a": 1}), "changed"),
        (result(True), "ok"),
    ],
)
def test_outcome_is_one_word(converge: Any, given: Any, word: str) -> None:
    assert converge.outcome(given) == word


def test_the_closing_line_counts_what_changed_and_failed(converge: Any) -> None:
    answer = {"a": result(True, {"x": 1}), "b": result(True), "c": result(True, {"x": 1})}
    assert converge.explain(answer) == "2 changed, 0 failed"
    assert converge.explain({"a": result(True)}) == "0 changed, 0 failed"


def test_failures_are_told_in_running_order_with_formula_and_reason(
    converge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {
        "a": result(False, __id__="second", __sls__="redis", comment="no\nroom", __run_num__=2),
        "b": result(False, __id__="first", __sls__="base", comment="why", __run_num__=1),
        "c": result(True, {"x": 1}, __id__="quiet", __run_num__=0),
    }
    assert converge.explain(answer) == "1 changed, 2 failed"
    said = capsys.readouterr().out
    assert "FAILED first (base):\n    why\nFAILED second (redis):\n    no\n    room\n" in said
    assert "quiet" not in said


def test_a_test_run_shows_what_would_change(
    converge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {
        "a": result(None, {"/etc/x": "-old\n+new"}, __id__="config"),
        "b": result(None, {"web": "not running"}, __id__="service", __run_num__=1),
        "c": result(None, comment="would be made", __id__="made", __run_num__=2),
    }
    assert converge.explain(answer) == "3 would change, 0 failed"
    said = capsys.readouterr().out
    assert "would change config:\n    -old\n    +new\n" in said
    assert "would change service:\n    web: not running\n" in said
    assert "would change made:\n    would be made\n" in said


def test_states_that_a_state_ran_inside_itself_are_not_counted(converge: Any) -> None:
    answer = {"a": result(True, {"x": 1}), "b": result(True, {"x": 1}, __state_ran__=True)}
    assert converge.explain(answer) == "1 changed, 0 failed"


def test_a_refused_pillar_is_told_once_and_short(
    converge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = [
        "Rendering SLS 'base:base' failed: Problem running salt function in Jinja template: the"
        " pillar is refused; nothing was changed:\npillar redis:prot: unknown key"
        "\n/var/cache/salt/x(1):\n---\nexcerpt",
        "Rendering SLS 'base:redis' failed: Problem running salt function in Jinja template: the"
        " pillar is refused; nothing was changed (reasons: see above)",
    ]
    assert converge.explain(answer) == "0 changed, 1 failed"
    assert capsys.readouterr().out == (
        "the pillar is refused; nothing was changed:\npillar redis:prot: unknown key\n"
    )


def test_a_formula_that_refuses_is_one_line(
    converge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = [
        "Rendering SLS 'base:firewalld' failed: refused: the firewall: ufw; nothing was changed;"
        " line 4\n\n---\n# The firewall\n{%- do x() %}    <====\n[...]\n---"
    ]
    assert converge.explain(answer) == "0 changed, 1 failed"
    assert capsys.readouterr().out == "refused: the firewall: ufw; nothing was changed\n"


def test_a_refusal_through_several_templates_is_one_line_once(
    converge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "Problem running salt function in Jinja template: pillar apps:b:hosts: x is a's already"
    tail = "; line 4\n\n---\n{{ name }}    <====\n---\nTraceback (most recent call last):\n  File"
    other = "Rendering SLS 'base:web' failed: Jinja error: Jinja error: 'x' is undefined"
    answer = [
        f"Rendering SLS 'base:firewalld' failed: Jinja error: Jinja error: {said}{tail}",
        f"Rendering SLS 'base:stunnel' failed: Jinja error: Jinja error: Jinja error: {said}{tail}",
        other,
    ]
    assert converge.explain(answer) == "0 changed, 1 failed"
    assert capsys.readouterr().out == (
        "pillar apps:b:hosts: x is a's already\n"
        "Rendering SLS 'base:web' failed: Jinja error: 'x' is undefined\n"
    )


def test_a_run_that_never_came_to_a_state_is_a_failure(
    converge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert converge.explain("The function is running already") == "0 changed, 1 failed"
    assert "running already" in capsys.readouterr().out


class InTurn:
    """A `salt.state.State` that notes what it runs, each time with whether only to test it."""

    def __init__(self, test: bool = False) -> None:
        self.opts = {"test": test}
        self.states = SimpleNamespace(opts={"test": test})
        self.ran: list[tuple[str, bool]] = []

    def call(self, low: dict[str, Any]) -> Any:
        only_test = self.states.opts["test"]
        self.ran.append((low["__id__"], only_test))
        if low["__id__"].startswith("clean"):
            return result(True)
        return result(None if only_test else True, {"a": 1})


def in_turn(converge: Any, monkeypatch: pytest.MonkeyPatch, said: str, test: bool = False) -> Any:
    """`(run(state's name), what ran)` on a machine that is to ask, and is told `said`."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    machine = InTurn(test)

    class State(InTurn):
        pass

    converge.change_in_turn(State, converge.Turn(is_given=False))
    return lambda name, kind="file": State.call(
        machine, {"__id__": name, "state": kind}
    ), machine.ran


def test_a_machine_asks_before_its_first_change_and_not_again(
    converge: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, ran = in_turn(converge, monkeypatch, "go\n")
    run("clean 1")
    assert capsys.readouterr().out == ""
    assert run("dirty")["changes"] == {"a": 1}
    assert capsys.readouterr().out == "waiting for its turn\n"
    run("clean 2")
    run("dirty 2")
    assert capsys.readouterr().out == ""
    assert ran == [
        ("clean 1", True),
        ("dirty", True),
        ("dirty", False),
        ("clean 2", False),
        ("dirty 2", False),
    ]


@pytest.mark.parametrize("said", ["no\n", ""])
def test_a_machine_changes_nothing_out_of_turn(
    converge: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Also where the controller went away."""
    run, ran = in_turn(converge, monkeypatch, said)
    with pytest.raises(converge.TurnDenied):
        run("dirty")
    assert ran == [("dirty", True)]


def test_a_state_that_keeps_a_record_is_run_though_nothing_changes(
    converge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ran = in_turn(converge, monkeypatch, "")
    run("clean roll", "release")
    assert ran == [("clean roll", True), ("clean roll", False)]


def test_a_trial_run_never_asks(converge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ran = in_turn(converge, monkeypatch, "", test=True)
    run("dirty")
    assert ran == [("dirty", True)]


def test_controller_and_machine_use_the_same_words(converge: Any) -> None:
    assert converge.WAITING == ssh.WAITING


def test_each_state_is_shown_as_it_ends_and_inner_ones_are_not(
    converge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class State:
        def call(self, low: dict[str, Any]) -> Any:
            if low["__id__"] == "outer":
                self.call({"__id__": "inner"})
            return result(True, {"x": 1})

        def call_chunks(self, chunks: list[dict[str, Any]]) -> None:
            for chunk in chunks:
                self.call(chunk)

    converge.report_each_state(State)
    State().call_chunks([{"__id__": "outer"}, {"__id__": "last"}])
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\s+[\d.]+s ", "", line) for line in lines] == [
        "[  1/2] outer: changed",
        "[  2/2] last: changed",
    ]


@pytest.mark.parametrize(("test", "asked"), [(False, [["outer"]]), (True, [])])
def test_packages_are_installed_once_before_the_first_state_and_in_no_dry_run(
    converge: Any, test: bool, asked: list[list[str]]
) -> None:
    seen: list[list[str]] = []

    class State:
        def __init__(self) -> None:
            self.opts = {"test": test}
            self.functions = {
                "packages.pending": list,
                "packages.missing": lambda chunks: [one["__id__"] for one in chunks],
                "packages.ahead": lambda chunks, missing: seen.append(missing),
            }

        def call_chunks(self, chunks: list[dict[str, Any]]) -> None:
            if chunks[0]["__id__"] == "outer":
                assert seen == asked
                State().call_chunks([{"__id__": "inner"}])

    converge.install_ahead(State, converge.Turn())
    State().call_chunks([{"__id__": "outer"}])
    assert seen == asked


@pytest.mark.parametrize(
    ("pending", "missing", "said", "expected"),
    [
        ([], [], "", ["ahead"]),
        (["half"], [], "go\n", ["finish", "ahead"]),
        (["half"], [], "no\n", []),
        ([], ["new"], "go\n", ["ahead"]),
        ([], ["new"], "", []),
    ],
)
def test_packages_are_finished_and_installed_in_turn(
    converge: Any,
    monkeypatch: pytest.MonkeyPatch,
    pending: list[str],
    missing: list[str],
    said: str,
    expected: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    did: list[str] = []

    class State:
        opts: ClassVar[dict[str, bool]] = {"test": False}
        functions: ClassVar[dict[str, Any]] = {
            "packages.pending": lambda: pending,
            "packages.missing": lambda chunks: missing,
            "packages.finish": lambda: did.append("finish"),
            "packages.ahead": lambda chunks, names: did.append("ahead"),
        }

        def call_chunks(self, chunks: list[dict[str, Any]]) -> None:
            pass

    converge.install_ahead(State, converge.Turn(is_given=False))
    with contextlib.suppress(converge.TurnDenied):
        State().call_chunks([])
    assert did == expected


def test_without_verbose_only_what_is_not_ok_and_what_follows_a_long_silence_is_named(
    converge: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [converge.STARTED]
    monkeypatch.setattr(converge.time, "monotonic", lambda: now[0])
    results = {
        "quiet": result(True),
        "config": result(True, {"x": 1}),
        "broken": result(False),
        "dry": result(None, {"x": 1}),
        "also quiet": result(True),
        "long": result(True),
        "after it": result(True),
    }

    class State:
        def call(self, low: dict[str, Any]) -> Any:
            now[0] += converge.SILENCE if low["__id__"] == "long" else 0.1
            return results[low["__id__"]]

        def call_chunks(self, chunks: list[dict[str, Any]]) -> None:
            for chunk in chunks:
                self.call(chunk)

    converge.report_each_state(State, verbose=False)
    State().call_chunks([{"__id__": name} for name in results])
    said = [re.sub(r"\s+[\d.]+s ", "", line) for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "[  2/7] config: changed",
        "[  3/7] broken: FAILED",
        "[  4/7] dry: would change",
        "[  6/7] long: ok (10.0 s)",
    ]


def test_a_deploy_waits_for_the_roll_that_its_killed_deployer_left(
    converge: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(converge, "LOCK", str(tmp_path / "lock"))
    first = converge.take_lock()
    assert converge.take_lock() is None, "a plain apply is told at once"
    assert converge.take_lock(0.2) is None, "and a deploy after its patience"
    said = capsys.readouterr()
    assert "an apply is running on this machine already (process " in said.err
    assert said.out.count("waiting for its end: an apply is running") == 1
    threading.Timer(0.3, first.close).start()
    with converge.take_lock(20) as mine:
        assert mine.seekable()
    assert roll.APPLYING in (ROOT / "bootstrap" / "converge").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("note", "named"),
    [
        ("process {pid}, since 12:00\n", "process {pid}, since 12:00"),
        ("process 1, since 12:00\n", "process {pid}"),
        ("\x1b]0;owned\x07", "process {pid}"),
    ],
)
def test_only_the_process_that_holds_the_lock_of_applies_is_named(
    converge: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    note: str,
    named: str,
) -> None:
    """A note that is false, or of a process that is gone, sends nobody after the wrong one."""
    lock = tmp_path / "stack" / "apply.lock"
    monkeypatch.setattr(converge, "LOCK", str(lock))
    with converge.take_lock():
        assert lock.parent.stat().st_mode & 0o777 == 0o700, "the first apply makes its folder"
    holder = f"import fcntl, time; f = open({str(lock)!r}); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            pid = str(process.pid)
            lock.write_text(note.replace("{pid}", pid))
            assert converge.take_lock() is None
            said = capsys.readouterr().err
            wanted = named.replace("{pid}", pid)
            assert said == f"an apply is running on this machine already ({wanted})\n"
            told = subprocess.run(
                ["sh", "-c", roll._APPLIER.replace(roll.APPLYING, str(lock))],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert told.strip() == (wanted if ", since" in wanted else "process unknown")
        finally:
            process.kill()


def test_locks_lie_where_only_root_enters() -> None:
    """Who can open a file can hold its lock, and with it every apply, deploy, backup or restore."""
    found = set()
    for path in ROOT.glob("[bcls]*/**/*"):
        if path.is_file() and path.parts[len(ROOT.parts)] in {
            "bootstrap",
            "control",
            "lab",
            "salt",
        }:
            with contextlib.suppress(UnicodeDecodeError):
                text = path.read_text(encoding="utf-8")
                found |= set(re.findall(r"/(?:run|tmp|var)/[\w./-]*lock\b", text))
    packages = {"/var/lib/apt/daily_lock"}
    assert found - packages == {"/run/stack/apply.lock", "/run/stack/deploy.lock"}


# --- bootstrap.sh ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> Iterator[Path]:
    """A copy that any account can read."""
    folder = Path(tempfile.mkdtemp(prefix="bootstrap-"))
    folder.chmod(0o755)
    shutil.copy(ROOT / "bootstrap" / "bootstrap.sh", folder)
    (folder / "bootstrap.sh").chmod(0o755)
    yield folder / "bootstrap.sh"
    shutil.rmtree(folder)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, cwd="/")


def test_help_says_how_to_call_it(script: Path) -> None:
    done = run(str(script), "--help")
    assert done.returncode == 0
    assert "bootstrap.sh [--wheels DIR]" in done.stdout
    assert not re.search(r"(?m)^#|^set ", done.stdout), "the comment signs or the code are shown"


@pytest.mark.parametrize("words", [["--banana"], ["extra"], ["--wheels"]])
def test_an_unknown_argument_is_refused_before_anything_happens(
    script: Path, words: list[str]
) -> None:
    done = run(str(script), *words)
    assert done.returncode == 1
    assert done.stderr.startswith("bootstrap: ")
    assert words[0] in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_root_it_says_so(script: Path) -> None:
    command = [str(script)]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("run as root, and there is no setpriv to become somebody else")
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    done = run(*command)
    assert done.returncode == 1
    assert done.stderr == f"bootstrap: must run as root: try 'sudo {script}'\n"


@pytest.mark.parametrize(
    ("release", "python", "said"),
    [
        (
            'PRETTY_NAME="Fedora Linux 43"\nVERSION_CODENAME=""\n',
            "true",
            "Fedora Linux 43 is not supported, nothing was changed; there are states for Debian 12, Debian 13,"
            " Ubuntu 22.04, Ubuntu 24.04, Ubuntu 26.04",
        ),
        ('PRETTY_NAME="Debian sid"\n', "true", "Debian sid is not supported"),
        (
            'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nVERSION_CODENAME=jammy\n',
            '[ "$1" != -V ] || echo Python 3.10.12; [ "$1" = -V ]',
            "Python 3.10.12 is too old, nothing was changed: Salt 3008.5 needs 3.11 or later",
        ),
    ],
)
def test_a_system_that_is_not_supported_is_refused_in_one_line(
    tmp_path: Path, release: str, python: str, said: str
) -> None:
    """The script itself, told of another system and that it is root."""
    for part in ("bootstrap", "salt", "bin"):
        (tmp_path / part).mkdir()
    (tmp_path / "os-release").write_text(release)
    text = (ROOT / "bootstrap" / "bootstrap.sh").read_text(encoding="utf-8")
    for path, ours in (("/etc/os-release", "os-release"), ("/usr/bin/python3", "bin/python3")):
        assert path in text
        text = text.replace(path, str(tmp_path / ours))
    # Nobody gets further than what is tested.
    before, marker, _ = text.partition("# The environment is named by all that makes it")
    assert marker
    (tmp_path / "bootstrap" / "bootstrap.sh").write_text(f"{before}exit 99\n")
    shutil.copy(ROOT / "bootstrap" / "salt.lock", tmp_path / "bootstrap")
    shutil.copy(ROOT / "salt" / "systems.yaml", tmp_path / "salt")
    for name, body in (("python3", python), ("id", "echo 0"), ("apt-get", "exit 98")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run(
        ["sh", str(tmp_path / "bootstrap" / "bootstrap.sh")],
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith(f"bootstrap: {said}"), done
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_shell_scripts_are_shell() -> None:
    for path in [ROOT / "bootstrap" / "bootstrap.sh", *(ROOT / "lab").iterdir()]:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        if path.suffix == ".rb":
            continue
        shell = "bash" if "bash" in first else "sh"
        done = run(shell, "-n", str(path))
        assert done.returncode == 0, f"{path}: {done.stderr}"


# --- locks ----------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, str]:
    """`{package: the pin's whole block}`."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8"))
    found = {}
    for block in blocks[1:]:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", block)
        assert match, f"{lock.name}: not a pin: {block.splitlines()[0]}"
        found[canonical(match[1])] = block
    return found


def wanted(path: Path) -> Iterator[str]:
    """Requirements of a list and of those it includes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split(" #")[0].strip()
        if line.startswith("-r "):
            yield from wanted(path.parent / line[3:])
        elif line and not line.startswith(("#", "-")):
            yield line


def test_every_lock_of_the_project_is_looked_at() -> None:
    there = {
        str(path.relative_to(ROOT))
        for pattern in (
            "*.lock",
            "*/*.lock",
            "cloud/*/*/*.lock",
            "examples/*/*.lock",
            "webapp/tests/*/*.lock",
        )
        for path in ROOT.glob(pattern)
        if not path.relative_to(ROOT).parts[0].startswith(".")
    }
    # Debian packages of the container images, in a form of their own.
    assert there - {"containers/trixie.lock"} == set(LOCKS)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    found = pins(ROOT / lock)
    assert found
    for name, block in found.items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), f"{lock}: {name}"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_no_path_of_who_made_it(lock: str) -> None:
    for number, line in enumerate((ROOT / lock).read_text(encoding="utf-8").splitlines(), 1):
        where = f"{lock}:{number}: {line}"
        assert "://" not in line, where
        assert not re.match(r"\s*(-i|-f|-e|--(extra-)?index|--find|--trusted)", line), where
        assert not re.search(r"(^|[\s=@])/[a-z]", line), where


@pytest.mark.parametrize(("lock", "source"), LOCKS.items())
def test_a_lock_holds_everything_that_its_list_asks_for(lock: str, source: str) -> None:
    found = pins(ROOT / lock)
    asked = list(wanted(ROOT / source))
    assert asked
    for requirement in asked:
        match = re.match(r"([A-Za-z0-9._-]+)", requirement)
        assert match, requirement
        assert canonical(match[1]) in found, f"{lock} lacks {requirement}: run 'make lock'"
        exact = re.search(r"==([0-9][^\s;]*)", requirement)
        if exact:
            assert f"=={exact[1]}" in found[canonical(match[1])].split("--hash")[0], requirement


def test_no_machine_gets_what_the_overrides_leave_out() -> None:
    text = (ROOT / "bootstrap" / "overrides.txt").read_text(encoding="utf-8")
    left_out = re.findall(r'(?m)^([A-Za-z0-9._-]+) ; python_version < "3"$', text)
    assert left_out
    assert {canonical(name) for name in left_out} & set(pins(ROOT / "bootstrap/salt.lock")) == set()
