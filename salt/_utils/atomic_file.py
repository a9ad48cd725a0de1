"""
Files that are written whole or not at all: what a reader finds is the old content or the new one,
also after a power cut, and never for a moment with a wider mode than it is to have.

Loaded by Salt (``__utils__``), and by path by the controller. Needs nothing but Python.
"""

import concurrent.futures
import os


def write(path, data, mode=0o600, folder_mode=0o755):
    """
    Replace ``path`` by ``data`` (text or bytes). Beside it, written to the disk, then renamed; when
    anything fails, nothing has changed and nothing is left behind. Returns what :py:func:`read` says before.

    mode
        of the file, as a number: ``0o600``. The owner is who runs this, as a rule root
    folder_mode
        of its folder, should that be missing
    """
    make_folder(os.path.dirname(path), folder_mode)
    before = read(path)
    staged = stage(path, data, mode)
    try:
        os.rename(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
    sync(os.path.dirname(path))
    return before


def stage(path, data, mode, owner=None):
    """
    The path of a file beside ``path`` that has ``data``, on the disk and ready to be renamed. What a
    killed run left there is replaced.

    owner
        ``(uid, gid)``; by default who runs this
    """
    staged = f"{path}.stack-new"
    try:
        create(staged, data, mode, owner)
    except BaseException:
        remove(staged)
        raise
    return staged


def create(path, data, mode, owner=None):
    """Write a new file in place of ``path``, see :py:func:`stage`; for where nobody reads it yet."""
    # A file that a killed run left here keeps its own, perhaps wider, mode until the end.
    remove(path)
    # Never through a link that somebody puts there now.
    only_new = os.O_EXCL | os.O_NOFOLLOW
    with open(path, "wb", opener=lambda p, flags: os.open(p, flags | only_new, 0o600)) as file:
        file.write(data.encode() if isinstance(data, str) else data)
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def remove(path):
    """Remove a file or link where there is one."""
    if os.path.lexists(path):
        os.unlink(path)


def read(path):
    """``{data: bytes, mode, uid, gid}`` of a file, None where there is none."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            mode = stat.st_mode & 0o7777
            return {"data": file.read(), "mode": mode, "uid": stat.st_uid, "gid": stat.st_gid}
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_text(path):
    """The text of a file, None where there is none. Raises OSError and ValueError as open() does."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def make_folder(path, mode=0o755):
    """
    Make folder ``path`` where it is missing, with ``mode`` whatever the caller's umask is; those above it
    that are missing too are open to all: services run as accounts of their own.
    """
    if os.path.isdir(path):
        return
    make_folder(os.path.dirname(path))
    os.mkdir(path)
    os.chmod(path, mode)


def set_mode(path, mode):
    """Whether ``path`` had another mode, which is now ``mode``."""
    if os.stat(path).st_mode & 0o7777 == mode:
        return False
    os.chmod(path, mode)
    return True


def link(path, target):
    """Let the symbolic link ``path`` point to ``target``, at once: there is no moment without a link."""
    remove(f"{path}.new")
    os.symlink(target, f"{path}.new")
    os.rename(f"{path}.new", path)


def sync(path):
    """A file's content, or the names in a folder, are on the disk: a rename outlives a power cut only then."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder):
    """
    All of ``folder`` is on the disk. File by file, for flushing the whole file system would hold up the
    store that may be on it (each acknowledged count waits for its own flush); many at a time, for one by
    one each would wait for the journal.
    """
    folders = [parent for parent, _, _ in os.walk(folder)]
    files = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(sync, [*files, *folders]))
