"""
For formulas counter and apps: releases of an application on this machine: artifacts that are unpacked side by side in
``ROOT/releases/VERSION``, and never change; which one to run, and which to keep.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib

from salt.exceptions import CommandExecutionError

__virtualname__ = "release"

# Releases kept beside the ones in use.
KEEP = 5


def __virtual__():
    return __virtualname__


def _pillar(name):
    return __salt__["applications.pillar"](name)


def _option(name, value=None):
    return __salt__["applications.option"](name, value)


def _folder(root, version):
    return os.path.join(root, "releases", version)


def installed(root):
    """Versions unpacked under ``root``, oldest first.

    CLI Example:

    .. code-block:: bash

        salt-call release.installed /opt/counter
    """
    parent = os.path.join(root, "releases")
    if not os.path.isdir(parent):
        return []
    versions = [name for name in os.listdir(parent) if not name.startswith(".")]
    return sorted(versions, key=lambda version: os.stat(_folder(root, version)).st_mtime)


def choose(name, root, version=None, brought=None):
    """
    The version to run: the one that the pillar pins; else the one that this run was asked to
    deploy or to go back to; else the one that this machine was last brought to, so that a plain
    apply neither rolls a deploy back nor forward; else, at first, the one that was carried with
    the tree (``brought``, or the only artifact in ``dist/``).

    CLI Example:

    .. code-block:: bash

        salt-call release.choose counter /opt/counter
    """
    version = _choose(name, root, version, brought)
    return __salt__["artifact.check_version"](version)


def _choose(name, root, pinned, brought):
    request = __salt__["record.request"]()
    requested = request["version"]
    if requested:
        if pinned and pinned != requested:
            raise CommandExecutionError(
                f"pillar {_pillar(name)}:version pins {pinned}: the next apply would undo"
                f" a {request['action']} of {requested}; change the pin, or take it out"
            )
        return requested
    if request["action"] == "rollback":
        previous = __salt__["record.previous"](name)
        if not previous:
            current = __salt__["record.current"](name)
            raise CommandExecutionError(
                f"{name}: nothing further to go back to: {current or 'no release'}"
                f" is the first good one on this machine; 'make releases{_option(name)}' shows what"
                " there is"
            )
        if pinned and pinned != previous:
            raise CommandExecutionError(
                f"pillar {_pillar(name)}:version pins {pinned}: take it out before a rollback to"
                f" {previous}"
            )
        return previous
    known = pinned or __salt__["record.current"](name) or brought
    if known:
        return known
    carried = __salt__["artifact.carried_versions"](name)
    if len(carried) == 1:
        return carried[0]
    in_use = set(__salt__["instance.running"](root).values())
    if len(in_use) == 1:
        return in_use.pop()
    raise CommandExecutionError(
        f"{name}: which release? dist/ holds {len(carried)} artifacts and none is in use:"
        f" run 'make artifact{_option(name, 'FOLDER')}', or set pillar {_pillar(name)}:version"
    )


def last_words(root, version, unit):
    """
    What a unit that runs ``version`` said last, and what mends it where that can be told; empty when it said nothing.

    CLI Example:

    .. code-block:: bash

        salt-call release.last_words /opt/counter 0.1.0 counter@1.service
    """
    words = __salt__["units.last_words"](unit, 10)
    missing = re.search(r"ModuleNotFoundError: No module named '([^'.]+)", words)
    if missing:
        text = __utils__["atomic_file.read_text"](f"{_folder(root, version)}/app.json")
        lock = json.loads(text or "{}").get("packages") or "a lock (packages in app.toml)"
        words += (
            f"\n{missing[1]} is not in {lock}: lock its package, or name it in include if it is the application's"
            " own; publish again"
        )
    return words


def overview(application="counter"):
    """
    What an application runs, could run and ran here: ``{name, running: {instance: version},
    installed: […], history: […]}``.

    CLI Example:

    .. code-block:: bash

        salt-call release.overview
    """
    settings = __salt__["applications.settings"](application)
    return {
        "name": settings["name"],
        "running": __salt__["instance.running"](settings["root"]),
        "installed": installed(settings["root"]),
        "history": __salt__["record.history"](settings["name"]),
    }


def refusal(name, root, version, source=None, signers=None):
    """
    None, or why :py:func:`install` would refuse a release for its signature.

    CLI Example:

    .. code-block:: bash

        salt-call release.refusal counter /opt/counter 0.1.0 signers='["ssh-ed25519 AAAA…"]'
    """
    version = __salt__["artifact.check_version"](version)
    top, is_signed = _folder(root, version), __salt__["signature.is_signed"]
    path, _ = __salt__["artifact.carried"](name, version)
    try:
        sha256 = stored_sha256(root, version)
        if os.path.isdir(top) and is_signed(name, top, path, sha256, signers, record=False):
            return None
        if path and signers:
            __salt__["signature.verify"](path, f"{path}.sig", signers, name)
    except CommandExecutionError as error:
        return str(error)
    is_missing = signers and not path and not source
    return __salt__["signature.missing"](name, version) if is_missing else None


def install(name, root, version, source=None, stated=None, signers=None):
    """
    Verify and unpack the artifact of ``version`` under ``root``; True when it was done now. One that is
    there is compared with what was installed, and mended. Its modes are those of the artifact, and open to
    the accounts that instances run as, whatever the caller's umask is.
    Whole or not at all: it is unpacked aside and renamed. Byte-compiled, so that an instance
    that may not write starts as fast as one that may.

    source
        URL to fetch it from where it was not carried, as :py:func:`artifact.fetch` takes it
    stated
        its sha256; by default what the file beside the carried artifact says
    signers
        public keys, one of which must have signed it; see :py:func:`signature.verify`

    Raises CommandExecutionError for a missing artifact, a wrong hash, a missing or wrong signature,
    one that is for another Python or machine, an archive that would write outside its own folder,
    or no room.

    CLI Example:

    .. code-block:: bash

        salt-call release.install counter /opt/counter 0.1.0
    """
    version = __salt__["artifact.check_version"](version)
    target = _folder(root, version)
    releases = os.path.dirname(target)
    __utils__["atomic_file.make_folder"](releases)
    for path in (root, releases):
        __utils__["atomic_file.set_mode"](path, 0o755)
    is_installed = os.path.isdir(target)
    if is_installed:
        is_whole, modes_fixed = _check_installed(name, root, version, source, stated, signers)
        if is_whole:
            return modes_fixed
    for left in os.listdir(releases):
        if left.startswith(".unpack-"):
            shutil.rmtree(os.path.join(releases, left), ignore_errors=True)
    aside = tempfile.mkdtemp(prefix=".unpack-", dir=releases)
    path = f"{name}-{version}.tar.gz"
    try:
        path, sha256, signer = _verified_artifact(name, version, source, stated, signers, aside)
        top = __salt__["artifact.unpack"](path, name, version, aside)
        _finish(top, releases, sha256, signer)
        if is_installed:
            __salt__["manifest.mend"](top, target)
        else:
            os.rename(top, target)
        __utils__["atomic_file.sync"](releases)
    # A cut-off gzip stream is an EOFError, a damaged one a zlib.error: neither is an OSError.
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise CommandExecutionError(
            f"{path} could not be unpacked, nothing was changed: {error}"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _check_installed(name, root, version, source, stated, signers):
    """
    ``(whether an installed release is what it has to be, whether modes had to be fixed)``. Raises for
    one that is another than what is carried or stated, unsigned, or damaged with no artifact to mend it by.
    """
    top = _folder(root, version)
    path, beside = __salt__["artifact.carried"](name, version)
    sha256 = stored_sha256(root, version)
    for expected, origin in __salt__["artifact.expected_hashes"](name, path, beside, stated):
        if sha256 and sha256 != expected:
            raise CommandExecutionError(
                f"{version} is installed here with sha256 {sha256}, but {origin} says {expected}: a version"
                " never changes; refused, nothing was changed"
            )
    is_signed = __salt__["signature.is_signed"](name, top, path, sha256, signers)
    at_hand = source or path
    if not is_signed and not at_hand:
        raise CommandExecutionError(__salt__["signature.missing"](name, version))
    modes_fixed = __salt__["manifest.fix_modes"](top)
    damaged = __salt__["manifest.damage"](top)
    if damaged and not at_hand:
        raise CommandExecutionError(
            f"{top}/{damaged[0]}, not as it was installed (one of {len(damaged)} files), and its artifact is"
            f" not in dist/: 'make deploy{_option(name)} VERSION={version}' mends it"
        )
    # Of before there was such a list, there is nothing to compare it with.
    is_listed = __salt__["manifest.exists"](top) or not at_hand
    return is_signed and not damaged and is_listed, modes_fixed


def _verified_artifact(name, version, source, stated, signers, folder):
    """``(path, sha256, signer)`` of the carried artifact, or of one fetched into ``folder``."""
    path, beside = __salt__["artifact.carried"](name, version)
    if path is None:
        if not source:
            raise CommandExecutionError(
                f"{name}-{version}.tar.gz is neither installed nor in dist/: run"
                f" 'make deploy{_option(name)} VERSION={version}' from where the store is reached, or"
                f" 'make artifact{_option(name, 'FOLDER')}' and apply again if it is this checkout's own"
            )
        if not stated:
            raise CommandExecutionError(
                f"pillar {_pillar(name)}:release:source needs release:sha256, so that what comes is"
                " what was meant"
            )
        path = __salt__["artifact.fetch"](name, version, source, folder, signed=bool(signers))
    sha256 = __salt__["artifact.sha256"](path)
    for expected, origin in __salt__["artifact.expected_hashes"](name, path, beside, stated):
        if sha256 != expected:
            raise CommandExecutionError(
                f"{path}: sha256 is {sha256}, but {origin} says {expected}; refused"
            )
    signer = ""
    if signers:
        signer = __salt__["signature.verify"](path, f"{path}.sig", signers, name)
    return path, sha256, signer


def _finish(top, releases, sha256, signer):
    """What is done to an unpacked release before it is put in place."""
    with open(os.path.join(top, "artifact.sha256"), "w", encoding="ascii") as file:
        file.write(f"{sha256}\n")
    _take_byte_code(top, releases, signer)
    # Patiently: the instances that serve meanwhile come first.
    command = ["nice", "-n", "19", "/usr/bin/python3", "-I", "-m", "compileall", "-q"]
    folders = [os.path.join(top, "app"), *sorted(glob.glob(os.path.join(glob.escape(top), "lib*")))]
    subprocess.run([*command, *folders], check=False, capture_output=True, timeout=300)
    __salt__["manifest.fix_modes"](top)
    __salt__["manifest.write"](top)
    __salt__["manifest.set_signer"](top, signer)
    __utils__["atomic_file.sync_tree"](top)


def _take_byte_code(top, releases, signer):
    """
    Byte code of files that the release installed last has too, byte for byte, from there: most of a release is what its
    application is built of, and compiling that again is most of the CPU time that a deploy takes here. Of the same signer,
    as it was listed when it was compiled, and for the Python of this machine; what is not is compiled.
    """
    others = glob.glob(os.path.join(glob.escape(releases), "*", ""))
    before = max(others, key=os.path.getmtime, default=None)
    if before is None or __salt__["manifest.signer"](before) != signer:
        return
    try:
        was = __salt__["manifest.listed"](before) or {}
    except (OSError, ValueError):
        return
    python = os.path.basename(os.path.realpath("/usr/bin/python3"))
    tag = python.replace("python", "cpython-").replace(".", "")
    for path, (_, sha256) in was.items():
        found = re.fullmatch(rf"(.+)/__pycache__/([^/]+)\.{re.escape(tag)}\.pyc", path)
        source = f"{found[1]}/{found[2]}.py" if found else ""
        new = os.path.join(top, source)
        if source not in was or not os.path.isfile(new):
            continue
        code = _read(os.path.join(before, path))
        is_whole = code and hashlib.sha256(code).hexdigest() == sha256
        if not is_whole or any(code[4:8]) or __salt__["artifact.sha256"](new) != was[source][1]:
            continue
        # A magic number, flags, and the time and size of its source, by which Python and compileall take it for that one's.
        time = int(os.stat(new).st_mtime) & 0xFFFFFFFF
        os.makedirs(os.path.dirname(os.path.join(top, path)), exist_ok=True)
        with open(os.path.join(top, path), "wb") as file:
            file.write(code[:8] + time.to_bytes(4, "little") + code[12:])


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def damage(root, version):
    """
    What of an installed release is not as it was installed, ``PATH: how`` each; empty when all is.

    CLI Example:

    .. code-block:: bash

        salt-call release.damage /opt/counter 0.1.0
    """
    return __salt__["manifest.damage"](_folder(root, __salt__["artifact.check_version"](version)))


def stored_sha256(root, version):
    """SHA-256 of the stored artifact that ``version`` was unpacked from, as /version shows it; None
    when that was not recorded.

    CLI Example:

    .. code-block:: bash

        salt-call release.stored_sha256 /opt/counter 0.1.0
    """
    version = __salt__["artifact.check_version"](version)
    text = __utils__["atomic_file.read_text"](f"{_folder(root, version)}/artifact.sha256")
    return text.split()[0] if text and text.strip() else None


def prune(root, keep=KEEP, protect=(), proven=()):
    """
    Remove all but the newest ``keep`` releases; those in use, and those in ``protect``, stay. What is not
    ``proven`` goes before what is. Returns what went.

    CLI Example:

    .. code-block:: bash

        salt-call release.prune /opt/counter
    """
    used = {*__salt__["instance.versions_in_use"](root), *protect}
    spare = [version for version in installed(root) if version not in used]
    spare.sort(key=lambda version: version in proven)
    removed = spare[:-keep] if keep else spare
    for version in removed:
        # Renamed first: half a release must never look like a whole one. install() sweeps what a
        # killed run leaves.
        aside = _folder(root, f".unpack-gone-{version}")
        os.rename(_folder(root, version), aside)
        shutil.rmtree(aside)
    return removed
