"""What clients verify the edge with."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import endpoint, local_state, ssh, topology
from control.topology import Topology

GOOD: dict[str, Any] = {
    "name": "test",
    "domain": "counter.test",
    "network": "10.1.0.0/24",
    "machines": {
        "one": {"address": "10.1.0.2", "roles": ["edge", "app"]},
        "two": {"address": "10.1.0.3", "roles": ["store"]},
    },
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Topology]:
    """`load(data)`: the topology `test`, with `data` as its file."""

    def read(data: Any, name: str = "test") -> Topology:
        text = data if isinstance(data, str) else yaml.safe_dump(data)
        (tmp_path / "test.yaml").write_text(text, encoding="utf-8")
        return topology.load(name, tmp_path)

    return read


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
