"""What the controller's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from control import local_state


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept of a topology is kept here."""
    monkeypatch.setattr(local_state, "ROOT", tmp_path)
    return tmp_path
