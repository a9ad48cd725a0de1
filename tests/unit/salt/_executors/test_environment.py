"""What the caller's computer or login happens to have set changes nothing of what the commands do."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.conftest import prepare

ROOT = Path(__file__).resolve().parents[4]


def run(words: list[str], given: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    """A command with umask 077 beside what is given."""
    line = f"umask 077; exec {shlex.join(words)}"
    return subprocess.run(
        ["/bin/sh", "-c", line],
        env=given, capture_output=True, text=True, check=False, timeout=120, **{"cwd": ROOT, **more},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["make", "-s", "url", "TOPOLOGY=prod"], 0, "https://192.168.56.20/\n"),
        (["make", "-s", "apply", "TOPOLOGY=prd"], 2, "apply: TOPOLOGY=prd: no such topology"),
        (["tools/release_notes.py"], 0, ""),
        (["bootstrap/bootstrap.sh", "--help"], 0, "bootstrap.sh [--wheels DIR]"),
    ],
)
def test_commands_do_the_same_in_a_hostile_environment(
    hostile: dict[str, str], words: list[str], code: int, said: str
) -> None:
    done = run(words, hostile)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr


def test_converge_starts_in_a_hostile_environment(hostile: dict[str, str], tmp_path: Path) -> None:
    """By its own first line, with this Python instead of a machine's."""
    for folder in ("bootstrap", "salt/_utils"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    converge = tmp_path / "bootstrap/converge"
    first = converge.read_text(encoding="utf-8").splitlines()[0]
    command = [sys.executable, *first.split()[1:], str(converge), "--help"]
    done = run(command, hostile)
    assert done.returncode == 0, done.stderr
    assert "converge [ARGUMENT…]" in done.stdout


def test_make_gives_what_it_runs_a_known_umask_and_locale(
    hostile: dict[str, str], tmp_path: Path
) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").split("# --- for people")[0]
    (tmp_path / "lab").mkdir()
    shutil.copy(ROOT / "lab" / "shell", tmp_path / "lab")
    (tmp_path / "Makefile").write_text(f'{makefile}\nshow:\n\t@umask; env; echo "it\'s $$HOME"\n')
    done = run(["make", "-s", "show"], hostile, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "0022"
    assert "LC_ALL=C.UTF-8" in said
    assert f"it's {hostile['HOME']}" in said
    names = {line.partition("=")[0] for line in said}
    assert not {name for name in names if name.startswith(("PYTHON", "GIT_"))}
    assert not names & {"CDPATH", "BASH_ENV", "POSIXLY_CORRECT", "LANGUAGE"}
    assert "http_proxy" in names, "packages may be reachable through it alone"


# --- one place for the controller and for every run of Salt ----------------------------------------


@pytest.fixture
def executor(load_source: Callable[..., ModuleType]) -> Any:
    return load_source("salt/_executors/environment.py")


def test_only_what_is_meant_for_this_project_is_kept(
    executor: Any, hostile: dict[str, str]
) -> None:
    given = {**hostile, "PIP_INDEX_URL": "x", "TOPOLOGY": "dev", "no_proxy": "a.test,127.0.0.1"}
    before = os.umask(0o077)
    try:
        executor.settle(given, ["10.0.0.2"])
        assert os.umask(0o077) == 0o022
    finally:
        os.umask(before)
    assert given["no_proxy"] == given["NO_PROXY"] == "a.test,127.0.0.1,localhost,::1,10.0.0.2"
    assert given["LC_ALL"] == "C.UTF-8"
    proxies = {"http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
    assert set(given) == {
        *proxies, *("PATH", "HOME", "PIP_INDEX_URL", "TOPOLOGY"),
        *("LANG", "LC_ALL", "no_proxy", "NO_PROXY"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "arguments", "finished"),
    [
        ("state.apply", {}, True),
        ("state.sls", {"mods": "redis"}, True),
        ("state.apply", {"test": True}, False),
        ("state.show_sls", {}, False),
        ("test.ping", {}, False),
    ],
)
def test_interrupted_packages_are_finished_before_states_and_only_then(
    load_source: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    arguments: dict[str, Any],
    finished: bool,
) -> None:
    calls: list[str] = []
    salt = {"packages.finish": lambda: calls.append("finish")}
    module: Any = load_source("salt/_executors/environment.py", salt=salt)
    monkeypatch.setattr(module, "settle", lambda environ, addresses: calls.append("settle"))
    answer = module.execute({"pillar": {}}, {"fun": function}, None, [], arguments)
    assert answer is None, "Salt goes on to the executor that runs the function"
    assert calls == ["settle", *(["finish"] if finished else [])]


def test_a_bare_salt_call_has_the_umask_and_the_proxies_of_every_run(
    hostile: dict[str, str], tmp_path: Path
) -> None:
    """By Salt itself, started as bootstrap.sh has it started."""
    options = prepare(tmp_path / "tree", {"topology": "dev", "name": "dev", "release": "1"})
    wrapper = (ROOT / "bootstrap/bootstrap.sh").read_text(encoding="utf-8")
    assert "exec %s/bin/python -EX utf8 %s/bin/%s" in wrapper
    salt_call = Path(sys.executable).with_name("salt-call")
    words = [sys.executable, "-EX", "utf8", str(salt_call), "--config-dir", str(options.parent)]
    show = "umask; echo $no_proxy; echo ${http_proxy:-none}; echo ${PYTHONHOME:-none}"
    done = run(
        [*words, "--local", "cmd.run", show, "python_shell=true"],
        hostile,
        cwd=tmp_path / "tree",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, umask, direct, proxy, home = done.stdout.split()
    assert (umask, proxy, home) == ("0022", "http://127.0.0.1:1", "none")
    assert {"localhost", "127.0.0.1", "192.168.56.10"} <= set(direct.split(","))
