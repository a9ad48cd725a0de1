"""A checkout of two small images, and a mirror with the few packages that they are made of."""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from control.images import build, description, lock, packages
from control.images.description import Description
from control.images.lock import Lock, Package
from control.options import Options

VERSION = "0.1.0-g0123456789ab"


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Checkout:
    """Where the images are made, and what from."""

    root: Path
    mirror: Path
    options: Options
    images: dict[str, Description] = field(default_factory=dict)

    def deb(self, name: str, files: dict[str, str], version: str = "1.0") -> Package:
        """A package on the mirror; a path that ends with ! is a setuid program."""
        tree = self.root / "trees" / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"
            "Description: for a test\n"
        )
        for path, text in files.items():
            file = tree / path.removesuffix("!")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o4755 if path.endswith("!") else 0o755)
        path = self.mirror / "debian/pool" / f"{name}_{version}_all.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["dpkg-deb", "--build", "--root-owner-group", "-Zxz", str(tree), str(path)]
        subprocess.run(command, check=True, capture_output=True)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return Package(name, version, f"debian/pool/{path.name}", digest, len(content))

    def lock(self, *debs: Package, snapshot: str = "20260102T030405Z") -> Lock:
        """All images made of all these packages."""
        names = sorted(one.name for one in debs)
        listed = {
            one.key: {"asked": sorted(one.packages), "all": names} for one in self.images.values()
        }
        return Lock("trixie", snapshot, {one.name: one for one in debs}, listed)

    def artifact(self) -> Path:
        """What `make artifact` makes, as small as can be."""
        top = self.root / f"counter-{VERSION}"
        path = self.root / f"{top.name}.tar.gz"
        if path.exists():
            return path
        (top / "bin").mkdir(parents=True, exist_ok=True)
        (top / "bin/counter").write_text("#!/usr/bin/python3\n")
        (top / "lib").mkdir(exist_ok=True)
        (top / "release.json").write_text('{"commit": "0123456789ab"}')
        (top / "sbom.cdx.json").write_text('{"components": [{"name": "waitress"}]}')
        with tarfile.open(path, "w:gz") as archive:
            archive.add(top, arcname=top.name)
        return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    handler = functools.partial(Silent, directory=str(mirror))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    move(monkeypatch, tmp_path)
    monkeypatch.setattr(packages, "CACHE", tmp_path / "debs")
    monkeypatch.setattr(packages, "SNAPSHOT", f"{url}/snapshot")
    images = {
        "counter": Description(
            "counter", "application", "The application", ("thing",), 10001, artifact=True
        ),
        "edge": Description(
            "edge", "edge", "An edge", ("thing",), 10002, entrypoint=("/usr/bin/thing",),
            command=("-f", "/etc/thing.conf"), folders={"/var/lib/thing": "0700"}, drop=("usr/bin/b*",),
        ),
    }  # fmt: skip
    yield Checkout(tmp_path, mirror, Options(debian_mirror=url), images)
    server.shutdown()
    server.server_close()


def move(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Images are made in ``folder`` from here on, and the lock is there."""
    (folder / "containers").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(build, "DIST", folder / "dist")
    monkeypatch.setattr(build, "FOLDER", folder / "dist/images")
    monkeypatch.setattr(build, "KEPT", folder / "kept")
    monkeypatch.setattr(lock, "path", lambda suite="trixie": folder / f"containers/{suite}.lock")
    assert description.FOLDER.is_dir()
