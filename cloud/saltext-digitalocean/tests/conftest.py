"""An account at the stand-in of the API, and the driver that speaks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from salt_cloud import PUBLIC_KEY, Cloud
from standin_digitalocean import Standin


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """An account with the SSH key `ops` and nothing else; the environment speaks to it."""
    with Standin(pace=0.05, lag=0.02) as standin:
        standin.add_key("ops", PUBLIC_KEY)
        for name, value in standin.environment().items():
            monkeypatch.setenv(name, value)
        yield standin


@pytest.fixture
def cloud(tmp_path: Path, api: Standin) -> Cloud:
    return Cloud(tmp_path, api)
