"""
For formula counter: releases of an application and the instances that run them.

A release is one immutable artifact, ``NAME-VERSION.tar.gz``, unpacked side by side with others
in ``ROOT/releases/VERSION``. An instance is a folder, ``ROOT/instances/N``, with a link to its
release and its own environment file, so that each instance can be moved, and moved back, alone.
"""

import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib

from salt.exceptions import CommandExecutionError

__virtualname__ = "release"

# Releases kept beside the ones in use.
KEEP = 5
# Bytes an artifact may have when it is fetched from a URL, and seconds the server may be silent.
_LARGEST = 500_000_000
_PATIENCE = 30
# What must stay free on the disk after a release is unpacked and byte-compiled.
_SPARE = 16_000_000
# In a release's folder: what was installed, {path: [mode, sha256]}.
_MANIFEST = "artifact.manifest"
# There: whose signature was seen when it was installed, a public key.
_SIGNER = "artifact.signer"
# Byte code is about as large as its source.
_COMPILED = 2


def __virtual__():
    return __virtualname__


def _name(version):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", str(version)):
        raise CommandExecutionError(
            f"version {version!r}: use letters, digits, '.', '_' and '-', at most 128"
        )
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
    The version to run: the one that the pillar pins; else the one that this run was asked to
    deploy or to go back to; else the one that this machine was last brought to, so that a plain
    apply neither rolls a deploy back nor forward; else, at first, the one that was carried with
    the tree (``machine:release``, or the only artifact in ``dist/``).

    CLI Example:

    .. code-block:: bash

        salt-call release.choose counter /opt/counter
    """
    asked = __salt__["deploy.request"]()
    if asked["version"]:
        if version and version != asked["version"]:
            raise CommandExecutionError(
                f"pillar {name}:version pins {version}: the next apply would undo a"
                f" {asked['action']} of {asked['version']}; change the pin, or take it out"
            )
        return _name(asked["version"])
    if asked["action"] == "rollback":
        before = __salt__["deploy.previous"](name)
        if not before:
            raise CommandExecutionError(
                f"{name}: nothing further to go back to: {__salt__['deploy.current'](name) or 'no release'}"
                " is the first good one on this machine; 'make releases' shows what there is"
            )
        if version and version != before:
            raise CommandExecutionError(
                f"pillar {name}:version pins {version}: take it out before a rollback to {before}"
            )
        return _name(before)
    if version:
        return _name(version)
    kept = __salt__["deploy.current"](name)
    if kept:
        return _name(kept)
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


def fetch(name, version, source, folder, signed=False):
    """
    Download the artifact of ``version`` into ``folder``, for a machine that no controller brings
    it to; its path. Nothing of it is trusted before its hash was compared.

    source
        ``https://`` or ``http://`` URL; ``{name}`` and ``{version}`` are replaced
    signed
        the signature too, which lies beside it: ``.sig`` is added to the URL
    """
    url = source.replace("{name}", name).replace("{version}", version)
    path = os.path.join(folder, f"{name}-{version}.tar.gz")
    if not url.startswith(("https://", "http://")):
        raise CommandExecutionError(f"{url}: a URL with https:// or http:// is needed")
    for suffix in ("", ".sig") if signed else ("",):
        _download(f"{url}{suffix}", f"{path}{suffix}")
    return path


def _download(url, path):
    try:
        with (
            urllib.request.urlopen(
                url, timeout=_PATIENCE, context=ssl.create_default_context()
            ) as answer,
            open(path, "wb") as file,
        ):
            size = 0
            while block := answer.read(1 << 20):
                size += len(block)
                if size > _LARGEST:
                    raise CommandExecutionError(f"{url}: more than {_LARGEST} bytes; refused")
                file.write(block)
    except (OSError, http.client.HTTPException) as error:
        raise CommandExecutionError(f"{url} could not be fetched: {error}") from error


def verify(path, signature, signers, name):
    """
    Which of ``signers`` (public keys as OpenSSH writes them) has signed an artifact for ``NAME-release`` by
    ``ssh-keygen -Y sign``; without its comment.

    Raises CommandExecutionError where none has, also for an absent signature.
    """
    if not signature or not os.path.isfile(signature):
        raise CommandExecutionError(
            f"{path} is not signed, and pillar {name}:release:signers asks for it; refused, nothing was"
            " changed: 'make publish' with the signer's key signs it (RELEASE_KEY)"
        )
    space, said = f"{name}-release", ""
    for key in signers:
        with tempfile.NamedTemporaryFile("w", suffix=".signers", encoding="utf-8") as allowed:
            # No option of the key's own line may widen what it is allowed for.
            allowed.write(f'release namespaces="{space}" {key.strip()}\n')
            allowed.flush()
            with open(path, "rb") as artifact_file:
                words = ["ssh-keygen", "-Y", "verify", "-f", allowed.name, "-I", "release"]
                words += ["-n", space, "-s", signature]
                done = subprocess.run(
                    words,
                    stdin=artifact_file,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=60,
                )
        if not done.returncode:
            return _bare(key)
        said = (done.stderr or done.stdout).strip()
    raise CommandExecutionError(
        f"{path}: no signer of pillar {name}:release:signers has signed it: {said}; refused"
    )


def _bare(key):
    """A public key without its comment."""
    return " ".join(key.split()[:2])


def _proven(name, root, version, signers, record=True):
    """
    Whether an installed release is one that a signer has signed: as was seen when it was installed, or
    is now of the artifact that was carried, which is then written down. Raises for a signature of nobody who may.
    """
    if not signers:
        return True
    place = os.path.join(root, "releases", version, _SIGNER)
    known = (_text(place) or "").strip()
    path, _ = artifact(name, version)
    if path and os.path.isfile(f"{path}.sig"):
        real = stored_sha256(root, version)
        if real and sha256(path) != real:
            raise CommandExecutionError(f"{path}: sha256 is not {real}, as installed; refused")
        signer = verify(path, f"{path}.sig", signers, name)
        if real and record and signer != known:
            __salt__["whole.write"](place, f"{signer}\n", mode=0o644)
        # Without a hash nobody knows that it is what is installed.
        return bool(real)
    return known in map(_bare, signers)


def _unproven(name, version):
    return (
        f"{version} was installed without a signature of pillar {name}:release:signers, which asks for one;"
        f" refused, nothing was changed: 'make publish' of its commit with a signer's key signs it"
        f" (RELEASE_KEY), then 'make deploy VERSION={version}'"
    )


def refusal(name, root, version, source=None, signers=None):
    """
    None, or why :py:func:`install` would refuse a release for its signature.

    CLI Example:

    .. code-block:: bash

        salt-call release.refusal counter /opt/counter 0.1.0 signers='["ssh-ed25519 AAAA…"]'
    """
    version, carried = _name(version), artifact(name, version)[0]
    try:
        if os.path.isdir(os.path.join(root, "releases", version)) and _proven(
            name, root, version, signers, record=False
        ):
            return None
        if carried and signers:
            verify(carried, f"{carried}.sig", signers, name)
    except CommandExecutionError as error:
        return str(error)
    return _unproven(name, version) if signers and not carried and not source else None


def install(name, root, version, source=None, stated=None, signers=None):
    """
    Verify and unpack the artifact of ``version`` under ``root``; True when it was done now. One that is
    there is compared with what was installed, and mended. Its modes are those of the artifact, and open to
    the accounts that instances run as, whatever the caller's umask is.
    Whole or not at all: it is unpacked aside and renamed. Byte-compiled, so that an instance
    that may not write starts as fast as one that may.

    source
        URL to fetch it from where it was not carried, as :py:func:`fetch` takes it
    stated
        its sha256; by default what the file beside the carried artifact says
    signers
        public keys, one of which must have signed it; see :py:func:`verify`

    Raises CommandExecutionError for a missing artifact, a wrong hash, a missing or wrong signature,
    one that is for another Python or machine, an archive that would write outside its own folder,
    or no room.

    CLI Example:

    .. code-block:: bash

        salt-call release.install counter /opt/counter 0.1.0
    """
    version = _name(version)
    releases = os.path.join(root, "releases")
    target = os.path.join(releases, version)
    __salt__["whole.folder"](releases)
    for path in (root, releases):
        _set_mode(path, 0o755)
    there = os.path.isdir(target)
    if there:
        _same(name, root, version, stated)
        proven = _proven(name, root, version, signers)
        if not proven and not source and not artifact(name, version)[0]:
            raise CommandExecutionError(_unproven(name, version))
        moded = _mend_modes(target)
        wrong = damage(root, version)
        # Of before there was such a list, there is nothing to compare it with.
        listed = os.path.exists(os.path.join(target, _MANIFEST))
        at_hand = source or artifact(name, version)[0]
        if proven and not wrong and (listed or not at_hand):
            return moded
        if not at_hand:
            raise CommandExecutionError(
                f"{target}/{wrong[0]}, not as it was installed (one of {len(wrong)} files), and its artifact is"
                f" not in dist/: 'make deploy VERSION={version}' mends it"
            )
    for left in os.listdir(releases):
        if left.startswith(".unpack-"):
            shutil.rmtree(os.path.join(releases, left), ignore_errors=True)
    aside = tempfile.mkdtemp(prefix=".unpack-", dir=releases)
    path = f"{name}-{version}.tar.gz"
    try:
        path, said = artifact(name, version)
        if path is None:
            if not source:
                raise CommandExecutionError(
                    f"{name}-{version}.tar.gz is neither installed nor in dist/: run"
                    f" 'make deploy VERSION={version}' from where the store is reached, or 'make artifact'"
                    " and apply again if it is this checkout's own"
                )
            if not stated:
                raise CommandExecutionError(
                    f"pillar {name}:release:source needs {name}:release:sha256, so that what comes is"
                    " what was meant"
                )
            path = fetch(name, version, source, aside, signed=bool(signers))
        real = sha256(path)
        for wanted, where in ((said, f"{path}.sha256"), (stated, f"pillar {name}:release:sha256")):
            if wanted and real != wanted:
                raise CommandExecutionError(
                    f"{path}: sha256 is {real}, but {where} says {wanted}; refused"
                )
        signer = verify(path, f"{path}.sig", signers, name) if signers else None
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            _has_room(members, releases, path)
            _unpack(archive, members, aside)
        top = os.path.join(aside, f"{name}-{version}")
        _fits(top, path, f"{name}-{version}")
        with open(os.path.join(top, "artifact.sha256"), "w", encoding="ascii") as file:
            file.write(f"{real}\n")
        # Patiently: the instances that serve meanwhile come first.
        words = ["nice", "-n", "19", "/usr/bin/python3", "-I", "-m", "compileall", "-q"]
        subprocess.run(
            [*words, os.path.join(top, "lib")],
            check=False,
            capture_output=True,
            timeout=300,
        )
        _mend_modes(top)
        __salt__["whole.write"](
            os.path.join(top, _MANIFEST), json.dumps(_listed(top), indent=0), mode=0o644
        )
        # What the archive itself says of its signer counts for nothing.
        _remove(os.path.join(top, _SIGNER))
        if signer:
            __salt__["whole.write"](os.path.join(top, _SIGNER), f"{signer}\n", mode=0o644)
        _to_disk(top)
        if there:
            _mend(top, target)
        else:
            os.rename(top, target)
        _fsync(releases)
    # A cut-off gzip stream is an EOFError, a damaged one a zlib.error: neither is an OSError.
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise CommandExecutionError(
            f"{path} could not be unpacked, nothing was changed: {error}"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def damage(root, version):
    """
    What of an installed release is not as it was installed, ``PATH: how`` each; empty when all is.

    CLI Example:

    .. code-block:: bash

        salt-call release.damage /opt/counter 0.1.0
    """
    top = os.path.join(root, "releases", _name(version))
    text = _text(os.path.join(top, _MANIFEST))
    if text is None:
        return []
    try:
        return _differences(top, json.loads(text))
    except ValueError:
        return [f"{_MANIFEST}: damaged"]


def _differences(top, listed):
    now = _listed(top)
    found = [
        f"{path}: {'missing' if path not in now else 'changed'}"
        for path, was in listed.items()
        if now.get(path) != was
    ]
    # Python may write byte code of its own; any other file could be found in place of one of these.
    added = [path for path in now if path not in listed and not path.endswith(".pyc")]
    return found + [f"{path}: is none of its files" for path in added]


def _listed(top):
    """``{path: [mode, sha256]}`` of every file below ``top`` but the list itself and the signer."""
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if (inside := os.path.relpath(path, top)) not in (_MANIFEST, _SIGNER):
                mode = f"{os.lstat(path).st_mode & 0o7777:04o}"
                found[inside] = [mode, "link" if os.path.islink(path) else sha256(path)]
    return dict(sorted(found.items()))


def _set_mode(path, mode):
    """Whether it had another one."""
    if os.stat(path).st_mode & 0o7777 == mode:
        return False
    os.chmod(path, mode)
    return True


def _mend_modes(top):
    """Everything below ``top`` can be read, and what its owner may execute executed, by all, and be
    written by its owner alone. Whether any could not."""
    mended = _set_mode(top, 0o755)
    for folder, folders, names in os.walk(top):
        for name in folders:
            mended |= _set_mode(os.path.join(folder, name), 0o755)
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                mode = 0o755 if os.stat(path).st_mode & 0o100 else 0o644
                mended |= _set_mode(path, mode)
    return mended


def _mend(top, target):
    """Make the release in ``target``, which instances may be running, the one in ``top``: file by file,
    each whole, and the list of them last."""
    wrong = {line.partition(": ")[0] for line in _differences(target, _listed(top))}
    for path in sorted(wrong):
        old, new = os.path.join(target, path), os.path.join(top, path)
        if not os.path.exists(new):
            os.unlink(old)
            continue
        if os.path.isdir(old) and not os.path.islink(old):
            shutil.rmtree(old)
        __salt__["whole.folder"](os.path.dirname(old))
        os.rename(new, old)
    _remove(os.path.join(target, _SIGNER))
    for name in (_SIGNER, _MANIFEST):
        if os.path.exists(os.path.join(top, name)):
            os.rename(os.path.join(top, name), os.path.join(target, name))
    _to_disk(target)


def _remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _same(name, root, version, stated):
    """Refuse an installed release where what is carried or stated under its version is another one."""
    path, said = artifact(name, version)
    real = stored_sha256(root, version)
    for wanted, where in ((said, f"{path}.sha256"), (stated, f"pillar {name}:release:sha256")):
        if real and wanted and real != wanted:
            raise CommandExecutionError(
                f"{version} is installed here with sha256 {real}, but {where} says {wanted}: a version never"
                " changes; refused, nothing was changed"
            )


def _to_disk(folder):
    """
    All of ``folder`` is on the disk: after a power cut, what is current is whole. File by file, for
    flushing the whole file system would hold up the store that may be on it (each acknowledged
    count waits for its own flush); many at a time, for one by one each would wait for the journal.
    """
    places = [place for place, _, _ in os.walk(folder)]
    files = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(_fsync, [*files, *places]))


def _fsync(path):
    # Not whole.sync: Salt's loader lets no two threads at once into a function of another module.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _has_room(members, folder, path):
    """Refuse before the first byte is written where it would fill the disk that instances run on."""
    stat = os.statvfs(folder)
    needed = sum(member.size for member in members) * _COMPILED + _SPARE
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise CommandExecutionError(
            f"{path} needs {needed / 1e6:.0f} MB in {folder}, but {free / 1e6:.0f} MB are free; nothing"
            " was changed: make room, or keep fewer releases (pillar counter:keep)"
        )
    # Some file systems count no files: they say 0.
    if stat.f_files and stat.f_favail < len(members) * _COMPILED:
        raise CommandExecutionError(
            f"{path} has {len(members)} files, but {folder} has room for {stat.f_favail} more; nothing"
            " was changed"
        )


def _fits(top, path, own):
    """Refuse what is no release, another one, or one that this machine cannot run."""
    try:
        with open(os.path.join(top, "release.json"), encoding="utf-8") as file:
            told = json.load(file)
        if not isinstance(told, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise CommandExecutionError(
            f"{path}: holds no {own}/release.json that can be read ({error}); refused"
        ) from None
    if told.get("python"):
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        here = done.stdout.strip()
        if here not in told["python"]:
            raise CommandExecutionError(
                f"{path}: needs Python {' or '.join(told['python'])}; /usr/bin/python3 of this machine"
                f" is {here or 'missing'}; refused, nothing was changed"
            )
    machine = f"{os.uname().sysname.lower()}-{os.uname().machine}"
    if told.get("platform") not in (None, "any", machine):
        raise CommandExecutionError(
            f"{path}: is for {told['platform']}, this machine is {machine}; refused, nothing was changed"
        )


def _unpack(archive, members, folder):
    """
    The members of a tar archive under ``folder``, owned by who unpacks it; TarError before the
    first one is written when any is not a plain file or folder inside of it. Python 3.11.2 of
    Debian 12 has no extraction filters (PEP 706), so what they refuse is refused here.
    """
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
    folder = _instance_folder(root, "new")
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


def stored_sha256(root, version):
    """SHA-256 of the stored artifact that ``version`` was unpacked from, as /version shows it; None
    when that was not recorded.

    CLI Example:

    .. code-block:: bash

        salt-call release.stored_sha256 /opt/counter 0.1.0
    """
    text = _text(os.path.join(root, "releases", _name(version), "artifact.sha256"))
    return text.split()[0] if text and text.strip() else None


def prune(root, keep=KEEP, protect=(), proven=()):
    """
    Remove all but the newest ``keep`` releases; those in use, and those in ``protect``, stay. What is not
    ``proven`` goes before what is. Returns what went.

    CLI Example:

    .. code-block:: bash

        salt-call release.prune /opt/counter
    """
    used = {
        *running(root).values(),
        *protect,
        # What an interrupted roll would go back to.
        *(good[0] for number in running(root) if (good := _good(root, number))),
    }
    spare = [version for version in installed(root) if version not in used]
    spare.sort(key=lambda version: version in proven)
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


def refuse_unusable(where, environment, values):
    """
    Stop the run while it renders, before anything changes, for a value of ``environment`` with braces
    that name none of ``values`` nor of what each instance has of its own (the state release.rolled).

    CLI Example:

    .. code-block:: bash

        salt-call release.refuse_unusable 'pillar a:environment' '{PORT: "{prot}"}' '{}'
    """
    known = {**values, "instance": 1, "address": "127.0.0.1", "port": 1, "credentials": "/run"}
    for key, value in environment.items():
        try:
            str(value).format(**known)
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            __salt__["formula.refuse"](
                f"{where}:{key}: {value!r}: unknown placeholder ({error}); known: "
                f"{', '.join(sorted(known))}; braces that are the value's own are doubled: {{{{ and }}}}"
            )


def _folder(root, instance):
    return os.path.join(root, "instances", str(instance))


def _instance_folder(root, instance):
    """Its folder, made where it is missing; its account can get to its release."""
    folder = _folder(root, instance)
    __salt__["whole.folder"](folder)
    for path in (os.path.dirname(folder), folder):
        _set_mode(path, 0o755)
    return folder


def started_with(root, instance):
    """Fingerprint that ``instance`` was last started with, or None."""
    try:
        with open(os.path.join(_folder(root, instance), "started"), encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def set_instance(root, instance, version, environment):
    """
    Point ``instance`` to ``version`` and write its environment file; for going back by
    :py:func:`reset_instance`, returns what :py:func:`before` says before it.
    """
    was = before(root, instance)
    _instance_folder(root, instance)
    text = "".join(f'{key}="{_quoted(value)}"\n' for key, value in sorted(environment.items()))
    _replace(_folder(root, instance), version, text)
    return was


def before(root, instance):
    """
    What ``instance`` is set to: ``(version, text of the environment file, fingerprint, that of the files
    it used)``, the last two None where they are not known.
    """
    started, good = started_with(root, instance), _good(root, instance)
    if good is not None and started is None:
        # A roll was interrupted half-way: what it tried is nothing to go back to.
        return good
    used = good[3] if good and good[2] == started else None
    text = _text(os.path.join(_folder(root, instance), "env"))
    return running(root).get(str(instance)), text, started, used


def reset_instance(root, instance, before):
    """Undo :py:func:`set_instance`."""
    version, text, *_ = before
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
    """What ``instance`` last proved itself on, as :py:func:`set_instance` returns it, or None."""
    text = _text(os.path.join(_folder(root, instance), "good"))
    return None if text is None else tuple([*json.loads(text), None, None][:4])


def _replace(folder, version, text):
    # While these two disagree with what was started, `started` is gone: an interrupted roll
    # is then seen, and finished, by the next one.
    started = os.path.join(folder, "started")
    if os.path.exists(started):
        os.unlink(started)
    # Not written again where it is the same: so the way back is open when the disk is full.
    if _text(os.path.join(folder, "env")) != text:
        __salt__["whole.write"](os.path.join(folder, "env"), text, mode=0o644)
    _link(folder, f"../../releases/{version}")


def mark_started(root, instance, value, uses=()):
    """
    Remember the fingerprint that ``instance`` now runs on, and what that is, to go back to.
    ``uses``: the files that it loaded.
    """
    text = _text(os.path.join(_folder(root, instance), "env"))
    good = [running(root).get(str(instance)), text, value, fingerprint(root, None, None, uses)]
    path = os.path.join(_folder(root, instance), "good")
    __salt__["whole.write"](path, json.dumps(good), mode=0o644)
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


def ask(address, port, path, seconds):
    """None when ``GET path`` answers with 2xx, else what it answered instead. A redirect is not followed:
    where it leads is not said to work."""
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if 200 <= answer.status < 300:
            return None
        return f"GET {path} answers {answer.status}, not 2xx"
    except (OSError, http.client.HTTPException) as error:
        return f"GET {path}: {error or type(error).__name__}"
    finally:
        connection.close()


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
