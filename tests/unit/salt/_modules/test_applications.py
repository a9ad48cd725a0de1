"""What holds for the applications of pillar ``apps`` together, and what is refused of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from salt.exceptions import CommandExecutionError

APPLICATION = Path(__file__).resolve().parents[4] / "salt/apps/application.yaml"


@pytest.fixture
def configured(load_source: Callable[..., ModuleType]) -> Callable[..., Any]:
    """`configured(apps, stores)`: on a topology of so many stores."""

    def ask(apps: dict[str, Any], stores: int) -> Any:
        salt = {
            "formula.settings": lambda name: apps,
            "tree.said": lambda name, file: yaml.safe_load(APPLICATION.read_text("utf-8")),
            "topology.machines": lambda role: [{"name": f"{role}{n}"} for n in range(stores)],
        }
        return load_source("salt/_modules/applications.py", salt=salt).configured()

    return ask


def test_redis_of_several_stores_is_refused_to_an_application(
    configured: Callable[..., Any],
) -> None:
    """It knew the first store alone: after a failover each write was refused there."""
    notes = {"notes": {"redis": {"keys": ["notes:*"], "commands": ["get"]}}, "hello": {}}
    assert configured(notes, 1)["notes"]["credentials"] == {"redis-password": "redis-notes"}
    with pytest.raises(CommandExecutionError, match=r"^pillar apps:notes:redis: .* 3 stores") as no:
        configured(notes, 3)
    assert "\n" not in str(no.value)
    assert list(configured({"hello": {}}, 3)) == ["hello"]


def test_a_unit_that_is_removed_leaves_no_failure_behind(
    load_source: Callable[..., ModuleType], tmp_path: Path
) -> None:
    """`shop-release.service not-found failed` was an alert until somebody typed reset-failed."""
    said = []

    def systemctl(*words: str) -> tuple[int, str]:
        said.append(" ".join(words))
        return 0, "shop-release.service not-found failed failed x" if words[
            0
        ] == "list-units" else ""

    salt = {"units.systemctl": systemctl}
    utils = {"atomic_file.remove": lambda path: Path(path).unlink(missing_ok=True)}
    module = load_source("salt/_modules/applications.py", salt=salt, utils=utils)
    module._UNITS = str(tmp_path)  # type: ignore[attr-defined]
    (tmp_path / "shop-release.service").touch()
    assert module.remove_units(["shop-release.service"]) is None
    assert said[-2:] == ["daemon-reload", "reset-failed shop-release.service"]
    assert not any(tmp_path.iterdir())
