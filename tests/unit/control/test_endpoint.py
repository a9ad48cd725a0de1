"""What clients verify the edge with."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control import endpoint, local_state, ssh
from control.errors import OperationError
from control.topology import Topology
from tests.unit.control.topologies import GOOD


def test_clients_get_the_given_certificate_where_the_machine_has_no_ca_of_its_own(
    load: Callable[..., Topology], tmp_path: Path, monkeypatch: Any
) -> None:
    """Also when the CA of before is still there; with neither it fails."""
    folder = tmp_path / "pki"
    folder.mkdir()

    def run(_: Any, host: str, command: str) -> str:
        assert host == "one"
        line = command.replace("/etc/stack/pki", str(folder))
        return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout

    monkeypatch.setattr(ssh, "run", run)
    monkeypatch.setattr(local_state, "folder", lambda _: tmp_path)
    where = load(GOOD)
    with pytest.raises(subprocess.CalledProcessError):
        endpoint.fetch_ca(where)
    (folder / "ca.pem").write_text("its own", encoding="ascii")
    assert endpoint.fetch_ca(where).read_text(encoding="ascii") == "its own"
    (folder / "site.pem").write_text("given", encoding="ascii")
    assert endpoint.fetch_ca(where).read_text(encoding="ascii") == "given"


def test_an_edge_that_cannot_be_reached_is_passed_over_and_clients_have_the_shared_address(
    load: Callable[..., Topology], tmp_path: Path, monkeypatch: Any
) -> None:
    def run(_: Any, host: str, command: str) -> str:
        if host == "one":
            raise OperationError("one: unreachable")
        return f"of {host}"

    monkeypatch.setattr(ssh, "run", run)
    monkeypatch.setattr(local_state, "folder", lambda _: tmp_path)
    machines = {**GOOD["machines"], "three": {"address": "10.1.0.4", "roles": ["edge"]}}
    where = load({**GOOD, "machines": machines, "floating_address": "10.1.0.9"})
    assert endpoint.fetch_ca(where).read_text(encoding="ascii") == "of three"
    assert endpoint.url(where) == "https://10.1.0.9/"
