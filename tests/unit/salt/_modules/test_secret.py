"""Secrets are made on the machine, once, and shown to nobody."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.conftest import functions


@pytest.fixture
def secret(load_source: Callable[..., ModuleType], tmp_path: Path) -> ModuleType:
    salt = functions(file_set=load_source("salt/_modules/file_set.py"))
    module = load_source("salt/_modules/secret.py", salt=salt)
    module.FOLDER = str(tmp_path / "secrets")  # type: ignore[attr-defined]
    return module


@pytest.fixture
def state(secret: ModuleType, load_source: Callable[..., ModuleType]) -> ModuleType:
    names = ("pending", "ensure", "path")
    return load_source(
        "salt/_states/secret.py",
        salt={
            **{f"secret.{name}": getattr(secret, name) for name in names},
            "formula.secret_kind": lambda name: "random",
        },
    )


def test_a_secret_is_long_random_and_for_its_owner_alone(secret: ModuleType) -> None:
    assert secret.ensure("one") == "make"
    assert secret.ensure("two") == "make"
    one, two = (Path(secret.path(name)) for name in ("one", "two"))
    assert one.read_text() != two.read_text()
    assert len(one.read_text()) >= 43, "less than 32 bytes of randomness"
    assert one.read_text() == one.read_text().strip(), "a line end would be part of a password"
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.parent.stat().st_mode) == 0o700
    assert sorted(os.listdir(one.parent)) == ["one", "two"]


def test_a_secret_is_never_made_anew(secret: ModuleType) -> None:
    secret.ensure("one")
    before = Path(secret.path("one")).read_text()
    assert secret.ensure("one") is None
    assert Path(secret.path("one")).read_text() == before


def test_a_failed_write_leaves_no_half_secret(
    secret: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secret.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        secret.ensure("one")
    assert os.listdir(secret.FOLDER) == []
    monkeypatch.undo()
    assert secret.ensure("one") == "make"


@pytest.mark.parametrize("name", ["../shadow", "a/b", "", "A", "a b", "-a", "a\n"])
def test_a_name_that_could_leave_the_folder_is_refused(secret: ModuleType, name: str) -> None:
    for function in (secret.path, secret.ensure, secret.exists, secret.sha256):
        with pytest.raises(CommandExecutionError, match="use a-z, 0-9 and -"):
            function(name)
    assert not os.path.exists(secret.FOLDER)


def test_the_hash_is_of_the_secret_and_a_placeholder_before_there_is_one(
    secret: ModuleType,
) -> None:
    assert secret.sha256("one") == "0" * 64
    secret.ensure("one")
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


def given(secret: ModuleType, **values: str) -> None:
    secret.__pillar__["secrets"] = values  # type: ignore[attr-defined]


def test_the_pillars_value_is_taken_and_replaces_the_one_before(secret: ModuleType) -> None:
    secret.ensure("one")
    made = Path(secret.path("one")).read_text()
    given(secret, one="from-the-pillar\n")
    assert secret.ensure("one") == "replace"
    assert Path(secret.path("one")).read_text() == "from-the-pillar"
    assert secret.ensure("one") is None, "a second apply changes nothing"
    both = [hashlib.sha256(v.encode()).hexdigest() for v in ("from-the-pillar", made)]
    assert secret.hashes("one") == both, "the old one stays valid while its users are moved"
    assert secret.forget("one") is True
    assert secret.hashes("one") == both[:1]
    assert secret.forget("one") is False


@pytest.mark.parametrize("value", ["-----BEGIN PGP MESSAGE-----\nabc", " "])
def test_a_value_that_was_not_decrypted_is_refused(
    secret: ModuleType, state: ModuleType, value: str
) -> None:
    given(secret, one=value)
    ret = state.present("one")
    assert ret["result"] is False
    assert "secrets:one: could not be decrypted" in ret["comment"]
    assert not secret.exists("one")


def test_rotation_keeps_the_old_value_until_it_is_forgotten(secret: ModuleType) -> None:
    secret.ensure("one")
    old = secret.sha256("one")
    secret.rotate("one")
    new = secret.sha256("one")
    assert new != old
    assert secret.hashes("one") == [new, old]
    secret.rotate("one")
    assert secret.hashes("one") == [new, old], "an interrupted rotation goes on with the same value"
    for name in os.listdir(secret.FOLDER):
        assert stat.S_IMODE(Path(secret.FOLDER, name).stat().st_mode) == 0o600


def test_rotating_what_is_not_there_or_not_ours_is_refused(secret: ModuleType) -> None:
    with pytest.raises(CommandExecutionError, match="there is no secret one"):
        secret.rotate("one")
    given(secret, one="value")
    secret.ensure("one")
    with pytest.raises(CommandExecutionError, match="given by the pillar"):
        secret.rotate("one")


def test_what_nobody_can_make_up_must_be_given(secret: ModuleType, state: ModuleType) -> None:
    ret = state.present("one", kind="given")
    assert ret["result"] is False
    assert "pillar secrets:one: is missing, and no machine can make it up" in ret["comment"]
    assert not secret.exists("one")
    given(secret, one="its-key")
    assert state.present("one", kind="given")["changes"] == {"one": "made"}
    assert Path(secret.path("one")).read_text() == "its-key"


def test_a_key_with_a_form_of_its_own_is_never_rotated_into_random_text(
    secret: ModuleType, state: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = "# created: today\n# public key: age1x\nAGE-SECRET-KEY-1X\n"
    done = subprocess.CompletedProcess([], 0, identity)
    monkeypatch.setattr(secret.subprocess, "run", lambda *_, **__: done)
    assert state.present("one", kind="age")["changes"] == {"one": "made"}
    assert Path(secret.path("one")).read_text() == identity
    with pytest.raises(CommandExecutionError, match="not random text"):
        secret.rotate("one")
    assert Path(secret.path("one")).read_text() == identity


BROKEN = ["line1\nline2", "a\x00b", "", " ", "-----BEGIN PRIVATE KEY-----\ncut", b"\xff\xfe"]


def broken(secret: ModuleType, value: str | bytes, name: str = "one") -> None:
    """As a version that looked at no value has left it."""
    Path(secret.FOLDER).mkdir(exist_ok=True)
    data = value.encode() if isinstance(value, str) else value
    Path(secret.path(name)).write_bytes(data)


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_secret_is_repaired_by_an_apply_by_the_pillar_and_by_a_rotation(
    secret: ModuleType, state: ModuleType, value: str | bytes
) -> None:
    """Taken out of the pillar, it would stay, and who restarts with it is down."""
    broken(secret, value)
    ret = state.present("one")
    assert ret["changes"] == {"one": "made anew: it was broken"}
    assert len(Path(secret.path("one")).read_text()) == 43

    broken(secret, value)
    secret.rotate("one")
    assert len(Path(secret.path("one")).read_text()) == 43

    broken(secret, value)
    given(secret, one="good")
    assert state.present("one")["changes"] == {"one": "replaced by the pillar's"}
    assert Path(secret.path("one")).read_text() == "good"
    assert len(secret.hashes("one")) == 1, "nobody could use the broken one"


def test_who_still_uses_the_value_before_a_broken_one_goes_on_with_it(secret: ModuleType) -> None:
    secret.ensure("one")
    used = secret.sha256("one")
    given(secret, one="line1\nline2")
    secret.ensure("one")
    assert secret.hashes("one")[1] == used
    secret.__pillar__.clear()
    assert secret.ensure("one") == "repair"
    assert secret.hashes("one")[1] == used
    assert secret.ensure("one") is None


@pytest.mark.parametrize("kind", ["age", "given"])
def test_a_broken_secret_that_nobody_can_make_up_is_named_and_left(
    secret: ModuleType, state: ModuleType, kind: str
) -> None:
    broken(secret, "hid\nden")
    ret = state.present("one", kind=kind)
    assert ret["result"] is False
    assert secret.path("one") in ret["comment"]
    assert "hid" not in ret["comment"]
    assert Path(secret.path("one")).read_text() == "hid\nden"


@pytest.mark.parametrize("value", ["OrderedDict([('a', 'b')])", "True", "1234567", "pass word"])
def test_what_the_pillar_gave_once_is_rotated_like_any_other(
    secret: ModuleType, value: str
) -> None:
    """Also while the value before it is still accepted: that is no rotation under way."""
    secret.ensure("one")
    given(secret, one=value)
    secret.ensure("one")
    secret.__pillar__.clear()
    secret.rotate("one")
    new, old = secret.hashes("one")
    assert old == hashlib.sha256(value.encode()).hexdigest()
    secret.rotate("one")
    assert secret.hashes("one") == [new, old], "an interrupted rotation goes on with the same value"


@pytest.mark.parametrize("value", [{"hidden": "b"}, ["hidden"], True, 1234567, 1.5])
def test_what_is_no_text_never_becomes_a_secret(
    secret: ModuleType, state: ModuleType, value: object
) -> None:
    """A formula that is applied by itself has its pillar checked too (test_formula.py); and here."""
    secret.__pillar__["secrets"] = {"one": value}
    ret = state.present("one")
    assert ret["result"] is False
    assert "pillar secrets:one: is " in ret["comment"]
    assert "hidden" not in ret["comment"]
    assert not secret.exists("one")
