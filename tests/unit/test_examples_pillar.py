"""The settings that an example's README shows are ones that Salt takes, and what the example needs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from serving.application import normalise


def entry(root: Path, name: str) -> dict[str, Any]:
    text = (root / "examples" / name / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    return dict(yaml.safe_load(block)["apps"])


@pytest.mark.parametrize("name", ["notes", "shop"])
def test_what_an_examples_readme_sets_is_taken(
    root: Path, load_source: Callable[..., ModuleType], name: str
) -> None:
    schema = yaml.safe_load((root / "salt/apps/schema.yaml").read_text(encoding="utf-8"))
    schemas = load_source("salt/_modules/schemas.py")
    given = entry(root, name)
    assert list(given) == [name]
    assert schemas.problems(schema, given, "pillar apps") == []
    for variable in (*given[name].get("environment", {}), *given[name].get("secrets", {})):
        assert f"`{variable}" in (root / "examples" / name / "README.md").read_text("utf-8")


def test_the_edge_lets_through_what_notes_takes(root: Path) -> None:
    said = normalise(tomllib.loads((root / "examples/notes/app.toml").read_text("utf-8")))
    assert entry(root, "notes")["notes"]["max_body"] == said["serve"]["max_body"]


def test_shop_has_a_place_for_its_database(root: Path) -> None:
    assert entry(root, "shop")["shop"]["state"] is True
