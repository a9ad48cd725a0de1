"""What the controller's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import local_state, ssh, topology
from control.topology import Topology


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept of a topology is kept here."""
    monkeypatch.setattr(local_state, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Topology]:
    """`load(data)`: the topology `test`, with `data` as its file."""

    def read(data: Any, name: str = "test") -> Topology:
        text = data if isinstance(data, str) else yaml.safe_dump(data)
        (tmp_path / "test.yaml").write_text(text, encoding="utf-8")
        return topology.load(name, tmp_path)

    return read


@pytest.fixture
def reached(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """`{host: what it answers}`, in a checkout that has nothing but the ssh configuration."""
    (home / ".lab" / "test").mkdir(parents=True)
    (home / ".lab" / "test" / "ssh_config").write_text("Host *\n")
    answers: dict[str, str] = {}
    monkeypatch.setattr(ssh, "run", lambda where, host, *words, **more: answers.get(host, ""))
    return answers
