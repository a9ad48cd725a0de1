"""What an artifact says of its commands becomes units that root reads: only what it was meant for, and nobody else's."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from builder import app_toml
from salt.exceptions import CommandExecutionError

from tests.unit.conftest import functions

CRON = {"command": "x", "schedule": "hourly", "timeout": 60}
GOOD: dict[str, Any] = {
    "name": "shop",
    "release": "python -c 'import shop; shop.migrate()'",
    "serve": {"watchdog": 15},
    "processes": {"worker": "python -c 'übung'"},
    "cron": {"tidy": {**CRON, "schedule": "Mon..Fri *-*-* 03:00:00 Europe/Berlin"}},
}


@pytest.fixture
def commands(
    load_source: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The execution module, whose unit files are in `tmp_path`."""
    salt: dict[str, Any] = functions(schemas=load_source("salt/_modules/schemas.py"))
    dist = tmp_path / "dist" / "shop-1.0.tar.gz"
    salt["artifact.carried"] = lambda name, version: (str(dist), "0" * 64)
    salt["applications.former_units"] = lambda: ["shop-former.service"]
    salt["applications.owner"] = load_source("salt/_modules/applications.py").owner
    module = load_source("salt/_modules/commands.py", salt=salt)
    for folder in ("dist", "etc", "lib"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(module, "_UNITS", str(tmp_path / "etc"))
    monkeypatch.setattr(module, "_OTHERS", (str(tmp_path / "lib"),))
    return module


def upload(tmp_path: Path, said: Any) -> None:
    data = json.dumps(said).encode()
    with tarfile.open(tmp_path / "dist" / "shop-1.0.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("shop-1.0/app.json")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"serve": {"watchdog": "15\nExecStartPre=+/bin/sh -c id"}}, "serve:watchdog: "),
    ({"serve": {"watchdog": True}}, "serve:watchdog: "),
    ({"release": "a\nb"}, "release: "),
    ({"processes": {"worker\nUser=root": "x"}}, "processes:"),
    ({"processes": {"worker\n": "x"}}, "processes:"),
    ({"processes": {"../worker": "x"}}, "processes:"),
    ({"processes": {"release": "x"}}, "processes:release: "),
    ({"cron": {"release": CRON}}, "cron:release: "),
    ({"cron": {"tidy": {**CRON, "schedule": "hourly\rUnit=poweroff.target"}}}, "cron:tidy:"),
    ({"cron": {"tidy": {**CRON, "schedule": "hourly\n"}}}, "cron:tidy:"),
    ({"cron": {"tidy": {**CRON, "schedule": "hourly\\"}}}, "cron:tidy:"),
    ({"cron": {"tidy": {**CRON, "timeout": "1"}}}, "cron:tidy:timeout: "),
    ({"cron": {"tidy": {"command": "x"}}}, "cron:tidy: needs schedule"),
]


@pytest.mark.parametrize(("said", "where"), BAD)
@pytest.mark.parametrize("is_installed", [False, True])
def test_what_would_be_another_line_of_a_unit_is_refused(
    commands: ModuleType, tmp_path: Path, said: dict[str, Any], where: str, is_installed: bool
) -> None:
    """No machine trusts that an artifact was made by the builder."""
    root = tmp_path / "opt"
    if is_installed:
        (root / "releases" / "1.0").mkdir(parents=True)
        (root / "releases" / "1.0" / "app.json").write_text(json.dumps(GOOD | said))
    else:
        upload(tmp_path, GOOD | said)
    with pytest.raises(CommandExecutionError) as refusal:
        commands.manifest("shop", str(root), "1.0")
    assert str(refusal.value).startswith(f"shop 1.0: app.json:{where}")
    assert "\n" not in str(refusal.value)


def test_what_the_builder_makes_is_taken(commands: ModuleType, tmp_path: Path, root: Path) -> None:
    for folder in (root / "examples/shop", root / "tests/machine/applications/shop"):
        said = app_toml.read(folder)
        upload(tmp_path, said)
        assert commands.manifest("shop", str(tmp_path / "opt"), "1.0") == said
    upload(tmp_path, GOOD)
    assert commands.manifest("shop", str(tmp_path / "opt"), "1.0") == GOOD


def test_builder_and_machine_take_the_same_names_and_schedules(
    commands: ModuleType, root: Path
) -> None:
    text = (root / "webapp/src/serving/app.schema.json").read_text(encoding="utf-8")
    built, taken = json.loads(text)["properties"], commands._SAID["properties"]
    for key in ("processes", "cron"):
        assert built[key]["propertyNames"]["pattern"] == taken[key]["propertyNames"]["pattern"]
    schedules = [
        one["cron"]["additionalProperties"]["properties"]["schedule"]["pattern"]
        for one in (built, taken)
    ]
    assert schedules[0] == schedules[1]


def plan(commands: ModuleType) -> dict[str, Any]:
    return dict(commands.plan({"name": "shop"}, GOOD))


def test_a_unit_of_anybody_elses_is_never_written_over(
    commands: ModuleType, tmp_path: Path
) -> None:
    assert list(plan(commands)) == ["shop-release", "shop-worker", "shop-tidy"]
    own = tmp_path / "etc" / "shop-worker.service"
    own.write_text("# Managed by Salt (salt/apps) for shop: its app.toml's process worker.\n")
    plan(commands)
    # `eu-worker` of `shop` and `worker` of `shop-eu`.
    own.write_text("# Managed by Salt (salt/apps) for sh: its app.toml's process op-worker.\n")
    with pytest.raises(CommandExecutionError, match=r"shop: .*etc/shop-worker\.service is not"):
        plan(commands)
    own.unlink()
    own.symlink_to("/dev/null")
    plan(commands)
    # As apt-daily.timer is.
    (tmp_path / "lib" / "shop-tidy.timer").write_text("[Timer]\n")
    with pytest.raises(CommandExecutionError, match=r"shop: .*lib/shop-tidy\.timer is not"):
        plan(commands)


def test_the_unit_of_a_former_application_is_no_obstacle(
    commands: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "etc" / "shop-former.service"
    file.write_text("# Managed by Salt (salt/apps) for sh: its app.toml's process op-former.\n")
    said = {"processes": {"former": "x"}}
    assert list(commands.plan({"name": "shop"}, said)) == ["shop-former"]


def test_two_commands_of_one_name_are_refused(commands: ModuleType) -> None:
    with pytest.raises(CommandExecutionError, match="worker is the name of two commands"):
        commands.plan({"name": "shop"}, {**GOOD, "cron": {"worker": CRON}})


def test_no_application_is_called_as_a_user_or_a_secret_of_redis_is(root: Path) -> None:
    """Its own password is the secret redis-NAME, and its user is called as itself."""
    schema = yaml.safe_load((root / "salt/apps/schema.yaml").read_text(encoding="utf-8"))
    secrets = yaml.safe_load((root / "salt/redis/secrets.yaml").read_text(encoding="utf-8"))
    users = re.findall(
        r"^user ([a-z]+) ", (root / "salt/redis/files/users.acl.j2").read_text("utf-8"), re.M
    )
    assert {"default", "sentinel"} <= set(users)
    known = {*users, *(name.removeprefix("redis-") for name in secrets)}
    assert known <= set(schema["propertyNames"]["not"]["enum"])
