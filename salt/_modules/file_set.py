"""
Files that go live together: how they differ from those on the machine, the swap, and the way back.

A file as it is to be is ``{data: bytes, mode: int, user, group, secret: bool}``, as it is or was ``{data, mode,
uid, gid}``, or None where there is none.
"""

import difflib
import glob
import grp
import hashlib
import os
import pwd

from salt.exceptions import CommandExecutionError

__virtualname__ = "file_set"

# What this run replaced, in __context__: {path: what was there before, as swap() returns it}.
_REPLACED = "file_set.replaced"


def __virtual__():
    return __virtualname__


def owner(spec):
    """(uid, gid) of a file to be, or None where the account does not exist (yet)."""
    try:
        return pwd.getpwnam(spec["user"]).pw_uid, grp.getgrnam(spec["group"]).gr_gid
    except KeyError:
        return None


def differences(wanted, clean=()):
    """
    ``({path: shown difference}, [paths to remove])`` between the machine and ``wanted``.

    clean
        glob patterns; files that match one and are not wanted are to be removed
    """
    changes = {}
    for path, spec in wanted.items():
        now = __utils__["atomic_file.read"](path)
        if now is None:
            changes[path] = "new"
        elif now["data"] != spec["data"]:
            changes[path] = (
                "changed (secret: not shown)"
                if spec["secret"]
                else _diff(path, now["data"], spec["data"])
            )
        elif now["mode"] != spec["mode"] or (now["uid"], now["gid"]) != owner(spec):
            changes[path] = f"owner or mode, to {spec['user']}:{spec['group']} {spec['mode']:04o}"
    extra = sorted(path for pattern in clean for path in glob.glob(pattern) if path not in wanted)
    for path in extra:
        changes[path] = "removed: not managed any more"
    return changes, extra


def _diff(path, old, new):
    lines = difflib.unified_diff(
        old.decode(errors="replace").splitlines(),
        new.decode(errors="replace").splitlines(),
        f"{path} (now)",
        f"{path} (new)",
        lineterm="",
        n=1,
    )
    shown = list(lines)
    if len(shown) > 60:
        shown = [*shown[:60], f"… and {len(shown) - 60} lines more"]
    return "\n".join(shown)


def swap(wanted, extra=()):
    """
    Put the files in place, each by rename, all or none, and remove ``extra``. Returns what was
    there before, for :py:func:`restore`: ``{path: {data, mode, uid, gid} or None}``.
    """
    before = {path: __utils__["atomic_file.read"](path) for path in (*wanted, *extra)}
    staged = {}
    try:
        # First all the writing: a full disk shows itself before the first file is replaced.
        for path, spec in wanted.items():
            uid_gid = owner(spec)
            if uid_gid is None:
                raise CommandExecutionError(
                    f"{path}: no user {spec['user']} or group {spec['group']} on this machine"
                )
            __utils__["atomic_file.make_folder"](os.path.dirname(path))
            staged[path] = __utils__["atomic_file.stage"](path, spec["data"], spec["mode"], uid_gid)
    except BaseException:
        _discard(staged.values())
        raise
    try:
        for path, temporary in staged.items():
            os.rename(temporary, path)
        for path in extra:
            os.unlink(path)
    except OSError:
        restore(before)
        _discard(staged.values())
        raise
    for folder in {os.path.dirname(path) for path in before}:
        __utils__["atomic_file.sync"](folder)
    remember(before)
    return before


def remember(before):
    """Until the end of the run, what was there before: a service that does not work with what replaced it
    goes back (:py:func:`take_back`)."""
    for path, file in before.items():
        __context__.setdefault(_REPLACED, {}).setdefault(path, file)


def _discard(paths):
    for path in paths:
        __utils__["atomic_file.remove"](path)


def restore(before):
    """Undo :py:func:`swap`, given what it returned."""
    for path, file in before.items():
        if file is None:
            if os.path.exists(path):
                os.unlink(path)
        else:
            uid_gid = (file["uid"], file["gid"])
            staged = __utils__["atomic_file.stage"](path, file["data"], file["mode"], uid_gid)
            os.rename(staged, path)


def take_back(paths):
    """
    Undo, of ``paths``, what earlier states of this run replaced: who uses them does not work with
    them. What was new stays, for there is nothing to go back to. Returns the paths that are back.
    """
    replaced = __context__.get(_REPLACED, {})
    before = {path: replaced.pop(path) for path in paths if replaced.get(path)}
    read = __utils__["atomic_file.read"]
    before = {path: file for path, file in before.items() if file != read(path)}
    restore(before)
    return sorted(before)


def digests(paths):
    """``{path: sha256 of the file, or None where there is none}``."""
    files = {path: __utils__["atomic_file.read"](path) for path in paths}
    return {
        path: hashlib.sha256(file["data"]).hexdigest() if file else None
        for path, file in files.items()
    }
