"""
For formulas counter and apps: what a release was when it was installed: the list of its files that lies in its own folder, the comparison
with it, and the mending.
"""

import json
import os
import shutil

__virtualname__ = "manifest"

# In a release's folder: {path: [mode, sha256]} of its files.
_FILE = "artifact.manifest"
# There: whose signature was seen when it was installed, a public key.
SIGNER = "artifact.signer"


def __virtual__():
    return __virtualname__


def write(top):
    """List the files of the release in folder ``top``, which is whole and of the right modes."""
    text = json.dumps(_files(top), indent=0)
    __utils__["atomic_file.write"](os.path.join(top, _FILE), text, mode=0o644)


def exists(top):
    """Whether the release has such a list: those of before there was one have not."""
    return os.path.exists(os.path.join(top, _FILE))


def signer(top):
    """The public key whose signature was seen when the release was installed; empty without one."""
    return (__utils__["atomic_file.read_text"](os.path.join(top, SIGNER)) or "").strip()


def set_signer(top, key):
    """Write down that ``key`` has signed it; whatever an archive itself says of its signer counts for nothing."""
    path = os.path.join(top, SIGNER)
    if not key or os.path.isdir(path):
        _remove(path)
    if key:
        __utils__["atomic_file.write"](path, f"{key}\n", mode=0o644)


def listed(top):
    """``{path: [mode, sha256]}`` of the files that the release in ``top`` was installed with; None for one of before
    there was such a list. ValueError when the list is damaged."""
    text = __utils__["atomic_file.read_text"](os.path.join(top, _FILE))
    if text is None:
        return None
    was = json.loads(text)
    entries = was.values() if isinstance(was, dict) else [None]
    if not all(isinstance(one, list) and len(one) == 2 for one in entries):
        raise ValueError(f"{_FILE} is no list of files")
    return was


def damage(top):
    """What of the release in ``top`` is not as it was installed, ``PATH: how`` each; empty when all is."""
    try:
        was = listed(top)
    except ValueError:
        return [f"{_FILE}: damaged"]
    return [] if was is None else _differences(top, was)


def _differences(top, was):
    now = _files(top)
    found = [
        f"{path}: {'missing' if path not in now else 'changed'}"
        for path, entry in was.items()
        if now.get(path) != entry
    ]
    # Python may write byte code of its own; any other file could be found in place of one of these.
    added = [path for path in now if path not in was and not path.endswith(".pyc")]
    return found + [f"{path}: is none of its files" for path in added]


def _files(top):
    """``{path: [mode, sha256]}`` of every file below ``top`` but the list itself and the signer."""
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if (inside := os.path.relpath(path, top)) not in (_FILE, SIGNER):
                mode = f"{os.lstat(path).st_mode & 0o7777:04o}"
                found[inside] = [
                    mode,
                    "link" if os.path.islink(path) else __salt__["artifact.sha256"](path),
                ]
    return dict(sorted(found.items()))


def fix_modes(top):
    """Everything below ``top`` can be read, and what its owner may execute executed, by all, and be
    written by its owner alone. Whether any could not."""
    mended = __utils__["atomic_file.set_mode"](top, 0o755)
    for folder, folders, names in os.walk(top):
        for name in folders:
            mended |= __utils__["atomic_file.set_mode"](os.path.join(folder, name), 0o755)
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                mode = 0o755 if os.stat(path).st_mode & 0o100 else 0o644
                mended |= __utils__["atomic_file.set_mode"](path, mode)
    return mended


def mend(top, target):
    """Make the release in ``target``, which instances may be running, the one in ``top``: file by file,
    each whole, and the list of them last."""
    wrong = {line.partition(": ")[0] for line in _differences(target, _files(top))}
    for path in sorted(wrong):
        old, new = os.path.join(target, path), os.path.join(top, path)
        if not os.path.exists(new):
            os.unlink(old)
            continue
        if os.path.isdir(old) and not os.path.islink(old):
            shutil.rmtree(old)
        __utils__["atomic_file.make_folder"](os.path.dirname(old))
        os.rename(new, old)
    _remove(os.path.join(target, SIGNER))
    for name in (SIGNER, _FILE):
        if os.path.exists(os.path.join(top, name)):
            os.rename(os.path.join(top, name), os.path.join(target, name))
    __utils__["atomic_file.sync_tree"](target)


def _remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        __utils__["atomic_file.remove"](path)
