"""
For formulas counter and apps: artifacts: where the file ``NAME-VERSION.tar.gz`` of a release comes from, and whether it may be used.

An artifact is carried beside the state tree, or fetched from a URL. Its hash, its signature, its members and
what it was built for are checked before anything of it is kept; see :py:mod:`release` for what becomes of it.
"""

import hashlib
import http.client
import json
import os
import re
import ssl
import subprocess
import tarfile
import urllib.error
import urllib.request

from salt.exceptions import CommandExecutionError

__virtualname__ = "artifact"

# Bytes an artifact may have when it is fetched from a URL, and seconds the server may be silent.
_LARGEST = 500_000_000
_PATIENCE = 30
# What must stay free on the disk after a release is unpacked and byte-compiled.
_SPARE = 16_000_000
# Byte code is about as large as its source.
_COMPILED = 2
_SUFFIX = ".tar.gz"


def __virtual__():
    return __virtualname__


def check_version(version):
    """The version as text; CommandExecutionError for what cannot be part of a path."""
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

        salt-call artifact.sha256 /srv/stack/dist/counter-0.1.0.tar.gz
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def carried_versions(name):
    """Versions whose artifacts were carried to this machine."""
    return [
        file[len(name) + 1 : -len(_SUFFIX)]
        for file in (os.listdir(_dist()) if os.path.isdir(_dist()) else [])
        if file.startswith(f"{name}-") and file.endswith(_SUFFIX)
    ]


def carried(name, version):
    """
    Path of the carried artifact and its sha256 as the file beside it states it; the path is
    None where it was not carried, as for a release that is installed already.

    CLI Example:

    .. code-block:: bash

        salt-call artifact.carried counter 0.1.0
    """
    path = os.path.abspath(os.path.join(_dist(), f"{name}-{check_version(version)}.tar.gz"))
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
    path = os.path.join(folder, f"{name}-{version}{_SUFFIX}")
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


def expected_hashes(name, path, beside, stated):
    """``[(sha256, who says so)]`` of an artifact: the file ``beside`` it, and the pillar (``stated``)."""
    sources = (
        (beside, f"{path}.sha256"),
        (stated, f"pillar {__salt__['applications.pillar'](name)}:release:sha256"),
    )
    return [(expected, source) for expected, source in sources if expected]


def _check_room(members, folder, path, name):
    """Refuse before the first byte is written where it would fill the disk that instances run on."""
    stat = os.statvfs(folder)
    needed = sum(member.size for member in members) * _COMPILED + _SPARE
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise CommandExecutionError(
            f"{path} needs {needed / 1e6:.0f} MB in {folder}, but {free / 1e6:.0f} MB are free; nothing"
            " was changed: make room, or keep fewer releases (pillar"
            f" {__salt__['applications.pillar'](name)}:keep)"
        )
    # Some file systems count no files: they say 0.
    if stat.f_files and stat.f_favail < len(members) * _COMPILED:
        raise CommandExecutionError(
            f"{path} has {len(members)} files, but {folder} has room for {stat.f_favail} more; nothing"
            " was changed"
        )


def _check_target(top, path, name, own):
    """Refuse what is no release, another one, or one that this machine cannot run."""
    try:
        with open(os.path.join(top, "release.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        if not isinstance(manifest, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise CommandExecutionError(
            f"{path}: holds no {own}/release.json that can be read ({error}); refused"
        ) from None
    if manifest.get("name", name) != name:
        raise CommandExecutionError(
            f"{path}: is a release of {manifest['name']!r}, not of {name}; refused, nothing was changed"
        )
    if manifest.get("python"):
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        python = done.stdout.strip()
        if python not in manifest["python"]:
            raise CommandExecutionError(
                f"{path}: needs Python {' or '.join(manifest['python'])}; /usr/bin/python3 of this machine"
                f" is {python or 'missing'}; refused, nothing was changed"
            )
    platform = f"{os.uname().sysname.lower()}-{os.uname().machine}"
    built_for = manifest.get("platform") or "any"
    built_for = built_for if isinstance(built_for, list) else [built_for]
    if not {"any", platform} & set(built_for):
        raise CommandExecutionError(
            f"{path}: is for {' and '.join(built_for)}, this machine is {platform}; refused, nothing was changed"
        )


def unpack(path, name, version, folder):
    """
    Unpack an artifact under ``folder``; the path of its only folder, NAME-VERSION, there.

    Raises CommandExecutionError where there is no room for it, and for one that is no release, another application's or for another
    Python or machine; TarError, EOFError and zlib.error for a damaged one.
    """
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        _check_room(members, os.path.dirname(folder), path, name)
        __utils__["archives.extract"](archive, members, folder)
    own = f"{name}-{version}"
    top = os.path.join(folder, own)
    _check_target(top, path, name, own)
    return top
