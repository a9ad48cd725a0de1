"""Making every image: dist/images/NAME, an OCI layout each, and dist/images/images.json, which lists them."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..application import COUNTER, FORMULA, Application
from ..errors import UserError
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


def _digest_of_sources(image: Description) -> str:
    """Hash of this code and of the programs that the image takes from the tree."""
    sources = [
        *sorted(Path(__file__).parent.glob("*.py")),
        *(ROOT / one for one in image.add.values()),
    ]
    whole = hashlib.sha256()
    for path in sources:
        try:
            whole.update(path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"containers/images/{image.key}.yaml: add: {path.relative_to(ROOT)} is not there", 2
            ) from None
    return whole.hexdigest()


def _inputs(image: Description, locked: Lock, artifact: str) -> str:
    """Hash of all that an image is made from: what has the same one is the same."""
    made_from = [
        asdict(image),
        [asdict(package) for package in locked.packages_of(image.key)],
        locked.snapshot,
        artifact if image.artifact else "",
        _digest_of_sources(image),
    ]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


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
    base: Path | None = None,
    app: Application = COUNTER,
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
        "inputs": _inputs(image, locked, digest),
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


def _reuse(before: Path, after: Path, image: Description, old: dict[str, Any]) -> bool:
    """Take an image that is the same from the last build, if it is whole there."""
    if not is_whole(before / image.name, old["digest"]):
        return False
    shutil.copytree(before / image.name, after / image.name)
    for suffix in (".cdx.json", ".packages"):
        shutil.copyfile(before / f"{image.name}{suffix}", after / f"{image.name}{suffix}")
    return True


def build(
    images: dict[str, Description], locked: Lock, artifact: Path, version: str, options: Options
) -> dict[str, Any]:
    """
    Make all of ``images`` from the lock and the artifact, those that are the same as last time excepted; what
    is at dist/images is replaced when all are there, and not before. The list of them.
    """
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    listed = read_list().get("images", {})
    wanted = {
        name: _inputs(image, locked, digest if image.artifact else "")
        for name, image in images.items()
    }
    done: dict[str, Any] = {}
    with _new_folder() as folder:
        for number, (name, image) in enumerate(images.items(), 1):
            old, began = listed.get(name, {}), time.monotonic()
            if old.get("inputs") == wanted[name] and _reuse(FOLDER, folder, image, old):
                done[name] = old
                words = "the same as last time"
            else:
                say(f"[{number}/{len(images)}] {name}: {image.summary}")
                debs = packages.fetch(locked.packages_of(image.key), locked, options)
                done[name] = _build(folder, image, locked, debs, artifact, version)
                words = f"{time.monotonic() - began:.0f} s"
            layout = folder / name
            size = sum(path.stat().st_size for path in layout.rglob("*") if path.is_file()) / 1e6
            say(f"[{number}/{len(images)}] {name}: {done[name]['digest']}, {size:.0f} MB, {words}")
        result = {"suite": locked.suite, "snapshot": locked.snapshot, "images": done}
        (folder / LIST).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        _replace(folder)
    return result


def build_release(
    artifact: Path, version: str, target: Path, options: Options, app: Application = COUNTER
) -> dict[str, Any]:
    """
    The application's image of a stored release, in folder ``target``: the same bytes as ``build`` makes of its artifact,
    unless they are there already. What the list says of it, its ``layout`` being a whole path.
    """
    image = next(one for one in load().values() if one.artifact)
    locked = read_lock([image])
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    note = target / LIST
    with contextlib.suppress(OSError, ValueError):
        known = dict(json.loads(note.read_text(encoding="utf-8")))
        if known["inputs"] == _inputs(image, locked, digest) and is_whole(
            Path(known["layout"]), known["digest"]
        ):
            return known
    say(f"image of {app.name} {version}: from its artifact")
    near = read_list().get("images", {}).get(image.name, {})
    base = None
    if near.get("inputs") == _inputs(image, locked, near.get("artifact", "")):
        base = FOLDER / image.name if is_whole(FOLDER / image.name, near["digest"]) else None
    debs = {} if base else packages.fetch(locked.packages_of(image.key), locked, options)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, not beside those of `make images`, which takes what it finds there for left over.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as name:
        folder = Path(name, "image")
        folder.mkdir()
        entry = _build(folder, image, locked, debs, artifact, version, base, app)
        entry["layout"] = str(target / Path(entry["layout"]).name)
        (folder / LIST).write_text(json.dumps(entry) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return entry


def _replace(folder: Path) -> None:
    """``folder`` in the place of the images of before."""
    if FOLDER.exists():
        old = Path(tempfile.mkdtemp(dir=DIST, prefix=".images-"))
        FOLDER.rename(old / "old")
        folder.rename(FOLDER)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(FOLDER)
