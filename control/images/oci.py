"""
An OCI image layout, written the same byte for byte from the same files.

https://github.com/opencontainers/image-spec: image-layout.md, manifest.md, config.md, layer.md.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX = "application/vnd.oci.image.index.v1+json"


class _Hashed(io.RawIOBase):
    """Passes what is written on, and hashes it."""

    def __init__(self, target: IO[bytes] | gzip.GzipFile) -> None:
        self.target, self.hash, self.size = target, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        self.size += len(data)
        self.target.write(data)
        return len(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self.hash.hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def add_blob(layout: Path, content: bytes) -> dict[str, Any]:
    """Put ``content`` there; its digest and size."""
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _paths(root: Path) -> list[str]:
    paths = []
    for folder, folders, files in os.walk(root):
        relative = os.path.relpath(folder, root)
        for name in (*folders, *files):
            paths.append(name if relative == "." else f"{relative}/{name}")
    return sorted(paths)


def _member(root: Path, path: str, time: int, owners: Mapping[str, int]) -> tarfile.TarInfo | None:
    info, file = tarfile.TarInfo(path), root / path
    status = file.lstat()
    info.mtime = time
    # Nothing in an image gains privileges, whatever its package wants.
    info.mode = status.st_mode & 0o1777
    info.uid = info.gid = owners.get(f"/{path}", 0)
    if file.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(file), 0o777
    elif file.is_dir():
        info.type = tarfile.DIRTYPE
    elif file.is_file():
        info.size = status.st_size
    else:
        return None
    return info


def add_layer(
    layout: Path, root: Path, time: int, owners: Mapping[str, int], inside: str, is_inside: bool
) -> dict[str, Any]:
    """
    A layer of the files of ``root``: of those in the folder ``inside`` alone, or all others. Each is root's or
    ``owners``'. Its digest, size and ``diff_id``, the digest before it was compressed.
    """
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    unfinished = blobs / ".layer"
    with unfinished.open("wb") as file:
        outer = _Hashed(file)
        with gzip.GzipFile("", "wb", 6, outer, mtime=0) as compressed:
            inner = _Hashed(compressed)
            with tarfile.open(
                fileobj=inner, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 16
            ) as archive:
                for path in _paths(root):
                    if is_inside != (f"{path}/".startswith(f"{inside}/") if inside else False):
                        continue
                    info = _member(root, path, time, owners)
                    if info is not None and info.isreg():
                        with (root / path).open("rb") as content:
                            archive.addfile(info, content)
                    elif info is not None:
                        archive.addfile(info)
    unfinished.rename(blobs / outer.hash.hexdigest())
    return {"digest": outer.digest, "size": outer.size, "diff_id": inner.digest}


def copy_first_layer(source: Path, layout: Path, root: Path) -> dict[str, Any]:
    """The first layer of the image in ``source`` as one of ``layout``, as :func:`add_layer` describes it, its files in the
    empty folder ``root``."""

    def read(digest: str) -> Path:
        return source / "blobs/sha256" / digest.removeprefix("sha256:")

    index = json.loads((source / "index.json").read_text(encoding="utf-8"))
    manifest = json.loads(read(index["manifests"][0]["digest"]).read_text(encoding="utf-8"))
    config = json.loads(read(manifest["config"]["digest"]).read_text(encoding="utf-8"))
    layer = manifest["layers"][0]
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    blob = read(layer["digest"])
    try:
        os.link(blob, layout / "blobs/sha256" / blob.name)
    except OSError:
        shutil.copyfile(blob, layout / "blobs/sha256" / blob.name)
    with tarfile.open(read(layer["digest"])) as archive:
        # Python 3.11.2 of Debian 12 has no filters (PEP 706) and no argument to name one.
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        for member in archive:
            # Whoever builds: the layer itself is what says who owns what.
            member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
            archive.extract(member, root)
    return {
        "digest": layer["digest"],
        "size": layer["size"],
        "diff_id": config["rootfs"]["diff_ids"][0],
    }


def write(
    layout: Path,
    layers: list[dict[str, Any]],
    settings: Mapping[str, Any],
    created: str,
    labels: Mapping[str, str],
) -> str:
    """Finish the layout of an image of these layers; the digest of its manifest."""
    config = {
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": {**settings, "Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"] for layer in layers]},
        "history": [{"created": created, "created_by": "make images"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, **add_blob(layout, _json(config))},
        "layers": [
            {"mediaType": LAYER, "digest": layer["digest"], "size": layer["size"]}
            for layer in layers
        ],
        "annotations": dict(labels),
    }
    described = {"mediaType": MANIFEST, **add_blob(layout, _json(manifest))}
    described["platform"] = {"architecture": "amd64", "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]}
    (layout / "index.json").write_bytes(_json(index))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return str(described["digest"])
