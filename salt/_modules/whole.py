"""
Files that are written whole or not at all: what a reader finds is the old content or the new one,
also after a power cut, and never for a moment with a wider mode than it is to have.
"""

import os
import tempfile

__virtualname__ = "whole"


def __virtual__():
    return __virtualname__


def write(path, data, mode=0o600, folder_mode=0o755):
    """
    Replace ``path`` by ``data`` (text or bytes). Beside it, written to the disk, then renamed; when
    anything fails, nothing has changed and nothing is left behind.

    mode
        of the file, as a number: ``0o600``. The owner is who runs this, as a rule root
    folder_mode
        of its folder, should that be missing

    For other modules and states, never for a command line, which everybody could read.
    """
    parent = os.path.dirname(path)
    folder(parent, folder_mode)
    before = _current(path)
    handle, staged = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
    sync(parent)
    # Until the end of the run: a service that does not work with it goes back (checked.take_back).
    __context__.setdefault("whole.replaced", {}).setdefault(path, before)


def _current(path):
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            mode = stat.st_mode & 0o7777
            return {"data": file.read(), "mode": mode, "uid": stat.st_uid, "gid": stat.st_gid}
    except FileNotFoundError:
        return None


def folder(path, mode=0o755):
    """
    Make folder ``path`` where it is missing, with ``mode`` whatever the caller's umask is; those above it
    that are missing too are open to all: services run as accounts of their own.
    """
    if os.path.isdir(path):
        return
    folder(os.path.dirname(path))
    os.mkdir(path)
    os.chmod(path, mode)


def sync(folder):
    """The names in ``folder`` are on the disk: a rename outlives a power cut only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
