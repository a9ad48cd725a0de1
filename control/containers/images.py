"""
Images of container hosts: OCI layouts that ``make images`` writes below dist/images, brought to a host over ssh. A layer that
is there already is not sent again.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .. import ssh
from ..application import COUNTER, NAME, Application
from ..artifacts import files
from ..errors import OperationError, UserError
from ..images import build, description, lock
from ..options import Options
from ..paths import ROOT
from ..topology import Topology

FOLDER = ROOT / "dist" / "images"
# On a host: the layouts, whose blobs are shared.
PLACE = "/var/cache/stack/images"
# Those that are no application; each is `localhost/NAME:current` there.
SERVICES = ("redis", "haproxy", "prometheus", "alertmanager", "backup")


@dataclass(frozen=True)
class Image:
    """``digest``: of the manifest, ``sha256:…``."""

    name: str
    layout: Path
    digest: str


def read(folder: Path = FOLDER) -> dict[str, Image]:
    """The images that are built, by name; UserError without any."""
    try:
        listed = json.loads((folder / "images.json").read_text(encoding="utf-8"))["images"]
        return {
            name: Image(name, ROOT / entry["layout"], entry["digest"])
            for name, entry in listed.items()
        }
    except FileNotFoundError as error:
        raise UserError(
            f"no images in {folder.relative_to(ROOT)}: 'make images' builds them"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}/images.json: not a list of images: {error}") from error


def image_name(application: str) -> str:
    """What an application's images are called: of one that is called as a service is, not as the service's."""
    return application if application == NAME else f"app-{application}"


def _blobs(image: Image) -> list[Path]:
    return sorted((image.layout / "blobs" / "sha256").iterdir())


def bring(topology: Topology, host: str, image: Image, tags: list[str]) -> bool:
    """The image on a host, under ``tags``, unless it is there; whether it was not. OperationError where the host does not
    end up with this very digest."""
    names = [f"localhost/{image.name}:{tag}" for tag in tags]
    question = "podman image inspect -f '{{.Digest}}' " + " ".join(names) + " 2>/dev/null || true"
    if ssh.run(topology, host, question).split() == [image.digest] * len(names):
        return False
    known = ssh.run(
        topology, host, f"mkdir -p {PLACE}/blobs/sha256; ls {PLACE}/blobs/sha256"
    ).split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in _blobs(image):
            if path.name not in known:
                archive.add(path, f"blobs/sha256/{path.name}")
        for name in ("oci-layout", "index.json"):
            archive.add(image.layout / name, f"{image.name}/{name}")
    digest = ssh.run(
        topology,
        host,
        f"set -e; cd {PLACE}; rm -rf {image.name}; tar -x --no-same-owner;"
        f" ln -sfn ../blobs {image.name}/blobs; id=$(podman pull -q oci:{PLACE}/{image.name});"
        f" for name in {' '.join(names)}; do podman tag $id $name; done;"
        " podman image inspect -f '{{.Digest}}' $id",
        buffer.getvalue(),
    ).split()
    if digest != [image.digest]:
        raise OperationError(
            f"{host}: image {image.name} arrived as {' '.join(digest) or 'nothing'}, not {image.digest}"
        )
    return True


def for_release(version: str, folder: Path, app: Application = COUNTER) -> Image:
    """The application's image of a release whose artifact is in ``folder``: the one that ``make images`` made of the same, or
    one made of it here, which is the same bytes wherever that is done."""
    archive, name = folder / files.archive_name(version, app.name), image_name(app.name)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    listed = build.read_list().get("images", {}).get(name, {})
    if listed.get("version") != version or listed.get("artifact") != digest:
        listed = build.build_release(archive, version, Options.read(names=[]), app)
    return Image(name, ROOT / listed["layout"], listed["digest"])


def bring_release(
    topology: Topology, host: str, version: str, folder: Path, app: Application = COUNTER
) -> None:
    """The image of a release on a host, from its artifact in ``folder``."""
    _refuse_commands(folder / files.archive_name(version, app.name), version, app)
    image = for_release(version, folder, app)
    if bring(topology, host, image, [version]):
        print(f"  {app.name} {version}: {image.digest}", flush=True)


def _refuse_commands(archive: Path, version: str, app: Application) -> None:
    """UserError for a release that wants what a host of containers does not do beside instances."""
    try:
        with tarfile.open(archive) as opened:
            file = opened.extractfile(f"{app.name}-{version}/app.json")
            said = json.load(file) if file else {}
    except (KeyError, ValueError, tarfile.TarError):
        # Of before there was one; what is wrong with it the build says.
        return
    for key, what in (
        ("release", "release command"),
        ("processes", "process"),
        ("cron", "cron job"),
    ):
        if said.get(key):
            raise UserError(
                f"{app.name} {version}: its app.toml has a {what} ({key}), which hosts that run containers do not run so far:"
                " take it out, or deploy it to a topology of machines (docs/containers.md)"
            )


def ensure(version: str, options: Options) -> None:
    """The images of this checkout, made unless they are there."""
    described = description.load()
    archive = ROOT / "dist" / files.archive_name(version)
    build.build(described, lock.read(described.values()), archive, version, options)
