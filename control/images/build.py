"""
Making every image: dist/images/NAME, an OCI layout each, and dist/images/images.json, which lists them. What is made from the
same is the same, so each is made once on a computer, and kept for all checkouts of its user.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from .. import local_state
from ..application import COUNTER, FORMULA, Application
from ..errors import OperationError, UserError
from ..options import Options
from ..paths import ROOT
from ..shell import say
from . import oci, packages, rootfs, sbom
from .description import Description, load
from .lock import Lock, Package
from .lock import read as read_lock

DIST = ROOT / "dist"
FOLDER = DIST / "images"
LIST = "images.json"
# Those that were made, by what they are made from: its layout, what lies beside it, and what the list says of it.
KEPT = local_state.CACHE / "images"


@contextlib.contextmanager
def _new_folder() -> Iterator[Path]:
    """A folder beside the images', gone at the end, also what a killed build left of one."""
    DIST.mkdir(exist_ok=True)
    for left in DIST.glob(".images-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=DIST, prefix=".images-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Of the code that runs, not of what lies there later: what makes images, and what unpacks artifacts.
_CODE = [
    hashlib.sha256(path.read_bytes()).hexdigest()
    for path in (*sorted(Path(__file__).parent.glob("*.py")), ROOT / rootfs.ARCHIVES)
]


def _digest_of_programs(image: Description) -> str:
    """Hash of the programs that the image takes from the tree."""
    whole = hashlib.sha256()
    for path in (ROOT / one for one in image.add.values()):
        try:
            whole.update(path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"containers/images/{image.key}.yaml: add: {path.relative_to(ROOT)} is not there", 2
            ) from None
    return whole.hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _kept(image: Description, locked: Lock, artifact: Path, version: str, app: Application) -> Path:
    """Where an image is kept. Its name is two hashes of all that it is made from: of what decides its packages' layer, and of
    the rest. What is called the same is the same."""
    packed: list[Any] = [
        asdict(image),
        [asdict(package) for package in locked.packages_of(image.key)],
        [locked.suite, locked.snapshot],
        _CODE,
        _digest_of_programs(image),
        # What packs and compresses layers.
        [sys.version_info[:2], zlib.ZLIB_RUNTIME_VERSION],
    ]
    release = []
    if image.artifact:
        releases, program = _place(app)
        # What lies beside the releases is in the first layer.
        packed.append(releases.parts[1])
        digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
        release = [digest, version, app.name, str(releases), program]
    return KEPT / f"{_hash(packed)}-{_hash(release)}"


def _place(app: Application) -> tuple[Path, str]:
    """Folder in which machines have the application's releases, and the program inside of one."""
    if not app.is_counter:
        # As salt/_modules/applications.py has it.
        return Path("/opt/apps", app.name, "releases"), f"bin/{app.name}"
    defaults = yaml.safe_load(
        (ROOT / "salt" / FORMULA / "defaults.yaml").read_text(encoding="utf-8")
    )
    return Path(defaults["root"]) / "releases", defaults["exec"]


def _settings(image: Description, entrypoint: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "User": f"{image.uid}:{image.uid}",
        "Env": ["PATH=/usr/sbin:/usr/bin"],
        "WorkingDir": "/",
        "Entrypoint": entrypoint,
        "StopSignal": image.stop_signal,
    }
    return {**settings, "Cmd": list(image.command)} if image.command else settings


def _build(
    folder: Path,
    image: Description,
    locked: Lock,
    debs: dict[str, Path],
    artifact: Path,
    version: str,
    base: Path | None,
    app: Application,
) -> dict[str, Any]:
    """One image in ``folder``; what the list says of it. ``base``: layout of another of the same packages, of another
    artifact; ``app``: whose artifact it is."""
    name = image.name if app.is_counter else f"app-{app.name}"
    layout = folder / name
    has = locked.packages_of(image.key)
    created = datetime.datetime.fromtimestamp(locked.time, datetime.UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )
    main = locked.packages[image.packages[0]].version
    labels = {
        "org.opencontainers.image.title": name,
        "org.opencontainers.image.description": image.summary,
        "org.opencontainers.image.version": version if image.artifact else main,
    }
    entrypoint, release, digest = list(image.entrypoint), None, ""
    owners = dict.fromkeys(image.folders, image.uid)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".root-") as root_name:
        root = Path(root_name)
        layers = []
        if base:
            layers.append(oci.copy_first_layer(base, layout, root))
        else:
            rootfs.make(root, image, [(package, debs[package.name]) for package in has])
        inside = ""
        if image.artifact:
            releases, program = _place(app)
            digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
            rootfs.add_artifact(root, artifact, releases / version, digest)
            release = root / str(releases / version).lstrip("/")
            entrypoint = [str(releases / version / program)]
            inside = releases.parts[1]
            labels["org.opencontainers.image.revision"] = str(
                json.loads((release / "release.json").read_text()).get("commit") or ""
            )
            labels["artifact.sha256"] = digest
        if not base:
            layers.append(oci.add_layer(layout, root, locked.time, owners, inside, False))
        if inside:
            layers.append(oci.add_layer(layout, root, locked.time, owners, inside, True))
        document = sbom.make(
            name, labels["org.opencontainers.image.version"], has, locked, created, release
        )
    manifest = oci.write(layout, layers, _settings(image, entrypoint), created, labels)
    (folder / f"{name}.cdx.json").write_text(
        json.dumps(document, indent=1) + "\n", encoding="utf-8"
    )
    _write_packages(folder / f"{name}.packages", has)
    return {
        "layout": f"dist/images/{name}",
        "digest": manifest,
        "packages": f"dist/images/{name}.packages",
        "sbom": f"dist/images/{name}.cdx.json",
        "user": image.uid,
        "version": labels["org.opencontainers.image.version"],
        **({"artifact": digest} if digest else {}),
    }


