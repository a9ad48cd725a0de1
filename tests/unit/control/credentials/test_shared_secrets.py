"""Secrets that machines share, and their certificates: made once, for those that need them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import (
    machine_pillar,
    paths,
)
from control.credentials import certificates, shared_secrets
from control.errors import ControlError
from control.topology import Machine
from tests.unit.control.topologies import ONE, PROD

pytestmark = pytest.mark.usefixtures("home")


def test_a_machine_gets_the_secrets_of_its_roles_and_no_others() -> None:
    given = {
        name: shared_secrets.make_for(PROD, machine) for name, machine in PROD.machines.items()
    }
    assert {name: sorted(found) for name, found in given.items()} == {
        "edge1": ["pki"],
        "app1": ["pki", "redis-counter"],
        "app2": ["pki", "redis-counter"],
        "store1": ["backup-identity", "pki", "redis-counter"],
        "monitor1": ["pki"],
    }
    assert "AGE-SECRET-KEY-1" in str(given["store1"]["backup-identity"])
    passwords = {found["redis-counter"] for found in given.values() if "redis-counter" in found}
    assert len(passwords) == 1, "app and store know the same"
    keys = {found["pki"]["key"] for found in given.values()}  # type: ignore[index]
    assert len(keys) == 5, "each has a key of its own"


def test_a_topology_of_one_machine_makes_its_own_secrets(home: Path) -> None:
    assert shared_secrets.make_for(ONE, ONE.machines["one"]) == {}
    assert [path for path, _, _ in machine_pillar.make_files(ONE, "one", "1")] == [paths.IDENTITY]
    assert not (home / ".lab").exists()


def test_secrets_are_made_once_also_by_many_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda _: shared_secrets.make_for(PROD, PROD.machines["app1"]), range(16))
        )
    assert all(one == found[0] for one in found)


def test_what_is_kept_is_for_its_owner_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        shared_secrets.make_for(PROD, PROD.machines["app1"])
    finally:
        os.umask(before)
    place = home / ".lab" / "test" / "secrets"
    assert place.stat().st_mode & 0o777 == 0o700
    for path in place.iterdir():
        if path.stat().st_size:
            assert path.stat().st_mode & 0o777 == 0o600, path


def test_secrets_travel_in_a_file_of_their_own_that_only_root_reads() -> None:
    files = {
        path: (text, mode) for path, text, mode in machine_pillar.make_files(PROD, "app1", "1")
    }
    text, mode = files[paths.SECRETS]
    assert mode == 0o600
    assert set(yaml.safe_load(text)) == {"pki", "redis-counter"}
    assert b"PRIVATE KEY" not in files[paths.IDENTITY][0]


def test_the_ca_key_never_leaves_the_controller(home: Path) -> None:
    (home / "x").mkdir()
    for host in PROD.machines:
        sent = b"".join(text for _, text, _ in machine_pillar.make_files(PROD, host, "1"))
        for path in (home / ".lab/test/secrets").glob("*.key"):
            own = path.name == f"machine-{host}.key"
            body = path.read_text().splitlines()[1]
            assert (body.encode() in sent) == own, f"{path.name} in what {host} gets"


def test_machines_believe_the_certificate_that_the_controller_makes(
    load_source: Callable[..., Any],
) -> None:
    """Judged by the formula's own eyes."""
    checks = load_source("salt/_utils/certificate_checks.py")
    machine = PROD.machines["app1"]
    parts = shared_secrets.make_for(PROD, machine)["pki"]
    assert checks.problems(parts, "app1", [machine.address, "127.0.0.1"], 30) == []


