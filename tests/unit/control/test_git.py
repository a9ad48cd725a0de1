"""Which files git knows, whatever the caller's own settings hide."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from control import bundle, git
from control.errors import ControlError

GITCONFIG = """
[status]
    showUntrackedFiles = no
[log]
    showSignature = true
[core]
    quotePath = true
    autocrlf = true
    excludesFile = {folder}/ignored
[color]
    ui = always
"""


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """An environment with everything odd that a login may have."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("yaml", "json", "pathlib"):
        (folder / f"{name}.py").write_text("raise SystemExit('not the real one')")
    (folder / "gitconfig").write_text(GITCONFIG.format(folder=folder))
    (folder / "ignored").write_text("*.sls\n*.py\n*.lock\n")
    (folder / "bash_env").write_text("exit 3\n")
    proxies = {f"{kind}_proxy": "http://127.0.0.1:1" for kind in ("http", "https", "all")}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "tr_TR.ISO-8859-9",
        "LANGUAGE": "tr",
        "BASH_ENV": str(folder / "bash_env"),
        "CDPATH": "/usr:/etc",
        "POSIXLY_CORRECT": "1",
        "TAR_OPTIONS": "--banana",
        "GREP_OPTIONS": "-v",
        "ENV": str(folder / "bash_env"),
        "PYTHONHOME": "/nonexistent",
        "PYTHONPATH": str(folder),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2",
        "PYTHONIOENCODING": "latin-1",
        "GIT_DIR": "/nonexistent",
        "GIT_INDEX_FILE": "/nonexistent",
        "GIT_WORK_TREE": "/etc",
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
        **proxies,
        **{name.upper(): value for name, value in proxies.items()},
    }


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
