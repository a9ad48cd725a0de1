"""`make new-service`: what is laid out is whole but for what is marked, and what is marked is found."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import new_service
from control.errors import UserError
from tests import page
from tests.unit.conftest import RELEASE, ask_salt, prepare
from tests.unit.salt import test_formula_shape, test_matrix

ROOT = Path(__file__).resolve().parents[3]


def test_nothing_of_a_new_service_is_left_to_write() -> None:
    """In this tree: file and line of what `make new-service` left to a person."""
    assert new_service.left_to_write() == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "allowed: a-z and 0-9"),
        ("Memcached", "allowed: a-z and 0-9"),
        ("my-cache", "allowed: a-z and 0-9"),
        ("../cache", "allowed: a-z and 0-9"),
        ("c" * 21, "allowed: a-z and 0-9"),
        ("redis", "salt/redis is there already"),
        ("machine", "means something else"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "salt" / "redis").mkdir(parents=True)
    with pytest.raises(UserError, match=why):
        new_service.lay_out(name, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_service_is_written_by_hand_in_eight_files_at_most(tmp_path: Path) -> None:
    new_service.lay_out("memcached", tmp_path)
    marked = {line.split(":")[0] for line in new_service.left_to_write(tmp_path)}
    # And its role.
    by_hand = {*marked, "salt/top.sls"}
    assert len(by_hand) <= 8
    # The page that walks through it shows these, and no others.
    assert set(page.files()) == by_hand


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which docs/develop/add-a-service.md was typed."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "salt", root / "salt", ignore=shutil.ignore_patterns("__pycache__"))
    prepare(root, {"topology": "dev", "name": "dev", "release": RELEASE}, states=root / "salt")
    shutil.copytree(ROOT / "docs" / "runbooks", root / "docs" / "runbooks")
    new_service.lay_out("memcached", root)
    page.type_into(root)
    return root


def test_a_service_that_was_typed_from_the_page_lacks_nothing(checkout: Path) -> None:
    assert new_service.left_to_write(checkout) == []
    assert test_matrix.lacks(checkout, "memcached") == []


SHAPES = [
    test
    for name, test in vars(test_formula_shape).items()
    if name.startswith("test_") and list(inspect.signature(test).parameters) == ["formula"]
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_service_that_was_typed_from_the_page_is_a_room(
    checkout: Path, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_formula_shape, "TREE", checkout / "salt")
    shape(checkout / "salt" / "memcached")


def test_a_service_that_was_typed_from_the_page_renders(checkout: Path) -> None:
    low, files, status, metrics, logs = ask_salt(
        checkout,
        [
            ["state.show_lowstate", [], {}],
            ["state.show_low_sls", ["memcached"], {}],
            ["formula.collect", ["status.yaml.j2"], {}],
            ["metrics.collect", [], {}],
            ["logs.collect", [], {}],
        ],
    )
    assert [one for one in low if not isinstance(one, dict)] == []
    assert "memcached running" in {one["__id__"] for one in low}
    (running,) = [one for one in files if one["__id__"] == "memcached running"]
    assert set(running["files"]) == {
        "/etc/memcached.conf",
        "/etc/systemd/system/memcached.service.d/stack.conf",
    }
    assert status["memcached"]["memcached"]["port"] == 11211
    assert "memcached" in metrics["memcached"]["plugins"]
    assert logs["memcached"] == {"units": ["memcached.service"]}


def test_the_template_is_laid_out_under_the_services_name(tmp_path: Path) -> None:
    paths = new_service.lay_out("memcached", tmp_path)
    for path in paths:
        text = f"{path}\n{(tmp_path / path).read_text(encoding='utf-8')}"
        assert not re.search("newservice", text, re.IGNORECASE), path
    rules = yaml.safe_load((tmp_path / "salt/memcached/alerts.yaml").read_text(encoding="utf-8"))
    assert rules["groups"][0]["rules"][0]["alert"] == "MemcachedDown"