def test_an_application_gets_a_certificate_of_its_own_that_passes_for_no_machine(
    load_source: Callable[..., Any], home: Path
) -> None:
    """Judged by the formula's own eyes. Each machine with an application gets its own, no other any."""
    checks = load_source("salt/_utils/certificate_checks.py")
    given = {
        host: shared_secrets.make_for(PROD, machine)["pki"]
        for host, machine in PROD.machines.items()
    }
    keys = set()
    for host, parts in given.items():
        assert isinstance(parts, dict)
        assert checks.identity_shape(parts) is None
        own = parts.get("application")
        assert bool(own) == ("app" in PROD.machines[host].roles)
        if own:
            own = {**own, "ca": parts["ca"]}
            assert (
                checks.problems(
                    own, certificates.application(host), renew_days=30, application=True
                )
                == []
            )
            assert checks.problems(own, host) != []
            keys |= {own["key"], parts["key"]}
    assert len(keys) == 4
    assert given == {
        host: shared_secrets.make_for(PROD, one)["pki"] for host, one in PROD.machines.items()
    }
    shared_secrets.delete_machine_keys(PROD, "app1")
    assert not list((home / ".lab/test/secrets").glob("*app1*"))


def test_a_certificate_is_made_anew_when_it_no_longer_fits_or_lasts(home: Path) -> None:
    machine = PROD.machines["app1"]
    first = shared_secrets.make_for(PROD, machine)["pki"]
    assert shared_secrets.make_for(PROD, machine)["pki"] == first
    moved = Machine("app1", "10.0.0.99", ("app",))
    second = shared_secrets.make_for(PROD, moved)["pki"]
    assert second != first
    assert second["ca"] == first["ca"], "the others still trust it"  # type: ignore[index]
    place = home / ".lab/test/secrets"
    ca, ca_key = (place / "ca.crt").read_text(), (place / "ca.key").read_text()
    old, key = certificates.issue(ca, ca_key, "app1", ["10.0.0.99", "127.0.0.1"], 29)
    (place / "machine-app1.crt").write_text(old)
    (place / "machine-app1.key").write_text(key)
    assert shared_secrets.make_for(PROD, moved)["pki"]["certificate"] != old  # type: ignore[index]


def test_an_interrupted_rotation_goes_on_with_the_value_it_had(home: Path) -> None:
    app = PROD.machines["app1"]
    old = shared_secrets.make_for(PROD, app)["redis-counter"]
    shared_secrets.rotate(PROD, "redis-counter")
    new = shared_secrets.make_for(PROD, app)["redis-counter"]
    assert new != old
    shared_secrets.rotate(PROD, "redis-counter")
    assert shared_secrets.make_for(PROD, app)["redis-counter"] == new
    shared_secrets.delete_previous(PROD, "redis-counter")
    shared_secrets.rotate(PROD, "redis-counter")
    assert shared_secrets.make_for(PROD, app)["redis-counter"] not in (old, new)


@pytest.mark.parametrize("act", ["of", "rotate"])
def test_secrets_are_not_made_anew_for_machines_that_share_some(
    home: Path, reached: dict[str, str], act: str
) -> None:
    """Else a deploy from a new checkout cuts the machines off from each other."""
    reached["store1"] = "yes\n"
    with pytest.raises(
        ControlError, match=r"store1 has secrets .* DEPLOY_STATE.*, nothing was changed"
    ):
        if act == "of":
            shared_secrets.make_for(PROD, PROD.machines["app1"])
        else:
            shared_secrets.rotate(PROD, "redis-counter")
    assert [one.name for one in (home / ".lab/test/secrets").iterdir()] == [".lock"]
    reached.clear()
    assert shared_secrets.make_for(PROD, PROD.machines["app1"]), (
        "new machines get them all the same"
    )
    reached["store1"] = "yes\n"
    assert shared_secrets.make_for(PROD, PROD.machines["app2"]), "this is where they were made"


def test_an_authority_without_its_certificate_is_made_anew_with_all_that_it_signs(
    home: Path,
) -> None:
    """As docs/tickets/29-rotation.md rotates it; machines that share secrets already are no obstacle."""
    before = {name: shared_secrets.make_for(PROD, one) for name, one in PROD.machines.items()}
    (home / ".lab" / "test" / "secrets" / "ca.crt").unlink()
    after = {name: shared_secrets.make_for(PROD, one) for name, one in PROD.machines.items()}
    for name in PROD.machines:
        for part in ("ca", "certificate", "key"):
            assert after[name]["pki"][part] != before[name]["pki"][part], (name, part)
    assert len({secret["pki"]["ca"] for secret in after.values()}) == 1
    assert after["app1"]["redis-counter"] == before["app1"]["redis-counter"]