def _write_packages(path: Path, has: list[Package]) -> None:
    path.write_text(
        "".join(f"{one.name} {one.version} {one.sha256}\n" for one in has), encoding="utf-8"
    )


def read_list() -> dict[str, Any]:
    """What was built last; empty when nothing is there."""
    try:
        value = json.loads((FOLDER / LIST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_whole(layout: Path, digest: str) -> bool:
    """Whether every part of a layout is what its name says."""
    try:
        blobs = layout / "blobs/sha256"
        manifest = blobs / digest.removeprefix("sha256:")
        index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
        value = json.loads(manifest.read_text(encoding="utf-8"))
        parts = [digest, value["config"]["digest"], *(layer["digest"] for layer in value["layers"])]
        return index["manifests"][0]["digest"] == digest and all(
            hashlib.sha256((blobs / one.removeprefix("sha256:")).read_bytes()).hexdigest()
            == one.removeprefix("sha256:")
            for one in parts
        )
    except (OSError, ValueError, KeyError, IndexError):
        return False


@contextlib.contextmanager
def _lock_kept() -> Iterator[None]:
    """Nobody else makes images of this user meanwhile; files get the modes that they have everywhere."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(KEPT / ".lock", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting: another command makes images")
            fcntl.flock(lock, fcntl.LOCK_EX)
        umask = os.umask(0o022)
        try:
            for left in KEPT.glob(".new-*"):
                # Of a build that was killed.
                shutil.rmtree(left, ignore_errors=True)
            packages.forget_old(KEPT, "*-*")
            packages.forget_old(packages.CACHE, "*")
            yield
        finally:
            os.umask(umask)


def _sums(kept: Path) -> dict[str, str]:
    """Hash of each file of a kept image."""
    return {
        str(path.relative_to(kept)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(kept.rglob("*"))
        if path.is_file() and path.name != LIST
    }


def _read_kept(kept: Path) -> dict[str, Any]:
    """What the list says of a kept image; empty unless all of it is there, whole."""
    with contextlib.suppress(OSError):
        # First, so that nobody forgets it meanwhile.
        os.utime(kept)
    try:
        value = json.loads((kept / LIST).read_text(encoding="utf-8"))
        entry: dict[str, Any] = value["image"]
        return entry if value["files"] == _sums(kept) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _layout(kept: Path, entry: Mapping[str, Any]) -> Path:
    return kept / Path(entry["layout"]).name


def _make(
    kept: Path,
    image: Description,
    locked: Lock,
    artifact: Path,
    version: str,
    options: Options,
    app: Application = COUNTER,
) -> dict[str, Any]:
    """Make an image that is not kept, and keep it in the folder ``kept``; what the list says of it."""
    near = KEPT.glob(f"{kept.name.partition('-')[0]}-*")
    base = next((_layout(one, entry) for one in near if (entry := _read_kept(one))), None)
    debs = {} if base else packages.fetch(locked.packages_of(image.key), locked, options)
    with tempfile.TemporaryDirectory(dir=KEPT, prefix=".new-") as name:
        folder = Path(name, "image")
        folder.mkdir()
        entry = _build(folder, image, locked, debs, artifact, version, base, app)
        listed = json.dumps({"image": entry, "files": _sums(folder)})
        (folder / LIST).write_text(listed + "\n", encoding="utf-8")
        if _kept(image, locked, artifact, version, app) != kept:
            raise OperationError(
                f"image {image.name}: what it is made from has changed meanwhile; nothing was kept of it: run it again"
            )
        if kept.exists():
            # A damaged one; it goes with the folder.
            kept.rename(Path(name, "damaged"))
        folder.rename(kept)
    return entry


def build(
    images: dict[str, Description], locked: Lock, artifact: Path, version: str, options: Options
) -> dict[str, Any]:
    """
    All of ``images`` from the lock and the artifact, those that are not kept made; what is at dist/images is
    replaced when all are there, and not before. The list of them.
    """
    done: dict[str, Any] = {}
    with _lock_kept(), _new_folder() as folder:
        for number, (name, image) in enumerate(images.items(), 1):
            began, place = time.monotonic(), f"[{number}/{len(images)}] {name}"
            kept = _kept(image, locked, artifact, version, COUNTER)
            done[name], words = _read_kept(kept), "made before of the same"
            if not done[name]:
                say(f"{place}: {image.summary}")
                done[name] = _make(kept, image, locked, artifact, version, options)
                words = f"{time.monotonic() - began:.0f} s"
            shutil.copytree(kept, folder, ignore=lambda *_: [LIST], dirs_exist_ok=True)
            layout = folder / name
            size = sum(path.stat().st_size for path in layout.rglob("*") if path.is_file()) / 1e6
            say(f"{place}: {done[name]['digest']}, {size:.0f} MB, {words}")
        result = {"suite": locked.suite, "snapshot": locked.snapshot, "images": done}
        (folder / LIST).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        _replace(folder)
    return result


def build_release(
    artifact: Path, version: str, options: Options, app: Application = COUNTER
) -> dict[str, Any]:
    """
    The application's image of a stored release: the same bytes as ``build`` makes of its artifact. What the list says
    of it, its ``layout`` being a whole path.
    """
    image = next(one for one in load().values() if one.artifact)
    locked = read_lock([image])
    kept = _kept(image, locked, artifact, version, app)
    # Who only asks for one waits for nobody.
    entry = _read_kept(kept)
    if not entry:
        with _lock_kept():
            entry = _read_kept(kept)
            if not entry:
                say(f"image of {app.name} {version}: from its artifact")
                entry = _make(kept, image, locked, artifact, version, options, app)
    return {**entry, "layout": str(_layout(kept, entry))}


def _replace(folder: Path) -> None:
    """``folder`` in the place of the images of before."""
    if FOLDER.exists():
        old = Path(tempfile.mkdtemp(dir=DIST, prefix=".images-"))
        FOLDER.rename(old / "old")
        folder.rename(FOLDER)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(FOLDER)
