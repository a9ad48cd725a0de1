"""Debian's packages as files, each compared with the hash of the lock; kept for all checkouts of this user."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from .. import local_state
from ..errors import OperationError
from ..options import Options
from ..shell import say
from . import lock
from .lock import Lock, Package

CACHE = local_state.CACHE / "debs"
# Every package that Debian ever had: what the mirror has no longer.
SNAPSHOT = "https://snapshot.debian.org/archive"
# Seconds that a server may be silent.
PATIENCE = 60
# Days since what is kept was last asked for.
DAYS = 30


def _urls(package: Package, locked: Lock, options: Options) -> list[str]:
    archive, _, rest = package.path.partition("/")
    return [
        f"{lock.mirror(options)}/{package.path}",
        f"{SNAPSHOT}/{archive}/{locked.snapshot}/{rest}",
    ]


def _fetch(url: str, package: Package) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        content: bytes = answer.read(package.size + 1)
    real = hashlib.sha256(content).hexdigest()
    if real != package.sha256:
        raise OperationError(
            f"{url}: sha256 is {real}, but the lock says {package.sha256}: damaged, cut off or tampered with;"
            " refused"
        )
    return content


def _is_whole(path: Path, package: Package) -> bool:
    try:
        is_whole = hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):
        os.utime(path)
    return is_whole


def forget_old(folder: Path, pattern: str) -> None:
    """Remove what is kept in ``folder``, its names being hashes, and nobody asked for in a long time."""
    for path in folder.glob(pattern):
        if not re.fullmatch(r"[0-9a-f]{64}(-[0-9a-f]{64})?|\.new-.*", path.name):
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime < DAYS * 24 * 3600:
                continue
            if path.is_dir():
                # Under a name that is never read: what is left of it, where this is killed, is no image.
                shutil.rmtree(path.rename(path.with_name(f".new-{path.name}")))
            else:
                path.unlink()


def _get(package: Package, locked: Lock, options: Options) -> None:
    reasons = []
    for url in _urls(package, locked, options):
        try:
            content = _fetch(url, package)
        except (urllib.error.URLError, OSError) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', error)}")
            continue
        with tempfile.NamedTemporaryFile(dir=CACHE, prefix=".new-", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.replace(file.name, CACHE / package.sha256)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
        return
    raise OperationError(
        f"{package.name} {package.version} of the lock cannot be had ({'; '.join(reasons)}). No network? A mirror"
        f" keeps no old versions: {lock.HOW_TO_RENEW} takes today's"
    )


def fetch(packages: Iterable[Package], locked: Lock, options: Options) -> dict[str, Path]:
    """The .deb of each, by name; OperationError for one that is nowhere or not what the lock says."""
    CACHE.mkdir(parents=True, exist_ok=True)
    paths, missing = {}, []
    for package in packages:
        paths[package.name] = CACHE / package.sha256
        if not _is_whole(paths[package.name], package):
            missing.append(package)
    if missing:
        size = sum(one.size for one in missing) / 1e6
        say(f"fetching {len(missing)} packages, {size:.0f} MB, from {lock.mirror(options)}")
    for package in missing:
        _get(package, locked, options)
    return paths
