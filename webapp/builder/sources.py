"""The sources of an application: which files there are, and which version they make."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from builder.errors import BuildError

# What a version may be, as whatever stores or deploys one takes it (control/artifacts/files.py).
VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
WEBAPP = Path(__file__).resolve().parents[1]
# What of webapp/ is in every artifact, or makes it.
RUNTIME = ("src/serving/", "builder/", "build.py", "serving.lock")
# Where there is no commit to take a time from: the first that a zip file can hold.
NO_TIME = int(datetime.datetime(1980, 1, 1, tzinfo=datetime.UTC).timestamp())
# Never part of the sources, also where no .gitignore says so.
NOT_SOURCES = {"__pycache__", ".git", ".pytest_cache", ".ruff_cache", ".venv", "build", "dist"}


@dataclass(frozen=True)
class Source:
    """The state of the sources: version, commit (None without), time (Unix seconds), origin."""

    version: str
    commit: str | None
    time: int
    built_from: str
    # Files that are not as the commit has them.
    uncommitted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(VERSION, self.version):
            raise BuildError(
                f"version: {self.version} could be stored and deployed nowhere: use letters,"
                " digits, '.', '_' and '-', at most 128"
            )


def _git(folder: Path, *arguments: str) -> str | None:
    """Standard output of git in a folder; None if git fails. BuildError if there is no git.

    Whatever the caller's own settings of git say: no variable of git's gets through, what is
    ignored is said by the repository alone, and only commands for programs are used, which no
    setting of `log` or `status` changes.
    """
    settings = ["-c", "core.excludesFile=/dev/null", "-c", "core.fsmonitor=false"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *settings, *arguments],
            cwd=folder,
            env={**kept, "LC_ALL": "C.UTF-8", "LANGUAGE": ""},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise BuildError("the sources are in a git repository: install git") from None
    if done.returncode and "dubious ownership" in done.stderr:
        raise BuildError(f"git refuses to read the repository: {done.stderr.strip()}")
    return done.stdout if done.returncode == 0 else None


def _in_git(folder: Path) -> bool:
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))


def _is_source(path: PurePath) -> bool:
    return not NOT_SOURCES & set(path.parts) and not any(
        part.endswith(".egg-info") for part in path.parts
    )


def source_files(folder: Path) -> list[str]:
    """Paths of all source files, relative to the folder, sorted: tracked and new, not ignored.

    BuildError for a link, which would bring in what lies anywhere on this computer.
    """
    listed = None
    if _in_git(folder):
        listed = _git(folder, "ls-files", "-z", "-co", "--exclude-standard", "--", ".")
    if listed is None:
        paths = [path.relative_to(folder) for path in folder.rglob("*")]
    else:
        paths = [Path(name) for name in {name for name in listed.split("\0") if name}]
    paths = [path for path in paths if _is_source(path)]
    for path in paths:
        # What git tracks below a folder may be below a link by now.
        for part in (path, *path.parents[:-1]):
            if (folder / part).is_symlink():
                raise BuildError(f"{folder / part} is a link: put the file itself there")
    return sorted(path.as_posix() for path in paths if (folder / path).is_file())


def _uncommitted(folder: Path) -> list[str]:
    """Sources that differ from the commit by one byte, by not being there, or by being new.

    Compared here: `git status` leaves out what somebody's settings or marks in the index hide, and
    what a filter, such as one of line ends, made of a file.
    """
    committed = {}
    for entry in (_git(folder, "ls-tree", "-r", "-z", "HEAD", "--", ".") or "").split("\0")[:-1]:
        (_, kind, identity), name = entry.partition("\t")[0].split(), entry.partition("\t")[2]
        if kind == "blob" and _is_source(PurePosixPath(name)):
            committed[name] = identity
    names = source_files(folder)
    return sorted(set(names) ^ set(committed)) + [
        name
        for name in names
        if name in committed
        and _blob((folder / name).read_bytes(), committed[name]) != committed[name]
    ]


def _blob(content: bytes, like: str) -> str:
    """git's name of a file's content, by the hash that made `like`."""
    hashing = hashlib.sha1 if len(like) == 40 else hashlib.sha256
    return hashing(b"blob %d\0" % len(content) + content).hexdigest()


def content_hash(folder: Path, among: tuple[str, ...] = ("",)) -> str:
    """The first 8 hexadecimal digits of a hash over names and contents of the sources."""
    total = hashlib.sha256()
    for name in source_files(folder):
        if name.startswith(among):
            content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()[:8]


def read_source(folder: Path, application: Mapping[str, Any]) -> Source:
    """Find the version: BASE-gCOMMIT, BASE-gCOMMIT.dirty.HASH, or BASE-src.HASH without git.

    The commit is the last one that touched the folder, so that other commits make no new version.
    Where the runtime is not in the folder, `.rHASH` of it follows: another one makes other bytes.
    Letters, digits, dots, _ and dashes alone: safe in file names, URLs and unit names.
    """
    base = application["version"] or _project_version(folder) or "0"
    runtime = "" if folder == WEBAPP else f".r{content_hash(WEBAPP, RUNTIME)}"
    last = ""
    if _in_git(folder):
        last = _git(folder, "rev-list", "-1", "--timestamp", "HEAD", "--", ".") or ""
    if not last.strip():
        version = f"{base}-src.{content_hash(folder)}{runtime}"
        return Source(version, None, NO_TIME, "files without a commit")
    time, commit = last.split()
    _refuse_shallow(folder, commit)
    version = f"{base}-g{commit[:12]}"
    if changed := _uncommitted(folder):
        version = f"{version}.dirty.{content_hash(folder)}{runtime}"
        origin = "a commit with uncommitted changes"
        return Source(version, commit, int(time), origin, tuple(changed))
    return Source(f"{version}{runtime}", commit, int(time), "a commit")


def _project_version(folder: Path) -> str | None:
    """What pyproject.toml says, if there is one and it does."""
    path = folder / "pyproject.toml"
    try:
        with path.open("rb") as file:
            version = tomllib.load(file).get("project", {}).get("version")
    except FileNotFoundError:
        return None
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{path}: {error}") from None
    return str(version) if version else None


def _refuse_shallow(folder: Path, commit: str) -> None:
    """In a shallow clone the oldest commit seems to have touched everything."""
    place = _git(folder, "rev-parse", "--git-path", "shallow")
    shallow = folder / place.strip() if place else None
    if shallow and shallow.is_file() and commit in shallow.read_text(encoding="ascii").split():
        raise BuildError(
            f"this clone is shallow, and the last commit that touched {folder.name}/ can't be told;"
            " run: git fetch --unshallow"
        )
