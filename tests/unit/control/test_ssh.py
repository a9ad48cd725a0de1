"""What is told of a machine that ssh does not reach: by ssh itself, to a port of this computer that nobody listens on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from control import ssh, status
from control.errors import OperationError
from tests.unit.control.topologies import ONE


@pytest.fixture
def nobody(home: Path) -> int:
    """A port where nothing answers, in a configuration as Vagrant writes it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    folder = home / ".lab" / "test"
    folder.mkdir(parents=True)
    (folder / "ssh_config").write_text(
        f"Host one\n  HostName 127.0.0.1\n  Port {port}\n  LogLevel FATAL\n"
    )
    return port


def test_a_machine_that_is_not_reached_is_told_of_by_the_reason_and_no_command(nobody: int) -> None:
    with pytest.raises(OperationError) as refused:
        ssh.run(ONE, "one", "some --long program")
    expected = f"one: ssh: connect to host 127.0.0.1 port {nobody}: Connection refused"
    assert str(refused.value) == expected
    table, is_well, _ = status.table(ONE)
    assert not is_well
    assert f"port {nobody}: Connection refused" in table
    assert "salt-call" not in table
