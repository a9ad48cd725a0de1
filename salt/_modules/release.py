"""
Releases of an application and the instances that run them.

A release is one immutable artifact, ``NAME-VERSION.tar.gz``, unpacked side by side with others
in ``ROOT/releases/VERSION``. An instance is a folder, ``ROOT/instances/N``, with a link to its
release and its own environment file, so that each instance can be moved, and moved back, alone.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import zlib

from salt.exceptions import CommandExecutionError

__virtualname__ = "release"

# Releases kept beside the ones in use.
KEEP = 5


def __virtual__():
    return __virtualname__


def _name(version):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", str(version)):
        raise CommandExecutionError(f"version {version!r}: use letters, digits, '.', '_' and '-'")
    return str(version)


def _dist():
    """Where artifacts are carried: beside the state tree."""
    return os.path.join(os.path.dirname(__opts__["file_roots"]["base"][0]), "dist")


def sha256(path):
    """SHA-256 of a file in hexadecimal.

    CLI Example:

    .. code-block:: bash

        salt-call release.sha256 /srv/stack/dist/counter-0.1.0.tar.gz
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def installed(root):
    """Versions unpacked under ``root``, oldest first.

    CLI Example:

    .. code-block:: bash

        salt-call release.installed /opt/counter
    """
    place = os.path.join(root, "releases")
    if not os.path.isdir(place):
        return []
    found = [name for name in os.listdir(place) if not name.startswith(".")]
    return sorted(found, key=lambda name: os.stat(os.path.join(place, name)).st_mtime)


def running(root):
    """Which release each instance is set to: ``{instance: version}``.

    CLI Example:

    .. code-block:: bash

        salt-call release.running /opt/counter
    """
    place = os.path.join(root, "instances")
    found = {}
    names = os.listdir(place) if os.path.isdir(place) else []
    for name in sorted((name for name in names if name.isdigit()), key=int):
        link = os.path.join(place, name, "release")
        if os.path.islink(link):
            found[name] = os.path.basename(os.readlink(link))
    return found


def choose(name, root, version=None):
    """
    The version to run: the one asked for; else the one that was carried with the tree
    (``machine:release``, or the only artifact in ``dist/``); else the one in use.

    CLI Example:

    .. code-block:: bash

        salt-call release.choose counter /opt/counter
    """
    if version:
        return _name(version)
    given = (__pillar__.get("machine") or {}).get("release")
    if given:
        return _name(given)
    versions = set(running(root).values())
    carried = [
        file[len(name) + 1 : -len(".tar.gz")]
        for file in (os.listdir(_dist()) if os.path.isdir(_dist()) else [])
        if file.startswith(f"{name}-") and file.endswith(".tar.gz")
    ]
    if len(carried) == 1:
        return _name(carried[0])
    if len(versions) == 1:
        return versions.pop()
    raise CommandExecutionError(
        f"{name}: which release? dist/ holds {len(carried)} artifacts and none is in use:"
        f" run 'make artifact', or set pillar {name}:version"
    )


def artifact(name, version):
    """
    Path of the carried artifact and its sha256 as the file beside it states it; the path is
    None where it was not carried, as for a release that is installed already.

    CLI Example:

    .. code-block:: bash

        salt-call release.artifact counter 0.1.0
    """
    path = os.path.abspath(os.path.join(_dist(), f"{name}-{_name(version)}.tar.gz"))
    if not os.path.exists(path):
        return None, None
    try:
        with open(f"{path}.sha256", encoding="ascii") as file:
            stated = file.read().split()[0]
    except (FileNotFoundError, IndexError):
        raise CommandExecutionError(
            f"{path}.sha256 is missing: an artifact without its hash is not used"
        ) from None
    return path, stated


