"""checked.files and checked.service: no configuration goes live unchecked, and all or nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.conftest import functions

HAS_ANALYZE = bool(shutil.which("systemd-analyze"))
UNIT = """\
[Unit]
Description=nothing
[Service]
ExecStart=/bin/true
"""


@pytest.fixture
def checked(
    load_source: Callable[..., ModuleType],
    systemd: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """`module`, `state`, and `service`/`files` that run the state on paths under tmp_path."""
    file_set = load_source("salt/_modules/file_set.py")
    utils = file_set.__utils__
    unit_module = load_source("salt/_modules/units.py", utils=utils)
    unit_module.STAMPS = str(tmp_path / "stamps")  # type: ignore[attr-defined]
    units = tmp_path / "units"
    units.mkdir()
    for name in ("_UNIT", "_DROPIN"):
        pattern = getattr(unit_module, name).pattern
        pattern = pattern.replace(unit_module._UNITS, re.escape(str(units)))
        setattr(unit_module, name, re.compile(pattern))
    unit_module._UNITS = str(units)  # type: ignore[attr-defined]
    unit_module.systemctl = systemd  # type: ignore[attr-defined]
    salt = functions(file_set=file_set, units=unit_module)
    module = load_source("salt/_modules/checked.py", salt=salt, utils=utils)
    # Staging folders, where a test can see whether any is left.
    staging = tmp_path / "staging"
    staging.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(staging))
    source = tmp_path / "tree"
    source.mkdir()

    def cache_file(name: str) -> str:
        path = source / name.removeprefix("salt://")
        return str(path) if path.exists() else ""

    def file(name: str) -> str:
        found = cache_file(name)
        if not found:
            raise CommandExecutionError(f"{name} is not in the tree")
        return found

    salt.update({"cp.cache_file": cache_file, "tree.file": file})
    ready: list[int] = []

    def is_ready(command: str) -> str | None:
        return f"{command}: no" if ready and ready.pop(0) else None

    salt |= functions(checked=module) | {
        "units.systemctl": systemd,
        "units.last_words": lambda unit: "last words",
        "checked.ready": is_ready,
    }
    state = load_source("salt/_states/checked.py", low={}, lowstate=(), running={}, salt=salt)

    def renew(path: Path, text: str) -> None:
        """What an earlier state of a new run writes."""
        file_set.__context__.clear()
        file_set.remember({str(path): utils["atomic_file.write"](str(path), text, mode=0o600)})

    return SimpleNamespace(
        module=module,
        state=state,
        files=state.files,
        service=state.service,
        staging=staging,
        units=units,
        unit_module=unit_module,
        tree=source,
        ready=ready,
        file_set=file_set,
        utils=utils,
        renew=renew,
        test=lambda on: state.__opts__.update(test=on),
    )


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder / "app.conf"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".stack-new" in path.name]


# --- checked.files --------------------------------------------------------------------------------


def test_services_at_rest_are_asked_about_together_until_something_changes(
    checked: Any, systemd: Any
) -> None:
    asked: list[list[str]] = []
    one_by_one: list[str] = []

    def at_rest(units: list[str]) -> list[str]:
        asked.append(units)
        return [unit for unit in units if unit in systemd.active & systemd.enabled]

    def systemctl(*words: str, timeout: int = 0) -> tuple[int, str]:
        one_by_one.append(words[-1])
        return systemd(*words)  # type: ignore[no-any-return]

    checked.state.__salt__.update({"units.at_rest": at_rest, "units.systemctl": systemctl})
    checked.state.__lowstate__ = [
        {"state": "checked", "fun": "service", "name": name} for name in ("a", "b")
    ]
    systemd.active |= {"a", "b"}
    systemd.enabled |= {"a", "b"}
    for name in ("a", "b"):
        assert checked.service(name)["changes"] == {}
    assert (asked, one_by_one) == ([["a", "b"]], [])
    # Whatever it was, it may have stopped one of them.
    systemd.active.remove("b")
    checked.state.__running__ = {"x": {"changes": {"x": "y"}}}
    assert checked.service("b")["changes"] == {"b": "started"}
    assert "b" in one_by_one
    checked.state.__running__ = {}
    checked.state.__context__.clear()
    systemd.enabled.remove("a")
    assert checked.service("a")["changes"] == {"a at boot": "enabled"}, "one that is not is asked"


def test_a_trial_run_says_that_a_service_would_be_enabled(checked: Any, systemd: Any) -> None:
    """A machine that has to wait for its turn asks by a trial (bootstrap/converge)."""
    systemd.active.add("app")
    checked.test(True)
    done = checked.service("app")
    assert (done["result"], done["changes"]) == (None, {"app at boot": "would be enabled"})


def test_what_systemd_says_of_many_units_is_read_in_their_order(
    checked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "a": "ActiveState=active\nUnitFileState=enabled",
        "b": "ActiveState=active\nUnitFileState=disabled",
        "c": "ActiveState=failed\nUnitFileState=enabled",
    }
    monkeypatch.setattr(
        checked.unit_module,
        "systemctl",
        lambda *words, **_: (0, "\n\n".join(said[unit] for unit in words[4:])),
    )
    assert checked.unit_module.at_rest(["c", "b", "a"]) == ["a"]


def test_a_passing_check_swaps_the_file_in(checked: Any, conf: Path, me: dict[str, str]) -> None:
    spec = {"contents": "good\n", "mode": "0640", **me}
    ret = checked.files("x", {str(conf): spec}, checks=[f"grep -q good {{staged}}{conf}"])
    assert (ret["result"], ret["changes"]) == (True, {str(conf): "new"})
    assert conf.read_text() == "good\n"
    assert stat.S_IMODE(conf.stat().st_mode) == 0o640
    assert (conf.stat().st_uid, conf.stat().st_gid) == (os.geteuid(), os.getegid())
    assert leftovers(conf.parent) == []


def test_a_failing_check_changes_nothing_and_its_words_are_in_the_comment(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    conf.write_text("old\n")
    ret = checked.files(
        "x",
        {str(conf): {"contents": "bad\n", **me}},
        checks=[f"grep -q bad {{staged}}{conf}", f"ls {{staged}}{conf} {{staged}}/absent-word"],
    )
    assert ret["result"] is False
    assert ret["changes"] == {}
    assert "nothing was changed" in ret["comment"]
    assert "absent-word" in ret["comment"]
    assert str(checked.staging) not in ret["comment"], "the staging path says nothing to a person"
    assert conf.read_text() == "old\n"


def test_a_silent_refusal_still_says_which_check_it_was(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    ret = checked.files("x", {str(conf): {"contents": "bad\n", **me}}, checks=["false"])
    assert ret["result"] is False
    assert "false: exit code 1" in ret["comment"]
    assert not conf.exists()


def test_a_second_run_changes_nothing_and_runs_no_check(
    checked: Any, conf: Path, me: dict[str, str], tmp_path: Path
) -> None:
    files = {str(conf): {"contents": "good\n", **me}}
    checks = [f"touch {tmp_path}/ran"]
    assert checked.files("x", files, checks=checks)["changes"]
    (tmp_path / "ran").unlink()
    before = conf.stat()
    ret = checked.files("x", files, checks=checks)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert not (tmp_path / "ran").exists()
    assert (conf.stat().st_ino, conf.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_mode_that_was_changed_by_hand_is_put_right(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    files = {str(conf): {"contents": "good\n", "mode": "0600", **me}}
    checked.files("x", files)
    conf.chmod(0o644)
    ret = checked.files("x", files)
    assert "owner or mode" in ret["changes"][str(conf)]
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600


def test_an_account_that_does_not_exist_is_refused_before_anything_changes(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    first = conf.with_name("a.conf")
    spec = {"contents": "x", **me}
    ret = checked.files("x", {str(first): spec, str(conf): {**spec, "user": "no-such-user-here"}})
    assert ret["result"] is False
    assert "no-such-user-here" in ret["comment"]
    assert list(conf.parent.iterdir()) == []


def test_files_that_are_not_managed_any_more_are_removed(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    old, other = conf.with_name("old.conf"), conf.with_name("kept.txt")
    old.write_text("x")
    other.write_text("x")
    spec = {str(conf): {"contents": "good\n", **me}}
    ret = checked.files("x", spec, clean=[f"{conf.parent}/*.conf"])
    assert "removed" in ret["changes"][str(old)]
    assert sorted(path.name for path in conf.parent.iterdir()) == ["app.conf", "kept.txt"]


def test_a_secret_is_never_in_changes_or_comment(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    conf.write_text("old-hidden\n")
    ret = checked.files("x", {str(conf): {"contents": "new-hidden\n", "secret": True, **me}})
    assert ret["changes"]
    assert "hidden" not in json.dumps(ret)
    assert conf.read_text() == "new-hidden\n"


def test_what_is_no_secret_is_shown_as_a_diff(checked: Any, conf: Path, me: dict[str, str]) -> None:
    conf.write_text("a\nold\n")
    ret = checked.files("x", {str(conf): {"contents": "a\nnew\n", **me}})
    assert "-old\n+new" in ret["changes"][str(conf)]


def test_test_mode_changes_nothing_and_says_what_it_would(
    checked: Any, conf: Path, me: dict[str, str], systemd: Any, tmp_path: Path
) -> None:
    checked.test(True)
    files = {str(conf): {"contents": "good\n", **me}}
    ret = checked.files("x", files, checks=[f"touch {tmp_path}/ran"])
    assert (ret["result"], ret["changes"]) == (None, {str(conf): "new"})
    assert checked.service("app", files)["result"] is None
    assert not conf.exists()
    # The same check as in earnest, of what it would change.
    assert (tmp_path / "ran").exists()
    assert systemd.commands == []
    assert not (tmp_path / "stamps").exists()


@pytest.mark.parametrize(
    "spec",
    [{}, {"source": "salt://a", "contents": "b"}, {"contents": "a", "moode": "0644"}],
    ids=["neither", "both", "misspelt"],
)
def test_a_file_that_is_described_wrongly_is_refused_with_its_path(
    checked: Any, conf: Path, spec: dict[str, str]
) -> None:
    ret = checked.files("x", {str(conf): spec})
    assert ret["result"] is False
    assert str(conf) in ret["comment"]
    assert not conf.exists()


def test_a_source_that_is_not_in_the_tree_is_refused(checked: Any, conf: Path) -> None:
    ret = checked.files("x", {str(conf): {"source": "salt://no/such"}})
    assert ret["result"] is False
    assert "salt://no/such" in ret["comment"]


# --- the check itself -----------------------------------------------------------------------------


def test_a_check_sees_a_private_staging_folder_that_is_gone_afterwards(
    checked: Any, conf: Path, me: dict[str, str], tmp_path: Path
) -> None:
    files = {str(conf): {"contents": "good\n", "mode": "0640", **me}}
    note = tmp_path / "note"
    script = tmp_path / "look"
    script.write_text(f'stat -c %a "$1" > {note}; stat -c %a "$1{conf}" >> {note}; exit $2\n')
    for code in "01":
        conf.unlink(missing_ok=True)
        checked.files("x", files, checks=[f"sh {script} {{staged}} {code}"])
        assert note.read_text().split() == ["700", "640"]
        assert list(checked.staging.iterdir()) == []


def test_a_check_that_does_not_exist_is_a_refusal(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    files = {str(conf): {"contents": "good\n", **me}}
    for command in ("no-such-program-here -c", "salt://no/such/check {staged}"):
        ret = checked.files("x", files, checks=[command])
        assert ret["result"] is False
        assert command.split()[0] in ret["comment"]
        assert not conf.exists()
        assert list(checked.staging.iterdir()) == []


def test_a_check_of_the_tree_is_run_as_a_script(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    (checked.tree / "check").write_text(f'#!/bin/sh\ngrep -q good "$1{conf}"\n')
    files = {str(conf): {"contents": "good\n", **me}}
    assert checked.files("x", files, checks=["salt://check {staged}"])["result"] is True
    files = {str(conf): {"contents": "bad\n", **me}}
    assert checked.files("x", files, checks=["salt://check {staged}"])["result"] is False


def test_a_hanging_check_is_a_refusal(checked: Any, conf: Path, me: dict[str, str]) -> None:
    checked.module._CHECK_TIMEOUT = 0.2
    ret = checked.files("x", {str(conf): {"contents": "x", **me}}, checks=["sleep 60"])
    assert ret["result"] is False
    assert "no answer within 0.2 s" in ret["comment"]
    assert not conf.exists()
    assert list(checked.staging.iterdir()) == []


def test_no_room_for_staging_is_a_refusal_without_a_traceback(
    checked: Any, conf: Path, me: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(checked.utils, "atomic_file.create", full)
    ret = checked.files("x", {str(conf): {"contents": "x", **me}}, checks=["true"])
    assert ret["result"] is False
    assert "No space left" in ret["comment"]
    assert list(checked.staging.iterdir()) == []


def test_a_symlinked_path_is_replaced_by_the_file_and_its_target_is_left(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    target = conf.with_name("elsewhere")
    target.write_text("theirs\n")
    conf.symlink_to(target)
    files = {str(conf): {"contents": "ours\n", **me}}
    checks = [f"grep -q ours {{staged}}{conf}"]
    assert checked.files("x", files, checks=checks)["result"] is True
    assert not conf.is_symlink()
    assert (conf.read_text(), target.read_text()) == ("ours\n", "theirs\n")
    assert checked.files("x", files, checks=checks)["changes"] == {}


def test_a_link_that_is_put_there_at_the_last_moment_is_not_followed(
    checked: Any, conf: Path, me: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who owns the folder: root would write where it leads."""
    target, unlink = conf.with_name("elsewhere"), os.unlink
    target.write_text("theirs\n")

    def raced(path: str, *words: Any, **more: Any) -> None:
        unlink(path, *words, **more)
        if path == f"{conf}.stack-new" and not os.path.lexists(path):
            os.symlink(target, path)

    monkeypatch.setattr(os, "unlink", raced)
    Path(f"{conf}.stack-new").write_text("of a run that was killed")
    done = checked.files("x", {str(conf): {"contents": "ours\n", **me}}, checks=["true"])
    assert done["result"] is False
    assert target.read_text() == "theirs\n"


