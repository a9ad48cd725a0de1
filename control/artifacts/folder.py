"""A repository that is a directory."""

from __future__ import annotations

import datetime
import os
import tempfile
from pathlib import Path

from ..application import NAME
from . import files
from .files import FileExists, StoredRelease


class Folder:
    """A directory on this computer, or one that is mounted here."""

    shared = False
    application = NAME

    def __init__(self, path: Path, is_default: bool = False) -> None:
        self.path, self.where, self.is_default = path, str(path), is_default

    def releases(self) -> list[StoredRelease]:
        stored = []
        for path in self.path.glob(f"{self.application}-*.tar.gz.sha256"):
            if not (match := files.listed(self.application).fullmatch(path.name)):
                # Whatever else lies there: what no deploy takes is not offered.
                continue
            when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
            stored.append(StoredRelease(match[1], when.strftime("%Y-%m-%dT%H:%M:%SZ")))
        return sorted(stored, key=lambda release: release.at)

    def read(self, version: str, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def add(self, version: str, name: str, content: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path, prefix=".new-") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            try:
                # Unlike a rename, a link never replaces.
                os.link(file.name, self.path / name)
            except FileExistsError:
                raise FileExists(str(self.path / name)) from None
