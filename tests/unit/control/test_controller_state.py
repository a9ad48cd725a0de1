"""A second controller is one with the first."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from control import (
    controller_state,
    local_state,
    ssh,
)
from control.commands import export_state as export_state_command
from control.commands import import_state as import_state_command
from control.credentials import shared_secrets
from control.errors import ControlError
from control.options import Options
from tests.unit.control.topologies import PROD

pytestmark = pytest.mark.usefixtures("home")


def test_a_second_controller_is_given_all_that_the_first_has(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {name: shared_secrets.make_for(PROD, one) for name, one in PROD.machines.items()}
    folder = home / ".lab" / "test"
    (folder / "cloud.yaml").write_text("network: 10.0.0.0/24\n")
    (home / "id").write_text("a key\n")
    (folder / "ssh_config").write_text(
        f"Host app1\n  IdentityFile {home}/id\nHost *\n  IdentityFile {home}/id\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  ControlPath {home}/x/%C\n"
    )
    (folder / "ca.pem").write_text("what clients verify the site with\n")
    text = controller_state.export_state(PROD)
    assert len(text) < export_state_command.LARGEST, "more than a variable of GitLab takes"
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setattr(local_state, "ROOT", other)
    monkeypatch.setattr(local_state, "CACHE", other / "cache")
    monkeypatch.setattr(ssh, "run", lambda *words, **more: "yes\n")
    before = os.umask(0)
    try:
        controller_state.import_state(PROD, text.encode())
    finally:
        os.umask(before)
    assert {
        name: shared_secrets.make_for(PROD, one) for name, one in PROD.machines.items()
    } == first
    config = (other / ".lab/test/ssh_config").read_text()
    assert str(home) not in config
    assert config.count(f"IdentityFile {other}/.lab/test/keys/key-1\n") == 2
    assert (other / ".lab/test/keys/key-1").read_text() == "a key\n"
    assert f"ControlPath {other}/cache/ssh/%C" in config
    for path in (other / ".lab").rglob("*"):
        if path.name != ".lock":
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    for wrong in ("nothing", text[: len(text) // 2]):
        with pytest.raises(ControlError, match="not what 'export-state' gives"):
            controller_state.import_state(PROD, wrong.encode())
    assert (other / ".lab/test/ca.pem").read_text() == "what clients verify the site with\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"age-encryption.org/v1\n-> scrypt \xf4\x8a\n", "sealed: age -d FILE | "),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n", "sealed: age -d FILE | "),
        (b"\n", "nothing was given"),
        (b"\xf4\x8a", "not what 'export-state' gives"),
    ],
)
def test_what_is_no_state_is_told_apart_from_one_that_is_still_sealed(
    given: bytes, said: str, tmp_path: Path, home: Path
) -> None:
    """As `import-state dev.state.age` of somebody whose controller is gone: it was a traceback."""
    path = tmp_path / "state"
    path.write_bytes(given)
    options = dataclasses.replace(Options.read(), file=str(path))
    with pytest.raises(ControlError, match=re.escape(said)):
        import_state_command.run(PROD, options)
    assert not (home / ".lab/test/keys").exists()
