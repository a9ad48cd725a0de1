"""
Where `make publish` puts images: beside the artifact, each under its digest, which nothing else can have.

IMAGE_STORE says where; the forms are in :data:`FORMS`. What a release's images are is a record in the repository of
artifacts (control/artifacts/repository.py), `NAME-VERSION.images.DIGEST.json`, signed as the artifact is.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ..application import NAME
from ..artifacts import signing
from ..artifacts.files import FileExists, Repository
from ..artifacts.folder import Folder
from ..errors import OperationError, UserError
from ..options import Options
from ..paths import ROOT
from ..shell import say
from . import build

FORMS = """\
/a/folder                     a directory: NAME/DIGEST in it, an OCI layout each; the default where the artifact's store is one
docker://host/path            an OCI registry, through skopeo: path/NAME:sha256-DIGEST; IMAGE_STORE_USER and
                              IMAGE_STORE_PASSWORD, or skopeo's own login; in a job of GitLab its container registry
docker+http://host/path       one without TLS"""


class ImageStore(Protocol):
    """Images by name and digest."""

    where: str

    def add(self, name: str, digest: str, layout: Path) -> bool:
        """Store it unless it is there; whether it was not."""


class FolderStore:
    """A directory: `NAME/DIGEST` is an OCI layout; parts that images share are there once (hard links)."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    def add(self, name: str, digest: str, layout: Path) -> bool:
        target = self.path / name / digest.removeprefix("sha256:")
        if target.exists():
            if not build.is_whole(target, digest):
                raise OperationError(
                    f"{target}: damaged: its parts are not what their names say; remove it and publish again"
                )
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
            new = Path(folder) / "layout"
            shutil.copytree(layout, new, copy_function=self._put)
            for path in new.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o444)
            if not build.is_whole(new, digest):
                raise OperationError(f"{layout}: not whole; make images")
            # Never in the place of another: a folder with content cannot be replaced by a rename.
            with contextlib.suppress(OSError):
                new.rename(target)
        if not build.is_whole(target, digest):
            raise OperationError(f"{target}: does not give back what was stored")
        return True

    def _put(self, source: str, target: str) -> None:
        """A part; where one of the same name is there, which is its hash, that one."""
        part = Path(source).name
        if Path(source).parent.name == "sha256":
            for existing in self.path.glob(f"*/*/blobs/sha256/{part}"):
                if hashlib.sha256(existing.read_bytes()).hexdigest() == part:
                    with contextlib.suppress(OSError):
                        os.link(existing, target)
                        return
        shutil.copyfile(source, target)


class Registry:
    """An OCI registry. Its tag is the digest, so that no push can move what it means."""

    def __init__(self, url: str, options: Options) -> None:
        self.is_plain = url.startswith("docker+http://")
        self.base, self.where = url.partition("://")[2].rstrip("/"), url
        self.options = options

    @contextlib.contextmanager
    def _login(self) -> Iterator[list[str]]:
        """Arguments of skopeo with who we are: in a file that nobody else can read, never in its arguments."""
        user, password = self.options.image_store_user, self.options.image_store_password
        if (
            not user
            and self.options.ci_registry_image
            and self.base.startswith(self.options.ci_registry_image)
        ):
            user, password = self.options.ci_registry_user, self.options.ci_registry_password
        if bool(user) != bool(password):
            raise UserError("IMAGE_STORE_USER and IMAGE_STORE_PASSWORD: need each other", 2)
        if not user:
            yield []
            return
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        with tempfile.NamedTemporaryFile("w", prefix="registry-login-") as file:
            json.dump({"auths": {self.base.partition("/")[0]: {"auth": token}}}, file)
            file.flush()
            yield ["--authfile", file.name]

    def _skopeo(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self._login() as login:
            return subprocess.run(
                ["skopeo", *words[:1], *login, *words[1:]],
                capture_output=True,
                text=True,
                check=False,
            )

    def _stored(self, reference: str) -> str | None:
        """Digest of what is there; None when nothing is."""
        tls = ["--tls-verify=false"] if self.is_plain else []
        done = self._skopeo("inspect", "--raw", *tls, reference)
        if done.returncode == 0:
            return f"sha256:{hashlib.sha256(done.stdout.encode()).hexdigest()}"
        words = done.stderr.lower()
        if "manifest unknown" in words or "name unknown" in words or "not found" in words:
            return None
        raise OperationError(f"{self.where}: {_reason(done.stderr)}")

    def add(self, name: str, digest: str, layout: Path) -> bool:
        _need_skopeo()
        reference = f"docker://{self.base}/{name}:{digest.replace(':', '-')}"
        stored = self._stored(reference)
        if stored is None:
            tls = ["--dest-tls-verify=false"] if self.is_plain else []
            done = self._skopeo(
                "copy", "--quiet", "--preserve-digests", *tls, f"oci:{layout}", reference
            )
            if done.returncode:
                raise OperationError(
                    f"{self.where}: {name} could not be stored: {_reason(done.stderr)}"
                )
        if (now := self._stored(reference)) != digest:
            raise OperationError(
                f"{reference} is {now}, which is not what its name says; it stays, nothing was replaced"
            )
        return stored is None


def _reason(text: str) -> str:
    """skopeo's last word, without its time."""
    lines = [line for line in text.strip().splitlines() if line] or ["no reason given"]
    return lines[-1].partition("msg=")[2].strip('"') or lines[-1]


