"""Which files git knows, whatever the caller's own settings hide."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from control import bundle, git
from control.errors import ControlError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    for words in (["init", "-q"], ["add", "-A"]):
        (folder / "known.sls").touch()
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_a_new_file_is_carried_whatever_gits_own_settings_hide(
    repository: Path, hostile: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("new.sls", "né w.sls"):
        (repository / name).touch()
    (repository / ".gitignore").write_text("secret\n")
    (repository / "secret").touch()
    for name in ("GIT_CONFIG_GLOBAL", "HOME"):
        monkeypatch.setenv(name, hostile[name])
    found = git.list_files(repository)
    assert found == [".gitignore", "known.sls", "new.sls", "né w.sls"]


def test_a_repository_that_git_will_not_read_is_no_folder_without_one(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else files that are ignored, such as secrets, would be carried."""
    (repository / ".git" / "index").write_text("nonsense")
    with pytest.raises(ControlError, match="git ls-files in"):
        git.list_files(repository)
    monkeypatch.setattr(bundle, "ROOT", repository)
    with pytest.raises(ControlError):
        list(bundle._list_files())
