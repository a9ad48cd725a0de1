"""Nothing that a machine, a store or a file says is obeyed by the operator's terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control import backups, local_state, releases, ssh, terminal, topology
from control.commands import releases as releases_command
from control.deploy import lock
from control.errors import ControlError
from control.options import Options
from control.terminal import printable

DEV = topology.load("dev")
# Each with what a terminal would do: write to the clipboard, clear, erase, end a line, reverse one.
EVIL = "\x1b]52;c;eA==\x07 \x9b2J \r\x1b[K \x7f \u2028 \u202e \x85 \x0b \ud800 \x00"


class Source(io.BytesIO):
    """What comes in pieces of these sizes, the last one first, then the rest."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        super().__init__(data)
        self.cuts = cuts

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self.cuts.pop() if self.cuts else -1)


def controls(text: str) -> list[str]:
    return [one for one in text if not one.isprintable() and one != "\n"]


@given(st.binary(max_size=80), st.lists(st.integers(1, 9), max_size=20))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_any_bytes_are_shown_as_text_however_they_come(data: bytes, cuts: list[int]) -> None:
    lines = list(terminal.pieces(Source(data, cuts), terminal=False))
    assert controls("".join(lines)) == []
    assert all(one.count("\n") == one.endswith("\n") for one in lines)
    assert "".join(lines).count("\n") == data.count(b"\n")


@given(st.binary(max_size=80), st.lists(st.integers(1, 9), max_size=20))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_a_terminal_obeys_colours_and_an_erased_line_alone(data: bytes, cuts: list[int]) -> None:
    said = "".join(terminal.pieces(Source(data, cuts), terminal=True))
    assert controls(terminal._OBEYED.sub("", said)) == []
    ours = "\r\x1b[K[1/2] running …\r\x1b[K\x1b[31;1mé\x1b[0m\r\n"
    cuts[:] = [1] * 100
    assert "".join(terminal.pieces(Source(ours.encode(), []), terminal=True)) == ours


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Instead of ssh, a program that says what a hostile machine might."""

    def says(text: str, code: int = 0) -> None:
        said = tmp_path / "said"
        said.write_bytes(text.encode("utf-8", "surrogatepass"))
        script = f"cat {said}; cat {said} >&2; exit {code}"
        monkeypatch.setattr(ssh, "command_line", lambda *_, **__: ["sh", "-c", script])

    return says


@pytest.mark.parametrize("label", ["", "app1  "])
def test_what_a_machine_says_while_it_is_watched_is_text(
    machine: Any, capfd: pytest.CaptureFixture[str], label: str
) -> None:
    machine(f"{EVIL}\nnext\n")
    assert ssh.stream(DEV, "dev", "x", label) == 0
    lines = capfd.readouterr().out.splitlines(keepends=True)
    assert controls("".join(lines)) == []
    assert len(lines) == 4
    assert all(one.startswith(label) for one in lines)


def test_a_failure_is_quoted_as_text_and_its_further_lines_are_indented(machine: Any) -> None:
    machine(f"{EVIL}\rdev: all is well\n", 1)
    with pytest.raises(ControlError) as caught:
        ssh.run(DEV, "dev", "x")
    assert all(one.startswith("  ") for one in str(caught.value).splitlines()[1:])


PROGRAM = """
    import os, sys
    sys.path.insert(0, {root!r})
    from control import __main__, command
    from control.errors import UserError
    def fail(*_):
        print({evil!r})
        print({evil!r}, file=sys.stderr)
        raise UserError({evil!r})
    __main__.PROGRAM.add_command(command.make_command("url", fail))
    sys.argv = ["control", "url"]
    sys.exit(__main__.main())
"""


@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_every_word_of_the_controller_passes_one_mouth(root: Path, locale: str) -> None:
    """On a terminal as in a file: what is printed, and what is refused."""
    program = textwrap.dedent(PROGRAM.format(root=str(root), evil=EVIL))
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        check=False,
        timeout=300,
        env={**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "TOPOLOGY": "dev"},
    )
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        said = file.read1(65536)  # type: ignore[attr-defined]
    text = said.decode().replace("\r\n", "\n")
    assert controls(text) == []
    assert text.count("\n") == 3
    assert text.count("\\x1b]52;c;eA==\\x07") == 3


def test_no_answer_of_a_machine_is_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Who holds a lock, which releases are there, what a backup is called."""
    forged = "1\n==> dev: all is well"
    held = lock._describe_holder(json.dumps(dict.fromkeys(("who", "why", "what", "when"), forged)))
    assert "\n" not in held + lock._describe_holder(forged)
    answers = {
        "history": json.dumps({"history": [{"version": forged}]}),
        "overview": json.dumps(
            {"local": {"running": {"1": forged}, "installed": [forged], "history": []}}
        ),
    }

    def run(where: Any, host: str, command: str) -> str:
        return answers["overview" if "release.overview" in command else "history"]

    monkeypatch.setattr(ssh, "run", run)
    monkeypatch.setattr(local_state, "is_up", lambda _: True)
    monkeypatch.setenv("ARTIFACT_STORE", str(tmp_path))
    # Never a name of a file here either.
    for version in (forged, "../../etc/passwd", 7):
        answers["history"] = json.dumps({"history": [{"version": version}]})
        with pytest.raises(ControlError, match="is damaged"):
            releases.read_current(DEV, "dev")
    assert releases_command.run(DEV, Options.read()) == 0
    assert "\n==>" not in capsys.readouterr().out