def _need_skopeo() -> None:
    if shutil.which("skopeo"):
        return
    say("installing skopeo, which speaks to registries")
    done = subprocess.run([str(ROOT / "lab" / "apt"), "skopeo"], check=False)
    if done.returncode:
        raise UserError(
            "skopeo is missing and could not be installed (see above): install it and run again"
        )


def open_store(repository: Repository, options: Options) -> ImageStore | None:
    """The store that is meant; None where the artifact's is no folder and nobody has named one for images."""
    url = options.image_store.strip()
    if not url and options.ci_registry_image and options.ci_registry_user:
        url = f"docker://{options.ci_registry_image}"
    if not url:
        return FolderStore(repository.path / "images") if isinstance(repository, Folder) else None
    if "@" in urllib.parse.urlsplit(url).netloc:
        raise UserError(
            "IMAGE_STORE: no password in it; use IMAGE_STORE_USER and IMAGE_STORE_PASSWORD", 2
        )
    scheme, separator, _ = url.partition("://")
    if not separator:
        return FolderStore(Path(url).expanduser().absolute())
    if scheme in ("docker", "docker+http"):
        return Registry(url, options)
    raise UserError(f"IMAGE_STORE={url}: not a store that is known; use\n{FORMS}", 2)


def publish(
    listed: dict[str, Any],
    version: str,
    repository: Repository,
    images: ImageStore,
    key: Path | None,
) -> str:
    """
    Store all images that were built, their SBOMs and, last, the record of them, signed where there is a key; the
    record's name. What is there already stays. ControlError when one is not stored as it is here.
    """
    record: dict[str, Any] = {name: listed[name] for name in ("suite", "snapshot")}
    record |= {"version": version, "images": {}}
    for name, one in listed["images"].items():
        layout = ROOT / one["layout"]
        if not build.is_whole(layout, one["digest"]):
            raise OperationError(f"{one['layout']} is damaged or cut off: make images")
        is_new = images.add(name, one["digest"], layout)
        say(f"  {'stored' if is_new else 'stored already'}: {name}@{one['digest']}")
        document = (ROOT / one["sbom"]).read_bytes()
        digest = hashlib.sha256(document).hexdigest()
        _add(repository, version, f"{NAME}-{version}.{name}.{digest[:12]}.cdx.json", document)
        record["images"][name] = {"digest": one["digest"], "sbom": f"sha256:{digest}"}
    content = (json.dumps(record, indent=1) + "\n").encode()
    # What has the same name is the same.
    name = f"{NAME}-{version}.images.{hashlib.sha256(content).hexdigest()[:12]}.json"
    if key:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            with contextlib.suppress(FileExists):
                repository.add(version, f"{name}.sig", signing.sign_file(path, key))
    _add(repository, version, name, content)
    return name


def _add(repository: Repository, version: str, name: str, content: bytes) -> None:
    try:
        repository.add(version, name, content)
    except FileExists:
        if repository.read(version, name) != content:
            raise OperationError(
                f"{repository.where}: {name} is there with other contents, and is never replaced"
            ) from None
