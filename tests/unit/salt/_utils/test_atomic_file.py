"""A file is written whole or not at all, and is never open wider than it is to be."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def atomic_file(load_source: Callable[..., ModuleType]) -> ModuleType:
    return load_source("salt/_utils/atomic_file.py")


@pytest.mark.parametrize("data", ["text\n", b"bytes\0\xff"])
def test_a_file_is_replaced_with_its_mode(
    atomic_file: ModuleType, tmp_path: Path, data: str | bytes
) -> None:
    target = tmp_path / "new" / "file"
    atomic_file.write(str(target), "before", mode=0o644)
    atomic_file.write(str(target), data, mode=0o640)
    assert target.read_bytes() == (data if isinstance(data, bytes) else data.encode())
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(target.parent) == ["file"]


def test_by_default_it_is_for_its_owner_alone(atomic_file: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "private" / "file"
    atomic_file.write(str(target), "x", folder_mode=0o700)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(
    atomic_file: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "file"
    target.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_file.os, step, full)
    with pytest.raises(OSError, match="No space"):
        atomic_file.write(str(target), "after")
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_is_made_has_its_mode_whatever_the_umask(
    atomic_file: ModuleType, tmp_path: Path
) -> None:
    """Services run as accounts of their own: one that root alone can enter takes them down."""
    before = os.umask(0o077)
    try:
        atomic_file.write(str(tmp_path / "a/b/file"), "x", mode=0o644)
        atomic_file.write(str(tmp_path / "c/private/file"), "x", folder_mode=0o700)
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode)
        for name in ("a", "a/b", "c", "c/private")
    }
    assert modes == {"a": 0o755, "a/b": 0o755, "c": 0o755, "c/private": 0o700}
    assert stat.S_IMODE((tmp_path / "a/b/file").stat().st_mode) == 0o644
