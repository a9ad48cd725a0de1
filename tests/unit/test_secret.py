"""Secrets are made on the machine, once, and shown to nobody."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError


@pytest.fixture
def secret(load_source: Callable[..., ModuleType], tmp_path: Path) -> ModuleType:
    module = load_source("salt/_modules/secret.py")
    module.FOLDER = str(tmp_path / "secrets")  # type: ignore[attr-defined]
    return module


@pytest.fixture
def state(secret: ModuleType, load_source: Callable[..., ModuleType]) -> ModuleType:
    names = ("exists", "make", "path")
    return load_source(
        "salt/_states/secret.py", salt={f"secret.{name}": getattr(secret, name) for name in names}
    )


def test_a_secret_is_long_random_and_for_its_owner_alone(secret: ModuleType) -> None:
    assert secret.make("one") is True
    assert secret.make("two") is True
    one, two = (Path(secret.path(name)) for name in ("one", "two"))
    assert one.read_text() != two.read_text()
    assert len(one.read_text()) >= 43, "less than 32 bytes of randomness"
    assert one.read_text() == one.read_text().strip(), "a line end would be part of a password"
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.parent.stat().st_mode) == 0o700
    assert sorted(os.listdir(one.parent)) == ["one", "two"]


def test_a_secret_is_never_made_anew(secret: ModuleType) -> None:
    secret.make("one")
    before = Path(secret.path("one")).read_text()
    assert secret.make("one") is False
    assert Path(secret.path("one")).read_text() == before


def test_a_failed_write_leaves_no_half_secret(
    secret: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secret.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        secret.make("one")
    assert os.listdir(secret.FOLDER) == []
    monkeypatch.undo()
    assert secret.make("one") is True


@pytest.mark.parametrize("name", ["../shadow", "a/b", "", "A", "a b", "-a", "a\n"])
def test_a_name_that_could_leave_the_folder_is_refused(secret: ModuleType, name: str) -> None:
    for function in (secret.path, secret.make, secret.exists, secret.sha256):
        with pytest.raises(CommandExecutionError, match="use a-z, 0-9 and -"):
            function(name)
    assert not os.path.exists(secret.FOLDER)


def test_the_hash_is_of_the_secret_and_a_placeholder_before_there_is_one(
    secret: ModuleType,
) -> None:
    assert secret.sha256("one") == "0" * 64
    secret.make("one")
    value = Path(secret.path("one")).read_bytes()
    assert secret.sha256("one") == hashlib.sha256(value).hexdigest()


def test_the_state_makes_it_once_and_shows_it_never(secret: ModuleType, state: ModuleType) -> None:
    first = state.present("one")
    value = Path(secret.path("one")).read_text()
    assert (first["result"], first["changes"]) == (True, {"one": "made"})
    second = state.present("one")
    assert (second["result"], second["changes"]) == (True, {})
    assert value not in f"{first}{second}"
    assert Path(secret.path("one")).read_text() == value


def test_the_state_in_test_mode_makes_nothing(secret: ModuleType, state: ModuleType) -> None:
    state.__opts__["test"] = True  # type: ignore[attr-defined]
    ret = state.present("one")
    assert (ret["result"], ret["changes"]) == (None, {"one": "made"})
    assert not secret.exists("one")
