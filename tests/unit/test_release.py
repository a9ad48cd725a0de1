"""Releases are whole or absent, and instances are moved one at a time, forth and back."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError


@pytest.fixture
def release(
    load_source: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The execution module, in a tree whose dist/ is empty."""
    (tmp_path / "tree" / "dist").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tree")
    return load_source("salt/_modules/release.py")


@pytest.fixture
def home(tmp_path: Path) -> str:
    """Where releases and instances live."""
    return str(tmp_path / "opt")


def artifact(
    version: str,
    members: dict[str, bytes] | None = None,
    cut: int = 0,
    add: tarfile.TarInfo | None = None,
    top: str | None = None,
) -> Path:
    """dist/app-VERSION.tar.gz and its hash; `cut` bytes are missing at its end."""
    top = top or f"app-{version}"
    content = {
        f"{top}/release.json": b"{}",
        f"{top}/bin/app": b"#!/bin/sh\n",
        f"{top}/lib/a.py": b"x = 1\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {**content, **(members or {})}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o777 if "/bin/" in name else 0o644
            info.uid = info.gid = 12345
            archive.addfile(info, io.BytesIO(data))
        if add:
            archive.addfile(add)
    data = buffer.getvalue()
    path = Path("dist") / f"app-{version}.tar.gz"
    path.write_bytes(data[: len(data) - cut])
    Path(f"{path}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n")
    return path


def unpacked(home: str) -> list[str]:
    """Names in releases/, hidden and half-made ones too."""
    place = Path(home, "releases")
    return sorted(os.listdir(place)) if place.exists() else []


# --- install --------------------------------------------------------------------------------------


def test_a_verified_artifact_is_unpacked_and_a_second_install_does_nothing(
    release: ModuleType, home: str
) -> None:
    path = artifact("1.0")
    assert release.install("app", home, "1.0") is True
    top = Path(home, "releases", "1.0")
    assert (top / "lib/a.py").read_bytes() == b"x = 1\n"
    assert (top / "artifact.sha256").read_text().strip() == release.sha256(path)
    before = top.stat().st_mtime_ns
    path.unlink()
    assert release.install("app", home, "1.0") is False
    assert top.stat().st_mtime_ns == before
    assert unpacked(home) == ["1.0"]


def test_unpacked_files_are_not_writable_by_others_and_belong_to_who_unpacked(
    release: ModuleType, home: str
) -> None:
    artifact("1.0")
    release.install("app", home, "1.0")
    program = Path(home, "releases", "1.0", "bin", "app").stat()
    assert program.st_mode & 0o777 == 0o755
    assert program.st_uid == os.geteuid()


@pytest.mark.parametrize("filters", [True, False], ids=["with-filters", "as-on-debian-12"])
@pytest.mark.parametrize("kind", ["dotdot", "absolute", "symlink", "hardlink", "device"])
def test_a_member_that_would_land_outside_is_refused(
    release: ModuleType,
    home: str,
    kind: str,
    filters: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Debian 12's Python 3.11.2 knows no extraction filters: it must be safe without them."""
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    members, add = {}, None
    if kind == "dotdot":
        members = {"app-1.0/../../../../evil": b"x"}
    elif kind == "absolute":
        members = {f"{tmp_path}/evil": b"x"}
    else:
        add = tarfile.TarInfo("app-1.0/evil")
        add.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}.get(
            kind, tarfile.CHRTYPE
        )
        add.linkname = "/etc/passwd"
    artifact("1.0", members, add=add)
    with pytest.raises(CommandExecutionError, match="nothing was changed"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []
    assert list(tmp_path.rglob("evil")) == []


def test_a_wrong_hash_is_refused_and_both_hashes_are_named(release: ModuleType, home: str) -> None:
    path = artifact("1.0")
    Path(f"{path}.sha256").write_text("0" * 64)
    with pytest.raises(CommandExecutionError, match=f"{release.sha256(path)}.*{'0' * 64}"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


@pytest.mark.parametrize("text", [None, ""], ids=["absent", "empty"])
def test_an_artifact_without_its_hash_is_refused(
    release: ModuleType, home: str, text: str | None
) -> None:
    beside = Path(f"{artifact('1.0')}.sha256")
    beside.unlink()
    if text is not None:
        beside.write_text(text)
    with pytest.raises(CommandExecutionError, match="sha256 is missing"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


@pytest.mark.parametrize("cut", [150, 10000])
def test_a_truncated_archive_is_refused_and_leaves_nothing(
    release: ModuleType, home: str, cut: int
) -> None:
    """Even when its hash is that of the truncated file."""
    artifact("1.0", {"app-1.0/lib/big": os.urandom(20000)}, cut=cut)
    with pytest.raises(CommandExecutionError, match="nothing was changed"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


def test_an_archive_of_another_release_is_refused(release: ModuleType, home: str) -> None:
    artifact("1.0", top="app-2.0")
    with pytest.raises(CommandExecutionError, match=r"holds no app-1.0/release.json"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


def test_an_artifact_that_was_not_carried_says_what_to_do(release: ModuleType, home: str) -> None:
    with pytest.raises(CommandExecutionError, match="make artifact"):
        release.install("app", home, "1.0")


def test_what_a_killed_install_left_is_cleared(release: ModuleType, home: str) -> None:
    Path(home, "releases", ".unpack-x", "half").mkdir(parents=True)
    artifact("1.0")
    release.install("app", home, "1.0")
    assert unpacked(home) == ["1.0"]


@pytest.mark.parametrize("version", ["../1", "a/b", "", ".hidden", "-x", "a b", "x" * 200])
def test_a_version_that_is_no_file_name_is_refused(
    release: ModuleType, home: str, version: str
) -> None:
    with pytest.raises(CommandExecutionError, match="use letters, digits"):
        release.install("app", home, version)


# --- which release, and which go ------------------------------------------------------------------


def test_prune_keeps_the_newest_and_those_in_use(release: ModuleType, home: str) -> None:
    for age, version in enumerate(["1", "2", "3", "4", "5", "6"]):
        folder = Path(home, "releases", version)
        folder.mkdir(parents=True)
        os.utime(folder, (1000 + age, 1000 + age))
    release.set_instance(home, 1, "1", {})
    release.offer(home, "6")
    assert release.prune(home, keep=2) == ["2", "3"]
    assert unpacked(home) == ["1", "4", "5", "6"]
    assert release.prune(home, keep=2) == []


def test_the_release_is_the_one_asked_for_then_carried_then_in_use(
    release: ModuleType, home: str
) -> None:
    def choose(version: str | None = None) -> str:
        return str(release.choose("app", home, version))

    with pytest.raises(CommandExecutionError, match="app: which release.*make artifact"):
        choose()
    release.set_instance(home, 1, "in-use", {})
    assert choose() == "in-use"
    Path("dist/app-only.tar.gz").write_bytes(b"")
    Path("dist/application-other.tar.gz").write_bytes(b"")
    assert choose() == "only"
    release.__pillar__["machine"] = {"release": "carried"}
    assert choose() == "carried"
    assert choose("asked") == "asked"
    with pytest.raises(CommandExecutionError, match="use letters"):
        choose("../asked")


def test_two_artifacts_and_none_in_use_is_a_question_not_a_guess(
    release: ModuleType, home: str
) -> None:
    for name in "ab":
        Path(f"dist/app-{name}.tar.gz").write_bytes(b"")
    with pytest.raises(CommandExecutionError, match="holds 2 artifacts"):
        release.choose("app", home)


# --- one instance ---------------------------------------------------------------------------------


def test_environment_values_reach_systemd_unharmed(release: ModuleType, home: str) -> None:
    """As systemd.exec(5) reads EnvironmentFile=: in quotes, backslash and quote are special."""
    release.set_instance(home, 1, "v", {"B": 'a "b" \\ c', "A": "two words", "C": "50%d"})
    assert Path(home, "instances/1/env").read_text() == (
        'A="two words"\nB="a \\"b\\" \\\\ c"\nC="50%d"\n'
    )


def test_an_environment_value_with_a_newline_is_refused_and_nothing_moves(
    release: ModuleType, home: str
) -> None:
    release.set_instance(home, 1, "v1", {"A": "1"})
    with pytest.raises(CommandExecutionError, match="spans lines"):
        release.set_instance(home, 1, "v2", {"A": "1\nLD_PRELOAD=evil"})
    assert release.running(home) == {"1": "v1"}
    assert Path(home, "instances/1/env").read_text() == 'A="1"\n'


def test_going_back_restores_release_and_environment(release: ModuleType, home: str) -> None:
    release.set_instance(home, 1, "v1", {"A": "1"})
    before = release.set_instance(home, 1, "v2", {"A": "2"})
    release.mark_started(home, 1, "x")
    release.reset_instance(home, 1, before)
    assert release.running(home) == {"1": "v1"}
    assert Path(home, "instances/1/env").read_text() == 'A="1"\n'
    assert release.started_with(home, 1) is None, "it was not started with these yet"


def test_the_fingerprint_tells_every_input_apart(
    release: ModuleType, home: str, tmp_path: Path
) -> None:
    used = tmp_path / "unit"
    used.write_text("one")
    prints = {
        release.fingerprint(home, "1", {"A": "1"}, [str(used)]),
        release.fingerprint(home, "2", {"A": "1"}, [str(used)]),
        release.fingerprint(home, "1", {"A": "2"}, [str(used)]),
        release.fingerprint(home, "1", {"A": "1"}, []),
    }
    same = release.fingerprint(home, "1", {"A": "1"}, [str(used)])
    assert same in prints
    used.write_text("two")
    prints.add(release.fingerprint(home, "1", {"A": "1"}, [str(used)]))
    assert len(prints) == 5


def test_waiting_ends_at_once_when_the_unit_has_failed(release: ModuleType) -> None:
    release.__salt__["checked.systemctl"] = lambda *words: (0, "failed")
    said = release.wait_ready("127.0.0.1", 1, "/readyz", 60, "app@1.service")
    assert said.startswith("app@1.service has failed")


# --- the state release.installed ------------------------------------------------------------------


@pytest.fixture
def state(
    release: ModuleType, load_source: Callable[..., ModuleType], systemd: Any, home: str
) -> Any:
    """`rolled(version, instances=…)` and what it did; `broken` releases never get ready."""
    broken: set[str] = set()
    waits: list[int] = []
    settled: list[str | float] = []
    unseen: set[str] = set()

    def wait_ready(address: str, port: int, path: str, seconds: float, unit: str) -> str | None:
        waits.append(port)
        number = unit.removeprefix("app@").removesuffix(".service")
        return "not ready" if release.running(home)[number] in broken else None

    def wait_settled(command: str | None, seconds: float, timeout: float) -> str | None:
        settled.append(command or seconds)
        return "the load balancer does not see it" if command in unseen else None

    names = (
        "installed",
        "install",
        "offer",
        "prune",
        "running",
        "fingerprint",
        "started_with",
        "set_instance",
        "reset_instance",
        "mark_started",
        "remove_instance",
    )
    module = load_source(
        "salt/_states/release.py",
        salt={
            **{f"release.{name}": getattr(release, name) for name in names},
            "release.wait_ready": wait_ready,
            "release.wait_settled": wait_settled,
            "checked.systemctl": systemd,
            "checked.last_words": lambda unit: f"last words of {unit}",
        },
    )

    def rolled(version: str, instances: int = 3, **more: Any) -> dict[str, Any]:
        options = {"environment": {"LISTEN": "{address}:{port}", "N": "{instance}"}, **more}
        answer = module.rolled("app", home, version, instances, "127.0.0.1", 8001, **options)
        assert isinstance(answer, dict)
        return answer

    return SimpleNamespace(
        module=module, rolled=rolled, broken=broken, waits=waits, settled=settled, unseen=unseen
    )


def units(*numbers: int) -> list[str]:
    return [f"app@{number}.service" for number in numbers]


def test_installed_is_quiet_the_second_time(state: Any, home: str) -> None:
    artifact("1.0")
    assert state.module.installed("app", home, "1.0")["changes"] == {"app": "1.0 installed"}
    assert state.module.installed("app", home, "1.0")["changes"] == {}
    artifact("2.0", cut=40)
    ret = state.module.installed("app", home, "2.0")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert unpacked(home) == ["1.0"]


def test_installed_in_test_mode_unpacks_nothing(state: Any, home: str) -> None:
    artifact("1.0")
    state.module.__opts__["test"] = True
    ret = state.module.installed("app", home, "1.0")
    assert (ret["result"], ret["changes"]) == (None, {"app": "1.0"})
    assert unpacked(home) == []


# --- the state release.rolled ---------------------------------------------------------------------


def test_instances_are_rolled_one_at_a_time_each_waited_for(
    state: Any, systemd: Any, home: str, release: ModuleType
) -> None:
    order: list[str] = []
    systemd.on = lambda command: order.append(f"{command} after {len(state.waits)} ready")
    ret = state.rolled("v1")
    assert ret["result"] is True
    assert sorted(ret["changes"]) == units(1, 2, 3)
    assert [one for one in order if one.startswith("restart")] == [
        f"restart {unit} after {index} ready" for index, unit in enumerate(units(1, 2, 3))
    ]
    assert state.waits == [8001, 8002, 8003]
    assert release.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    assert systemd.enabled == set(units(1, 2, 3))
    assert Path(home, "instances/2/env").read_text() == 'LISTEN="127.0.0.1:8002"\nN="2"\n'


def test_the_next_instance_waits_until_the_load_balancer_has_this_one_back(
    state: Any, systemd: Any
) -> None:
    assert state.rolled("v1", 2, settled="ask {instance}")["result"] is True
    assert state.settled == ["ask 1", "ask 2"]
    state.unseen.add("ask 1")
    ret = state.rolled("v2", 2, settled="ask {instance}")
    assert ret["result"] is False
    assert "app@1.service is ready, but the load balancer does not see it" in ret["comment"]
    assert systemd.did("restart")[-1] == "restart app@1.service"


def test_a_second_roll_changes_nothing(state: Any, systemd: Any) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    ret = state.rolled("v1")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert systemd.commands == []


def test_a_failing_instance_goes_back_and_later_ones_are_not_touched(
    state: Any, systemd: Any, home: str, release: ModuleType
) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    state.broken.add("v2")
    ret = state.rolled("v2")
    assert ret["result"] is False
    assert "app@1.service on v2: not ready; it is back on v1; later" in ret["comment"]
    assert "last words of app@1.service" in ret["comment"]
    assert release.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    assert systemd.did("restart") == ["restart app@1.service"] * 2
    state.broken.clear()
    assert sorted(state.rolled("v2")["changes"]) == units(1, 2, 3)


def test_the_first_release_that_fails_says_that_there_is_no_way_back(
    state: Any, systemd: Any
) -> None:
    systemd.fail["restart app@1.service"] = 1
    ret = state.rolled("v1")
    assert ret["result"] is False
    assert "Job for app@1.service failed.; it is the first release" in ret["comment"]
    assert systemd.did("restart") == ["restart app@1.service"]


def test_an_interrupted_roll_is_finished_by_the_next(
    state: Any, systemd: Any, home: str, release: ModuleType
) -> None:
    state.rolled("v1")

    def die(command: str) -> None:
        if command == "restart app@2.service":
            raise KeyboardInterrupt

    systemd.on = die
    with pytest.raises(KeyboardInterrupt):
        state.rolled("v2")
    assert release.running(home) == {"1": "v2", "2": "v2", "3": "v1"}
    systemd.on = lambda command: None
    systemd.commands.clear()
    ret = state.rolled("v2")
    assert ret["result"] is True
    assert systemd.did("restart") == ["restart app@2.service", "restart app@3.service"]


def test_instances_that_are_too_many_are_drained_and_removed(
    state: Any, systemd: Any, home: str, release: ModuleType
) -> None:
    state.rolled("v1", 3)
    ret = state.rolled("v1", 1)
    assert ret["changes"] == dict.fromkeys(units(2, 3), "drained and removed")
    assert systemd.did("disable") == [f"disable --now {unit}" for unit in units(2, 3)]
    assert release.running(home) == {"1": "v1"}
    assert state.rolled("v1", 1)["changes"] == {}


def test_an_instance_that_cannot_be_stopped_is_not_forgotten(
    state: Any, systemd: Any, home: str, release: ModuleType
) -> None:
    """Its folder is what tells the next apply that it is there."""
    state.rolled("v1", 2)
    systemd.fail["disable --now app@2.service"] = 1
    ret = state.rolled("v1", 1)
    assert ret["result"] is False
    assert "app@2.service" in ret["comment"]
    assert release.running(home) == {"1": "v1", "2": "v1"}


def test_a_changed_credential_or_unit_rolls(state: Any, systemd: Any, tmp_path: Path) -> None:
    used = tmp_path / "credential"
    used.write_text("one")
    state.rolled("v1", uses=[str(used)])
    systemd.commands.clear()
    used.write_text("two")
    state.rolled("v1", uses=[str(used)])
    assert systemd.did("restart") == [f"restart {unit}" for unit in units(1, 2, 3)]


def test_an_instance_that_is_down_or_disabled_is_put_right_alone(state: Any, systemd: Any) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    systemd.active.discard("app@2.service")
    systemd.enabled.discard("app@3.service")
    ret = state.rolled("v1")
    assert ret["changes"] == {"app@2.service": "on v1", "app@3.service": "enabled"}
    assert systemd.did("restart", "enable") == ["restart app@2.service", "enable app@3.service"]


def test_placeholders_are_replaced_also_the_formulas_own(state: Any, home: str) -> None:
    environment = {"A": "{store}", "B": "{credentials}/x", "C": 5}
    state.rolled("v1", 1, environment=environment, values={"store": "10.0.0.1"})
    assert Path(home, "instances/1/env").read_text() == (
        'A="10.0.0.1"\nB="/run/credentials/app@1.service/x"\nC="5"\n'
    )


@pytest.mark.parametrize("value", ["{prot}", "{0}", "{port", "{port.x}", "a\nb"])
def test_an_unusable_environment_is_a_clear_error_before_anything_moves(
    state: Any, systemd: Any, home: str, release: ModuleType, value: str
) -> None:
    ret = state.rolled("v1", environment={"GOOD": "1", "LISTEN": value})
    assert ret["result"] is False
    assert "LISTEN" in ret["comment"]
    assert len(ret["comment"].splitlines()) == 1
    assert systemd.commands == []
    assert release.running(home) == {}


def test_test_mode_rolls_nothing_and_says_what_it_would(
    state: Any, systemd: Any, home: str, release: ModuleType
) -> None:
    state.rolled("v1", 3)
    systemd.commands.clear()
    state.module.__opts__["test"] = True
    ret = state.rolled("v2", 2)
    assert ret["result"] is None
    assert ret["changes"] == {
        "app@1.service": "would be rolled to v2",
        "app@2.service": "would be rolled to v2",
        "app@3.service": "would be drained and removed",
    }
    assert systemd.commands == []
    assert set(release.running(home).values()) == {"v1"}
