"""APP: which application is meant, and what can be none."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from control import application
from control.application import COUNTER
from control.artifacts import files
from control.errors import UserError
from control.options import Options


def find(app: str, monkeypatch: pytest.MonkeyPatch) -> application.Application:
    monkeypatch.setenv("APP", app)
    return application.find(Options.read())


@pytest.mark.parametrize("name", ["x; reboot", "$(reboot)", "../x", "x\\n", "Shop", "s" * 21])
def test_a_name_that_a_shell_or_a_machine_reads_otherwise_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.toml").write_text(f'name = "{name}"\n')
    with pytest.raises(UserError, match=r"app\.toml: name: .* is not allowed; use a-z, 0-9 and -"):
        find(str(tmp_path), monkeypatch)


def test_the_counters_name_is_that_of_its_own_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `make publish APP=folder` would publish another application than the one meant."""
    (tmp_path / "app.toml").write_text('name = "counter"\n')
    with pytest.raises(UserError, match="counter is the application in webapp/"):
        find(str(tmp_path), monkeypatch)
    assert find(str(root / "webapp"), monkeypatch) == COUNTER
    assert find("counter", monkeypatch) == COUNTER


def test_a_name_of_the_pillar_is_held_against_the_same_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(application, "list_names", lambda topology: ["counter", "x;reboot", "shop"])
    monkeypatch.setenv("APP", "x;reboot")
    anywhere: Any = SimpleNamespace(name="test")
    with pytest.raises(UserError, match=r"APP=x;reboot: 'x;reboot' is not allowed"):
        application.find(Options.read(), anywhere)
    monkeypatch.setenv("APP", "shop")
    assert application.find(Options.read(), anywhere).name == "shop"


def test_a_home_that_nobody_has_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="APP=~nosuchuser/x: "):
        find("~nosuchuser/x", monkeypatch)


def test_what_builds_and_what_runs_an_application_take_the_same_names(root: Path) -> None:
    built = json.loads((root / "webapp/src/serving/app.schema.json").read_text(encoding="utf-8"))
    run = yaml.safe_load((root / "salt/apps/schema.yaml").read_text(encoding="utf-8"))
    assert built["properties"]["name"]["pattern"] == run["propertyNames"]["pattern"]


@pytest.mark.parametrize(
    ("version", "is_listed"),
    [
        ("1.0-g0123456789ab", True),
        ("v1.0-g0123456789ab", True),
        ("v1.0-src.01234567.r89abcdef", True),
        # Those of application shop-eu.
        ("eu-1.0-g0123456789ab", False),
        ("eu-v1.0-g0123456789ab", False),
    ],
)
def test_whatever_version_an_application_is_built_as_is_listed(
    version: str, is_listed: bool
) -> None:
    found = files.listed("shop").fullmatch(f"shop-{version}.tar.gz.sha256")
    assert (found is not None and found.group(1) == version) == is_listed
