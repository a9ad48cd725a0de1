"""
What a release is in a repository of artifacts, wherever that is: two or three files, ``NAME-VERSION.tar.gz``, its
``.sha256`` and, where there is a key to sign with, its ``.sig``. The hash comes last and makes the release
exist; nothing that exists is ever replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from ..application import NAME
from ..errors import ControlError, UserError

# What a version may be. The same wherever one is made or taken: webapp/builder/sources.py,
# salt/_modules/artifact.py, salt/counter/schema.yaml (a test compares them).
VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
VERSION_PATTERN = re.compile(VERSION)


class FileExists(Exception):
    """There is a file of that name, and it stays."""


class NoListing(ControlError):
    """A repository that gives what one asks for by name, and does not say what there is."""


@dataclass(frozen=True)
class StoredRelease:
    """One stored release. ``at`` is when, in ISO 8601, where the repository tells."""

    version: str
    at: str = ""


class Repository(Protocol):
    """Files by their name; ``shared`` when others deploy from it too, ``is_default`` when nobody chose it. ``application``:
    whose releases are meant."""

    where: str
    application: str
    shared: bool
    is_default: bool

    def releases(self) -> list[StoredRelease]:
        """All of them, oldest first where the repository tells the time; NoListing where it does not say."""

    def read(self, version: str, name: str) -> bytes | None:
        """Content of a file of a release; None without one."""

    def add(self, version: str, name: str, content: bytes) -> None:
        """Put a file there, whole; Exists when there is one."""


def check_version(version: str) -> str:
    """``version``, if it can be one; UserError otherwise."""
    if not VERSION_PATTERN.fullmatch(version):
        raise UserError(f"VERSION={version}: use letters, digits, '.', '_' and '-', at most 128", 2)
    return version


def archive_name(version: str, name: str = NAME) -> str:
    """Name of the archive of a release of application ``name``."""
    return f"{name}-{version}.tar.gz"


def version_in(archive: str, name: str = NAME) -> str:
    """Version of the release of application ``name`` with an archive of that name."""
    return archive.removeprefix(f"{name}-").removesuffix(".tar.gz")


def listed(name: str) -> re.Pattern[str]:
    """The hashes of an application's releases, as a repository lists them; the group is the version. Another's name
    may begin with this one's: a version of any but the counter begins with a digit, or is one that was built, BASE-gCOMMIT
    or BASE-src.HASH."""
    first = "" if name == NAME else r"(?=[0-9]|[A-Za-z][A-Za-z0-9._]*-(?:g[0-9a-f]{12}|src\.))"
    return re.compile(rf"(?<![\w.-]){re.escape(name)}-({first}{VERSION}?)\.tar\.gz\.sha256\b")
