"""What the lab wants of this computer."""

from __future__ import annotations

from pathlib import Path

import pytest

from control import shell
from control.lab import host


@pytest.fixture(autouse=True)
def without_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "sudo", lambda words: words)


def test_too_few_inotify_instances_are_raised_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("128\n", encoding="ascii")
    host.raise_inotify_limit(limit)
    assert limit.read_text(encoding="ascii") == "1024\n"
    assert "128 -> 1024" in "".join(capfd.readouterr())


def test_a_limit_that_is_high_enough_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("8192\n", encoding="ascii")
    host.raise_inotify_limit(limit)
    assert limit.read_text(encoding="ascii") == "8192\n"
    assert "".join(capfd.readouterr()) == ""


def test_a_limit_that_is_not_ours_to_set_is_told_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("128\n", encoding="ascii")
    monkeypatch.setattr(shell, "sudo", lambda words: ["false"])
    host.raise_inotify_limit(limit)
    assert limit.read_text(encoding="ascii") == "128\n"
    assert "sysctl fs.inotify.max_user_instances=1024" in "".join(capfd.readouterr())
    # On a kernel without inotify.
    host.raise_inotify_limit(tmp_path / "none")