def install(name, root, version):
    """
    Verify and unpack the artifact of ``version`` under ``root``; True when it was done now.
    Whole or not at all: it is unpacked aside and renamed. Byte-compiled, so that an instance
    that may not write starts as fast as one that may.

    Raises CommandExecutionError for a missing artifact, a wrong hash, an archive that would
    write outside its own folder, or no room.

    CLI Example:

    .. code-block:: bash

        salt-call release.install counter /opt/counter 0.1.0
    """
    version = _name(version)
    releases = os.path.join(root, "releases")
    target = os.path.join(releases, version)
    if os.path.isdir(target):
        return False
    path, stated = artifact(name, version)
    if path is None:
        raise CommandExecutionError(
            f"{name}-{version}.tar.gz is neither installed nor in dist/: run 'make artifact' and apply again"
        )
    real = sha256(path)
    if real != stated:
        raise CommandExecutionError(
            f"{path}: sha256 is {real}, but {path}.sha256 says {stated}; refused"
        )
    os.makedirs(releases, exist_ok=True)
    for left in os.listdir(releases):
        if left.startswith(".unpack-"):
            shutil.rmtree(os.path.join(releases, left), ignore_errors=True)
    aside = tempfile.mkdtemp(prefix=".unpack-", dir=releases)
    try:
        with tarfile.open(path) as archive:
            _unpack(archive, aside)
        top = os.path.join(aside, f"{name}-{version}")
        if not os.path.isfile(os.path.join(top, "release.json")):
            raise CommandExecutionError(f"{path}: holds no {name}-{version}/release.json; refused")
        with open(os.path.join(top, "artifact.sha256"), "w", encoding="ascii") as file:
            file.write(f"{real}\n")
        subprocess.run(
            ["/usr/bin/python3", "-I", "-m", "compileall", "-q", os.path.join(top, "lib")],
            check=False,
            capture_output=True,
            timeout=300,
        )
        os.chmod(top, 0o755)
        subprocess.run(["sync", "-f", top], check=False, timeout=120)
        os.rename(top, target)
    # A cut-off gzip stream is an EOFError, a damaged one a zlib.error: neither is an OSError.
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise CommandExecutionError(
            f"{path} could not be unpacked, nothing was changed: {error}"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _unpack(archive, folder):
    """
    Every member of a tar archive under ``folder``, owned by who unpacks it; TarError before the
    first one is written when any is not a plain file or folder inside of it. Python 3.11.2 of
    Debian 12 has no extraction filters (PEP 706), so what they refuse is refused here.
    """
    members = archive.getmembers()
    for member in members:
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise tarfile.TarError(f"member {member.name!r} is outside of the archive's own folder")
        if not member.isfile() and not member.isdir():
            raise tarfile.TarError(f"member {member.name!r} is neither a file nor a folder")
        member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
        member.mode = 0o755 if member.isdir() else (member.mode | 0o600) & 0o755
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    archive.extractall(folder, members, **safe)


def offer(root, version):
    """
    Let ``ROOT/instances/new/release`` point to ``version``: the instance that is never started
    but with which a unit template is verified, before any real instance is touched. True when
    it did not point there.
    """
    folder = _folder(root, "new")
    os.makedirs(folder, exist_ok=True)
    target = f"../../releases/{_name(version)}"
    if os.path.islink(f"{folder}/release") and os.readlink(f"{folder}/release") == target:
        return False
    _link(folder, target)
    return True


def _link(folder, target):
    link = os.path.join(folder, "release")
    if os.path.lexists(f"{link}.new"):
        os.unlink(f"{link}.new")
    os.symlink(target, f"{link}.new")
    os.rename(f"{link}.new", link)


def prune(root, keep=KEEP):
    """Remove all but the newest ``keep`` releases; those in use stay. Returns what went.

    CLI Example:

    .. code-block:: bash

        salt-call release.prune /opt/counter
    """
    used = {
        *running(root).values(),
        os.path.basename(os.readlink(f"{_folder(root, 'new')}/release")),
        # What an interrupted roll would go back to.
        *(json.loads(text)[0] for number in running(root) if (text := _good(root, number))),
    }
    spare = [version for version in installed(root) if version not in used]
    gone = spare[:-keep] if keep else spare
    for version in gone:
        # Renamed first: half a release must never look like a whole one. install() sweeps what a
        # killed run leaves.
        aside = os.path.join(root, "releases", f".unpack-gone-{version}")
        os.rename(os.path.join(root, "releases", version), aside)
        shutil.rmtree(aside)
    return gone


def fingerprint(root, version, environment, uses):
    """
    What an instance runs on, as one hash: its release, its environment and the content of the
    files it loads (its unit, its credentials).
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([root, version, environment], sort_keys=True).encode())
    for path in uses:
        digest.update(path.encode())
        digest.update(sha256(path).encode() if os.path.exists(path) else b"-")
    return digest.hexdigest()


def _folder(root, instance):
    return os.path.join(root, "instances", str(instance))


def started_with(root, instance):
    """Fingerprint that ``instance`` was last started with, or None."""
    try:
        with open(os.path.join(_folder(root, instance), "started"), encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def set_instance(root, instance, version, environment):
    """
    Point ``instance`` to ``version`` and write its environment file. Returns what was before,
    ``(version, text of the environment file)``, for going back by :py:func:`reset_instance`.
    """
    folder = _folder(root, instance)
    os.makedirs(folder, exist_ok=True)
    before = (running(root).get(str(instance)), _text(os.path.join(folder, "env")))
    good = _good(root, instance)
    if good is not None and started_with(root, instance) is None:
        # A roll was interrupted half-way: what it tried is nothing to go back to.
        before = tuple(json.loads(good))
    text = "".join(f'{key}="{_quoted(value)}"\n' for key, value in sorted(environment.items()))
    _replace(folder, version, text)
    return before


def reset_instance(root, instance, before):
    """Undo :py:func:`set_instance`."""
    version, text = before
    if version is not None:
        _replace(_folder(root, instance), version, text or "")


def _quoted(value):
    value = str(value)
    if "\n" in value:
        raise CommandExecutionError(f"an environment value spans lines: {value!r}")
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _text(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _good(root, instance):
    return _text(os.path.join(_folder(root, instance), "good"))


def _replace(folder, version, text):
    # While these two disagree with what was started, `started` is gone: an interrupted roll
    # is then seen, and finished, by the next one.
    started = os.path.join(folder, "started")
    if os.path.exists(started):
        os.unlink(started)
    with open(os.path.join(folder, "env.new"), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(os.path.join(folder, "env.new"), os.path.join(folder, "env"))
    _link(folder, f"../../releases/{version}")


def mark_started(root, instance, value):
    """Remember the fingerprint that ``instance`` now runs on, and what that is, to go back to."""
    good = [running(root).get(str(instance)), _text(os.path.join(_folder(root, instance), "env"))]
    path = os.path.join(_folder(root, instance), "good")
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(good, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)
    with open(os.path.join(_folder(root, instance), "started"), "w", encoding="ascii") as file:
        file.write(value)


def wait_ready(address, port, path, seconds, unit=None):
    """
    Wait until ``GET path`` answers 200; None then, else what it answered last. Ends at once
    when ``unit`` is no longer running.
    """
    deadline = time.monotonic() + seconds
    last = "no answer"
    while True:
        connection = http.client.HTTPConnection(address, port, timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status == 200:
                return None
            last = f"{path} answers {answer.status} {answer.read(200).decode(errors='replace').strip()}"
        except (OSError, http.client.HTTPException) as error:
            last = f"{path}: {error}"
        finally:
            connection.close()
        if unit and __salt__["checked.systemctl"]("is-failed", unit)[0] == 0:
            return f"{unit} has failed ({last})"
        if time.monotonic() > deadline:
            return f"not ready after {seconds} s: {last}"
        time.sleep(0.1)


def wait_settled(command, seconds, timeout):
    """
    Wait until ``command`` succeeds, or without one for ``seconds``; None then, else what is
    wrong after ``timeout`` seconds.
    """
    if not command:
        time.sleep(seconds)
        return None
    deadline = time.monotonic() + timeout
    while subprocess.run(
        command, shell=True, capture_output=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    ).returncode:
        if time.monotonic() > deadline:
            return f"the load balancer did not take it back within {timeout} s ({command})"
        time.sleep(0.1)
    return None


def remove_instance(root, instance):
    """Forget ``instance``; its unit must be stopped."""
    shutil.rmtree(_folder(root, instance), ignore_errors=True)