def test_a_restore_is_shown_as_text(
    machine: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    machine(f"{EVIL}\n")
    for name, value in {"YES": "1", "IDENTITY": "", "VERSION": "", "HOST": "", "TEST": ""}.items():
        monkeypatch.setenv(name, value)
    backups.restore(DEV, "dev", Options.read())
    out = capfd.readouterr().out
    assert (controls(out), len(out.splitlines())) == ([], 2)


def test_an_apply_writes_over_its_own_line_and_obeys_nothing_else(
    load_source: Callable[..., ModuleType],
) -> None:
    """A unit's last words are quoted in a failure; what says which state runs begins anew."""
    converge = load_source("bootstrap/converge")
    raw = io.BytesIO()
    stream = converge.Printable(raw, "utf-8", "backslashreplace", line_buffering=True)
    stream.write(f"{converge.ANEW}[1/2] running\n")
    stream.write(f"FAILED it {EVIL}{converge.ANEW}dev: all is well\n")
    own, text, _ = raw.getvalue().decode().split("\n")
    assert own == f"{converge.ANEW}[1/2] running"
    assert controls(text) == []


def test_whoever_writes_where_backups_go_writes_no_line_to_the_terminal(
    load_source: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    program: Any = load_source("salt/backup/files/stack-backup")
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "x\x1b]52;c;eA==\x07\nrestored: count 1.json").write_text("{}")
    (folder / b"\xff.json".decode("utf-8", "surrogateescape")).write_text("{}")
    name = "dev-20260101T000000Z"
    note = {"name": name, "time": 1, "size": 1, "sha256": "", "plain_sha256": "", "count": None}
    (folder / f"{name}.json").write_text(json.dumps({**note, "redis": EVIL, EVIL: EVIL}))
    monkeypatch.setattr(program, "SCRATCH", tmp_path)
    where = {"name": "dev", "directory": str(folder), "s3": {"bucket": None}}
    monkeypatch.setattr(program, "load", lambda _: where)
    out, err = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(one, "utf-8") for one in (out, err)]
    for words in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["stack-backup", "list", *words])
        for kind, stream in zip(("stdout", "stderr"), streams, strict=True):
            monkeypatch.setattr(sys, kind, stream)
        before = os.umask(0o022)
        try:
            assert program.main() == 0
        finally:
            os.umask(before)
        sys.stdout.flush()
    texts = [one.getvalue().decode() for one in (out, err)]
    assert controls("".join(texts)) == []
    *_, listed = texts[0].splitlines()
    assert json.loads(listed)[0]["redis"] == EVIL
    assert all("left out" in one for one in texts[1].splitlines())


def test_a_page_makes_text_of_whatever_a_label_holds(root: Path) -> None:
    """The pages put labels into nodes of text and attributes, never into HTML."""
    script = (root / "salt/prometheus/files/assets/stack.js").read_text()
    made_html = r"(?i)(inner|outer|adjacent)HTML|document\.write|\beval\b|srcdoc|safeHtml"
    assert not re.search(made_html, script)
    assert not re.search(r'"on\w+":|javascript:', script)


def test_every_program_escapes_the_same(root: Path, load_source: Callable[..., ModuleType]) -> None:
    """Each has its own function: central-logs and stack-backup run where there is no tree."""
    logs = load_source("salt/rsyslog/files/central-logs")
    report = load_source("salt/_modules/report.py")
    every = "".join(chr(number) for number in range(0x3000)) + "\ud800\ufeff\U000e0001é漢😀"
    wanted = printable(every)
    assert wanted.isprintable()
    assert logs.printable(every) == wanted
    for one in every:
        if not one.isspace() and one not in "\x1c\x1d\x1e\x85\u2028\u2029":
            assert report._last(one) == printable(one).strip()


def test_no_command_of_the_controller_waits_in_a_pager(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal, `make backup` waited for a key where a line of the journal was longer than that is wide."""
    asked: list[str] = []
    monkeypatch.setattr(ssh, "stream", lambda *words, **_: asked.append(words[2]) or 0)
    backups.take(DEV, "dev")
    (command,) = asked
    assert re.search(r"journalctl -q --no-pager -o cat _SYSTEMD_INVOCATION_ID", command)
