"""The archive: the same bytes wherever and whenever it is made."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path, PurePosixPath


def pack(root: str, files: dict[str, bytes], time: int) -> bytes:
    """A .tar.gz that depends on nothing but its arguments (and the version of zlib)."""
    folders = {
        parent.as_posix()
        for name in files
        for parent in PurePosixPath(root, name).parents
        if parent.as_posix() != "."
    }
    members = {f"{root}/{name}": content for name, content in files.items()}
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=buffer, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in sorted(folders | set(members)):
            entry = tarfile.TarInfo(name)
            entry.mtime = time
            if name in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size = len(members[name])
                entry.mode = 0o755 if name.startswith(f"{root}/bin/") else 0o644
                archive.addfile(entry, io.BytesIO(members[name]))
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write so that the file is never there in part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