# --- all or nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["write", "rename", "remove"])
def test_a_failure_in_the_middle_of_the_swap_leaves_everything_as_before(
    checked: Any, conf: Path, me: dict[str, str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    first, second, third = (conf.with_name(f"{n}.conf") for n in "abc")
    stray = conf.with_name("stray.old")
    first.write_text("was\n")
    first.chmod(0o604)
    stray.write_text("stray\n")
    stage = checked.utils["atomic_file.stage"]

    def failing(real: Callable[..., Any], path_of: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if str(args[0]).startswith(path_of) and conf.parent.as_posix() in str(args[0]):
                raise OSError(28, "No space left on device")
            return real(*args, **more)

        return call

    if where == "write":
        monkeypatch.setitem(checked.utils, "atomic_file.stage", failing(stage, str(second)))
    elif where == "rename":
        monkeypatch.setattr(os, "rename", failing(os.rename, str(second)))
    else:
        monkeypatch.setattr(os, "unlink", failing(os.unlink, str(stray)))
    files = {str(path): {"contents": "new\n", **me} for path in (first, second, third)}
    ret = checked.files("x", files, clean=[f"{conf.parent}/*.old"])
    monkeypatch.undo()
    assert ret["result"] is False
    assert "nothing was changed" in ret["comment"]
    assert "No space left" in ret["comment"]
    assert ret["changes"] == {}
    assert sorted(path.name for path in conf.parent.iterdir()) == ["a.conf", "stray.old"]
    assert first.read_text() == "was\n"
    assert stat.S_IMODE(first.stat().st_mode) == 0o604


def test_a_secret_is_never_readable_by_others_while_it_is_written(
    checked: Any, conf: Path, me: dict[str, str]
) -> None:
    """What an earlier, killed run left under the temporary name must not lend its mode."""
    left = Path(f"{conf}.stack-new")
    left.write_text("")
    left.chmod(0o644)
    seen: list[int] = []
    real = os.fchmod

    def look(handle: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        real(handle, mode)

    spec = {"data": b"x", "mode": 0o600, "secret": True, **me}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fchmod", look)
        checked.file_set.swap({str(conf): spec})
    assert seen == [0o600]


# --- checked.service ------------------------------------------------------------------------------


@pytest.fixture
def running(checked: Any, conf: Path, me: dict[str, str], systemd: Any) -> Any:
    """A service `app` that runs on `good 1`; call with other contents to change it."""

    def apply(contents: str = "good 1\n", **more: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"checks": [f"grep -q good {{staged}}{conf}"], "reload": True}
        files = {str(conf): {"contents": contents, **me}, **more.pop("files", {})}
        answer = checked.service("app", files, **{**options, **more})
        assert isinstance(answer, dict)
        return answer

    ret = apply()
    assert ret["result"] is True
    did = systemd.did("start", "restart", "reload", "enable")
    # Enabled before systemd reads it: else it would read all units once more.
    assert did == ["enable --no-reload app", "start app"]
    systemd.commands.clear()
    return apply


def test_a_second_run_neither_changes_nor_touches_the_service(running: Any, systemd: Any) -> None:
    ret = running()
    assert (ret["result"], ret["changes"]) == (True, {})
    assert systemd.commands == []


def test_a_change_is_reloaded_where_that_suffices(running: Any, systemd: Any) -> None:
    ret = running("good 2\n")
    assert ret["changes"]["app"] == "reloaded"
    assert systemd.commands == ["reload app"]


def test_a_file_that_only_goes_is_a_change_to_be_reloaded(
    running: Any, systemd: Any, checked: Any, conf: Path
) -> None:
    stale = conf.with_name("stale.conf")
    stale.write_text("old")
    clean = [f"{conf.parent}/stale*"]
    ret = running(clean=clean)
    assert not stale.exists()
    assert (systemd.commands, ret["changes"]["app"]) == (["reload app"], "reloaded")
    systemd.commands.clear()
    assert running(clean=clean)["changes"] == {}
    assert systemd.commands == []


def test_an_apply_killed_after_a_removal_is_finished_by_the_next(
    running: Any, systemd: Any, checked: Any, conf: Path
) -> None:
    stale = conf.with_name("stale.conf")
    stale.write_text("old")

    def die(command: str) -> None:
        raise KeyboardInterrupt

    systemd.on = die
    with pytest.raises(KeyboardInterrupt):
        running(clean=[f"{conf.parent}/stale*"])
    assert not stale.exists()
    systemd.on = lambda command: None
    systemd.commands.clear()
    running(clean=[f"{conf.parent}/stale*"])
    assert systemd.commands == ["reload app"]


def test_after_a_kill_right_after_the_reload_the_files_before_are_loaded_again(
    running: Any, systemd: Any, conf: Path
) -> None:
    """The service runs on what the killed apply wrote, whatever was known of it before."""
    was = conf.read_text()

    def die(command: str) -> None:
        raise KeyboardInterrupt

    systemd.on = die
    with pytest.raises(KeyboardInterrupt):
        running("good 2\n")
    assert systemd.commands == ["reload app"]
    systemd.on = lambda command: None
    systemd.commands.clear()
    assert running(was)["changes"]["app"] == "reloaded"
    assert systemd.commands == ["reload app"]
    assert running(was)["changes"] == {}


def test_the_command_before_a_change_runs_only_for_one(
    running: Any, systemd: Any, tmp_path: Path
) -> None:
    before = f"echo x >> {tmp_path}/told; echo remember this"
    running(pre_command=before)
    assert not (tmp_path / "told").exists(), "nothing was to do"
    ret = running("good 2\n", pre_command=before)
    assert (tmp_path / "told").read_text() == "x\n"
    assert "remember this" in ret["comment"]


def test_a_command_before_that_fails_leaves_everything(
    running: Any, systemd: Any, conf: Path
) -> None:
    was = conf.read_text()
    ret = running("good 2\n", pre_command="echo no disk; exit 1")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == "nothing was changed: no disk"
    assert (conf.read_text(), systemd.commands) == (was, [])


def test_a_change_that_a_reload_cannot_take_restarts(
    running: Any, systemd: Any, conf: Path
) -> None:
    assert (
        running("good 2\n", restart_on=[f"{conf.parent}/*.conf"])["changes"]["app"] == "restarted"
    )
    assert running("good 3\n", reload=False)["changes"]["app"] == "restarted"
    assert running("good 4\n", restart_on=["/other/*"])["changes"]["app"] == "reloaded"
    assert systemd.commands == ["restart app", "restart app", "reload app"]


def test_a_refused_configuration_leaves_the_service_alone(
    running: Any, systemd: Any, conf: Path
) -> None:
    ret = running("bad\n")
    assert ret["result"] is False
    assert systemd.commands == []
    assert conf.read_text() == "good 1\n"
    assert running()["changes"] == {}


def test_a_service_that_is_down_is_started(running: Any, systemd: Any) -> None:
    systemd.active.clear()
    assert running()["changes"] == {"app": "started"}
    assert systemd.commands == ["reset-failed app", "start app"]


@pytest.mark.parametrize(
    ("kind", "words"), [("masked", "unmask app"), ("masked-runtime", "unmask --runtime app")]
)
def test_a_service_that_somebody_masked_is_started_too(
    running: Any, checked: Any, systemd: Any, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    """The runbooks say that an apply puts back what was changed by hand, and it could not."""
    systemd.active.clear()

    def systemctl(*given: str, timeout: int = 0) -> tuple[int, str]:
        if given[0] == "is-enabled":
            return (0, "enabled") if words in systemd.commands else (1, f"{kind}\n")
        return tuple(systemd(*given, timeout=timeout))

    monkeypatch.setitem(checked.state.__salt__, "units.systemctl", systemctl)
    assert running()["changes"] == {"app": "started"}
    assert systemd.commands == [words, "reset-failed app", "start app"]


@pytest.mark.parametrize(
    ("link", "commands"),
    [
        ("multi-user.target.wants", ["reset-failed app", "start app"]),
        # haproxy-bans.service: started with HAProxy, also by whoever stops and starts that before a reload.
        ("haproxy.service.wants", ["reset-failed app", "daemon-reload", "start app"]),
    ],
)
def test_systemd_knows_at_once_what_is_started_with_another_service(
    running: Any,
    checked: Any,
    systemd: Any,
    monkeypatch: pytest.MonkeyPatch,
    link: str,
    commands: list[str],
) -> None:
    systemd.active.clear()
    systemd.enabled.clear()

    def systemctl(*given: str, timeout: int = 0) -> tuple[int, str]:
        code, said = systemd(*given, timeout=timeout)
        if given[0] == "enable":
            said = f"Created symlink '/etc/systemd/system/{link}/app.service' → '/usr/lib/app.service'."
        return code, said

    monkeypatch.setitem(checked.state.__salt__, "units.systemctl", systemctl)
    assert running()["changes"] == {"app": "started", "app at boot": "enabled"}
    done = [one for one in systemd.commands if not one.startswith("enable")]
    assert done == commands


def test_a_service_that_is_not_enabled_is_enabled(running: Any, systemd: Any) -> None:
    systemd.enabled.clear()
    assert running()["changes"] == {"app at boot": "enabled"}


def test_a_renewed_certificate_reloads(running: Any, systemd: Any, conf: Path) -> None:
    certificate = conf.with_name("site.pem")
    certificate.write_text("one")
    running(watch_files=[str(certificate)])
    systemd.commands.clear()
    assert running(watch_files=[str(certificate)])["changes"] == {}
    certificate.write_text("two")
    assert running(watch_files=[str(certificate)])["changes"] == {"app": "reloaded"}
    assert systemd.commands == ["reload app"]


def test_an_apply_killed_between_swap_and_reload_is_finished_by_the_next(
    running: Any, checked: Any, systemd: Any, conf: Path, me: dict[str, str]
) -> None:
    checked.file_set.swap({str(conf): {"data": b"good 2\n", "mode": 0o644, "secret": False, **me}})
    ret = running("good 2\n")
    assert ret["changes"] == {"app": "reloaded"}
    assert systemd.commands == ["reload app"]
    assert running("good 2\n")["changes"] == {}


def test_test_mode_shows_the_reload_that_an_interrupted_apply_left(
    running: Any, checked: Any, systemd: Any, conf: Path, me: dict[str, str]
) -> None:
    checked.file_set.swap({str(conf): {"data": b"good 2\n", "mode": 0o644, "secret": False, **me}})
    checked.test(True)
    ret = running("good 2\n")
    assert ret["result"] is None
    assert "reloaded" in ret["comment"]
    assert systemd.commands == []


def test_lost_stamps_make_the_service_take_its_files_again(
    running: Any, systemd: Any, tmp_path: Path
) -> None:
    (tmp_path / "stamps" / "app.json").write_text("{cut off")
    assert running()["changes"] == {"app": "reloaded"}
    assert running()["changes"] == {}


def test_stamps_are_for_root_alone(running: Any, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "stamps").stat().st_mode) == 0o700


# --- what it uses: a certificate, a secret, a program of another state ----------------------------


@pytest.fixture
def used(running: Any, checked: Any, systemd: Any, conf: Path) -> Any:
    """`used.renew("two")`: an earlier state of a new run writes what the service uses; `used.apply()`."""
    key = conf.with_name("site.key")
    key.write_text("good one")
    key.chmod(0o640)

    def apply(**more: Any) -> Any:
        checks = [f"grep -q good {key}", f"grep -q good {{staged}}{conf}"]
        return running(**{"watch_files": [str(key)], "checks": checks, **more})

    def renew(text: str) -> None:
        checked.renew(key, text)

    assert apply()["result"] is True
    systemd.commands.clear()
    return SimpleNamespace(path=key, apply=apply, renew=renew)


def test_what_it_uses_is_checked_though_its_own_files_are_the_same(used: Any, systemd: Any) -> None:
    used.renew("bad two")
    ret = used.apply()
    assert (ret["result"], ret["changes"], systemd.commands) == (False, {}, [])
    assert "refused by its own check" in ret["comment"]


def test_what_it_uses_is_back_when_its_check_refuses_it(used: Any, systemd: Any) -> None:
    """So that the next restart or reboot finds what it ran on."""
    used.renew("bad two")
    assert f"({used.path}: back as it was)" in used.apply()["comment"]
    assert used.path.read_text() == "good one"
    assert stat.S_IMODE(used.path.stat().st_mode) == 0o640
    assert used.apply()["changes"] == {}
    assert systemd.commands == []


@pytest.mark.parametrize("action", ["reload", "restart"])
def test_what_it_uses_is_back_when_the_service_does_not_come_up_with_it(
    used: Any, systemd: Any, conf: Path, action: str
) -> None:
    used.renew("good two")
    systemd.fail[f"{action} app"] = 1
    ret = used.apply(contents="good 2\n", reload=action == "reload")
    assert ret["result"] is False
    assert "the previous configuration is back and in use" in ret["comment"]
    assert (used.path.read_text(), conf.read_text()) == ("good one", "good 1\n")
    assert used.apply()["changes"] == {}
    used.renew("good three")
    assert used.apply()["changes"] == {"app": "reloaded"}
    assert used.path.read_text() == "good three"


def test_what_this_run_did_not_replace_is_not_taken_back(used: Any, checked: Any) -> None:
    used.renew("good two")
    assert used.apply()["result"] is True
    used.path.write_text("bad, by hand")
    checked.file_set.__context__.clear()
    assert used.apply()["result"] is False
    assert used.path.read_text() == "bad, by hand"


def test_files_that_a_module_makes_are_checked_and_swapped_with_the_others(
    running: Any, checked: Any, conf: Path, me: dict[str, str]
) -> None:
    pair = {
        str(conf.with_name(name)): {"data": b"pair", "mode": 0o640, "secret": True, **me}
        for name in ("site.pem", "site.pem.key")
    }
    checked.module.__salt__["site.files"] = lambda folder: {**pair} if folder else {}
    made = {"site.files": {"folder": "x"}}
    ret = running("bad\n", made=made)
    assert ret["result"] is False
    assert [path.name for path in conf.parent.iterdir()] == ["app.conf"]
    ret = running("good 2\n", made=made, checks=[f"grep -q pair {{staged}}{conf.parent}/site.pem"])
    assert ret["changes"]["app"] == "reloaded"
    assert conf.with_name("site.pem.key").read_text() == "pair"


# --- a test run -----------------------------------------------------------------------------------


def test_a_test_run_checks_what_it_would_change(running: Any, checked: Any, systemd: Any) -> None:
    checked.test(True)
    ret = running("bad\n")
    assert (ret["result"], systemd.commands) == (False, [])
    assert "refused by its own check" in ret["comment"]
    ret = running("good 2\n")
    assert (ret["result"], ret["comment"]) == (None, "would be reloaded")


def test_a_test_run_takes_nothing_back(used: Any, checked: Any) -> None:
    used.renew("bad two")
    checked.test(True)
    assert used.apply()["result"] is False
    assert used.path.read_text() == "bad two"


@pytest.mark.parametrize("require", [{"pkg": "app package"}, {"pkg": "app"}, {"sls": "app"}])
def test_a_test_run_says_what_it_cannot_check_before_it_is_installed(
    running: Any, checked: Any, require: dict[str, str]
) -> None:
    checked.test(True)
    package = {"__id__": "app package", "name": "app", "__sls__": "app", "result": None}
    checked.state.__low__ = {"require": [require]}
    checked.state.__running__ = {"pkg_|-app package_|-app_|-installed": package}
    ret = running("bad\n")
    assert (ret["result"], ret["changes"]["not checked yet"]) == (None, "first: app package")
    # What is there can be asked.
    checked.state.__running__ = {"pkg_|-app package_|-app_|-installed": {**package, "result": True}}
    assert running("bad\n")["result"] is False


@pytest.mark.parametrize("action", ["reload", "restart"])
def test_a_failed_reload_or_restart_puts_the_old_files_back(
    running: Any, systemd: Any, conf: Path, action: str
) -> None:
    systemd.fail[f"{action} app"] = 1
    ret = running("good 2\n", reload=action == "reload")
    assert ret["result"] is False
    assert ret["changes"] == {}
    assert f"{action} failed: Job for app failed." in ret["comment"]
    assert "the previous configuration is back and in use" in ret["comment"]
    assert "last words" in ret["comment"]
    assert conf.read_text() == "good 1\n"
    assert "app" in systemd.active
    assert systemd.did("reload", "restart") == [f"{action} app"] * 2
    # The next good one is taken as ever.
    assert running("good 3\n")["changes"]["app"] == "reloaded"


def test_a_service_that_does_not_recover_on_the_old_files_says_so(
    running: Any, systemd: Any
) -> None:
    systemd.fail["restart app"] = 2
    ret = running("good 2\n", reload=False)
    assert "the previous configuration is back, but with it: Job for app" in ret["comment"]


def test_a_service_that_does_not_get_ready_goes_back(
    running: Any, checked: Any, conf: Path
) -> None:
    checked.ready[:] = [1, 0]
    ret = running("good 2\n", ready="ask it", ready_timeout=-1)
    assert ret["result"] is False
    assert "not ready after -1 s: ask it: no" in ret["comment"]
    assert conf.read_text() == "good 1\n"


def test_ready_is_a_shell_command_or_a_program_of_the_tree(checked: Any) -> None:
    ready = checked.module.ready
    assert ready("true && true") is None
    assert ready("echo why >&2; exit 3") == "why"
    assert ready("exit 3") == "exit 3: exit code 3"
    (checked.tree / "ask").write_text('echo "$1 is not"; exit 1\n')
    (checked.tree / "ask.py").write_text("import sys; sys.exit(sys.argv[1] != 'it')\n")
    assert ready("salt://ask it") == "it is not"
    assert ready("salt://ask.py it") is None


def test_a_first_configuration_that_does_not_start_is_taken_away_again(
    checked: Any, conf: Path, me: dict[str, str], systemd: Any
) -> None:
    systemd.fail["start app"] = 1
    ret = checked.service("app", {str(conf): {"contents": "x", **me}})
    assert ret["result"] is False
    assert not conf.exists()
    assert not systemd.enabled


def test_a_full_disk_leaves_the_service_alone(
    running: Any, checked: Any, systemd: Any, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checked.utils["atomic_file.stage"]

    def full(path: str, *words: Any) -> Any:
        if path == str(conf):
            raise OSError(28, "No space left on device")
        return real(path, *words)

    monkeypatch.setitem(checked.utils, "atomic_file.stage", full)
    ret = running("good 2\n")
    assert ret["result"] is False
    assert "nothing was changed" in ret["comment"]
    assert systemd.commands == []
    assert conf.read_text() == "good 1\n"


# --- unit files -----------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_ANALYZE, reason="no systemd-analyze on this computer")
def test_a_changed_unit_is_reread_and_restarted(
    running: Any, checked: Any, systemd: Any, me: dict[str, str]
) -> None:
    unit = {str(checked.units / "app.service"): {"contents": UNIT, **me}}
    ret = running(files=unit)
    assert ret["changes"]["app"] == "restarted", ret["comment"]
    assert systemd.commands == ["daemon-reload", "restart app"]
    assert running(files=unit)["changes"] == {}


@pytest.mark.skipif(not HAS_ANALYZE, reason="no systemd-analyze on this computer")
def test_a_misspelt_key_in_a_unit_is_refused(
    checked: Any, me: dict[str, str], systemd: Any
) -> None:
    path = checked.units / "app.service"
    ret = checked.files("x", {str(path): {"contents": UNIT + "Restrat=always\n", **me}})
    assert ret["result"] is False
    assert "Restrat" in ret["comment"]
    assert not path.exists()
    assert systemd.commands == []
    assert list(checked.staging.iterdir()) == []
    ret = checked.files("x", {str(path): {"contents": UNIT + "Restart=always\n", **me}})
    assert ret["result"] is True, ret["comment"]
    assert systemd.commands == [], "systemd reads it when it is asked for it"


@pytest.mark.skipif(not HAS_ANALYZE, reason="no systemd-analyze on this computer")
def test_a_unit_that_systemd_has_read_is_read_anew(
    checked: Any, me: dict[str, str], systemd: Any
) -> None:
    systemd.active.add("app")
    files = {str(checked.units / "app.service"): {"contents": UNIT, **me}}
    assert checked.files("x", files)["result"] is True
    assert systemd.commands == ["daemon-reload"]


@pytest.mark.skipif(not HAS_ANALYZE, reason="no systemd-analyze on this computer")
def test_a_misspelt_key_in_a_drop_in_is_refused(checked: Any, me: dict[str, str]) -> None:
    (checked.units / "app.service").write_text(UNIT)
    path = checked.units / "app.service.d" / "stack.conf"
    ret = checked.files("x", {str(path): {"contents": "[Service]\nPrivateTpm=yes\n", **me}})
    assert ret["result"] is False
    assert "PrivateTpm" in ret["comment"]
    assert not path.exists()
    ret = checked.files("x", {str(path): {"contents": "[Service]\nPrivateTmp=yes\n", **me}})
    assert ret["result"] is True, ret["comment"]


@pytest.mark.skipif(not HAS_ANALYZE, reason="no systemd-analyze on this computer")
def test_a_drop_in_for_all_units_of_a_prefix_is_verified(checked: Any, me: dict[str, str]) -> None:
    """As transient units have them, which are no files (systemd.unit(5))."""
    path = checked.units / "app-timer-.service.d" / "stack.conf"
    ret = checked.files("x", {str(path): {"contents": "[Service]\nPrivateTpm=yes\n", **me}})
    assert ret["result"] is False
    assert "PrivateTpm" in ret["comment"]
    ret = checked.files("x", {str(path): {"contents": "[Service]\nPrivateTmp=yes\n", **me}})
    assert ret["result"] is True, ret["comment"]


def test_a_drop_in_without_its_unit_is_refused(checked: Any, me: dict[str, str]) -> None:
    path = checked.units / "no-such-unit-here.service.d" / "stack.conf"
    ret = checked.files("x", {str(path): {"contents": "[Service]\nPrivateTmp=yes\n", **me}})
    assert ret["result"] is False
    assert "no such unit" in ret["comment"]


@pytest.mark.skipif(not HAS_ANALYZE, reason="no systemd-analyze on this computer")
def test_a_template_unit_is_verified_as_the_instance_it_is_told(
    checked: Any, me: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "releases" / "new" / "run"
    program.parent.mkdir(parents=True)
    text = UNIT.replace("/bin/true", f"{tmp_path}/releases/%i/run")
    files = {str(checked.units / "app@.service"): {"contents": text, **me}}
    ret = checked.files("x", files, instance="new")
    assert ret["result"] is False, "its program is not there"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    ret = checked.files("x", files, instance="new")
    assert ret["result"] is True, ret["comment"]


def test_which_paths_are_units(load_source: Callable[..., ModuleType]) -> None:
    is_unit = load_source("salt/_modules/units.py").is_unit_file
    for path in ("app.service", "app@.service", "app.socket", "app.timer", "a.service.d/x.conf"):
        assert is_unit(f"/etc/systemd/system/{path}"), path
    for path in ("app.conf", "a.service.d/x.txt", "a.wants/app.service"):
        assert not is_unit(f"/etc/systemd/system/{path}"), path
    assert not is_unit("/etc/haproxy/haproxy.cfg")
