"""Images are stored by their digest beside the artifact, and what is stored is never replaced."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.artifacts import signing
from control.artifacts.folder import Folder
from control.artifacts.http import Http
from control.commands import publish as publish_command
from control.errors import ControlError
from control.images import build, store
from control.options import Options

from .conftest import VERSION, Checkout

FILES = {"usr/bin/thing": "\x7fELF"}
# ada, and a password with what URLs and headers take apart.
PASSWORD = "s3cret: @/ä"
HASH = "$2b$05$abcdefghijklmnopqrstuuJtoCcvYrpEb4W3aGwwgmTJuTPi6VPzC"


@pytest.fixture
def listed(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `make images` built."""
    monkeypatch.setattr(store, "ROOT", checkout.root)
    locked = checkout.lock(checkout.deb("thing", FILES))
    return build.build(checkout.images, locked, checkout.artifact(), VERSION, checkout.options)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def folder(checkout: Checkout) -> tuple[Folder, store.ImageStore]:
    repository = Folder(checkout.root / "store")
    images = store.open_store(repository, Options())
    assert images is not None
    return repository, images


def test_images_are_stored_beside_the_artifact_by_digest_and_listed_by_a_signed_record(
    checkout: Checkout, listed: dict[str, Any], key: Path
) -> None:
    repository, images = folder(checkout)
    name = store.publish(listed, VERSION, repository, images, key)
    record = json.loads((checkout.root / "store" / name).read_text())
    assert set(record["images"]) == {"counter", "edge"}
    for image, one in record["images"].items():
        assert one["digest"] == listed["images"][image]["digest"]
        layout = checkout.root / "store/images" / image / one["digest"].removeprefix("sha256:")
        assert build.is_whole(layout, one["digest"])
        (document,) = (checkout.root / "store").glob(f"counter-{VERSION}.{image}.*.cdx.json")
        assert one["sbom"].removeprefix("sha256:")[:12] in document.name
    signature = (checkout.root / "store" / f"{name}.sig").read_bytes()
    assert signing.is_signed(checkout.root / "store" / name, signature, key)
    assert repository.releases() == [], "a release is what has its hash, and no record is one"


def test_what_is_stored_is_never_replaced(checkout: Checkout, listed: dict[str, Any]) -> None:
    repository, images = folder(checkout)
    name = store.publish(listed, VERSION, repository, images, None)
    before = {path: path.stat().st_mtime_ns for path in (checkout.root / "store").rglob("*")}
    assert store.publish(listed, VERSION, repository, images, None) == name
    assert {
        path: path.stat().st_mtime_ns for path in (checkout.root / "store").rglob("*")
    } == before
    # Of other packages: another digest, another record, beside the first.
    newer = checkout.lock(checkout.deb("thing", FILES, "2.0"))
    again = build.build(checkout.images, newer, checkout.artifact(), VERSION, checkout.options)
    assert store.publish(again, VERSION, repository, images, None) != name
    assert set(before) <= set((checkout.root / "store").rglob("*"))
    assert len(list((checkout.root / "store/images/edge").iterdir())) == 2


def test_parts_that_images_share_are_stored_once(
    checkout: Checkout, listed: dict[str, Any]
) -> None:
    repository, images = folder(checkout)
    store.publish(listed, VERSION, repository, images, None)
    changed = {**checkout.images}
    changed["edge"] = dataclasses.replace(changed["edge"], command=("-x",))
    shutil.rmtree(checkout.root / "trees")
    locked = checkout.lock(checkout.deb("thing", FILES))
    again = build.build(changed, locked, checkout.artifact(), VERSION, checkout.options)
    store.publish(again, VERSION, repository, images, None)
    links = [
        path.stat().st_nlink for path in (checkout.root / "store/images/edge").rglob("sha256/*")
    ]
    assert sorted(links) == [1, 1, 1, 1, 2, 2], "the layer is one file of two names"


def test_a_damaged_image_is_not_stored_and_a_damaged_store_is_told(
    checkout: Checkout, listed: dict[str, Any]
) -> None:
    repository, images = folder(checkout)
    digest = listed["images"]["edge"]["digest"]
    layer = max(
        (build.FOLDER / "edge/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size
    )
    content = layer.read_bytes()
    layer.write_bytes(content[:-1])
    with pytest.raises(ControlError, match="damaged or cut off: make images"):
        store.publish(listed, VERSION, repository, images, None)
    assert not (checkout.root / "store/images/edge").exists()
    layer.write_bytes(content)
    store.publish(listed, VERSION, repository, images, None)
    stored = checkout.root / "store/images/edge" / digest.removeprefix("sha256:")
    (stored / "blobs/sha256" / layer.name).chmod(0o644)
    (stored / "blobs/sha256" / layer.name).write_bytes(b"")
    with pytest.raises(ControlError, match="damaged: its parts are not what their names say"):
        store.publish(listed, VERSION, repository, images, None)


def test_without_a_store_for_images_it_is_none_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    web = Http("https://store.example", Options())
    assert store.open_store(web, Options()) is None
    with pytest.raises(ControlError, match=r"IMAGE_STORE=ftp://x: not a store that is known"):
        store.open_store(web, Options(image_store="ftp://x"))
    with pytest.raises(ControlError, match="no password in it"):
        store.open_store(web, Options(image_store="docker://ada:s3cret@host/x"))
    ci = Options(ci_registry_image="registry.example/team/counter", ci_registry_user="ci")
    chosen = store.open_store(web, ci)
    assert chosen is not None and chosen.where == "docker://registry.example/team/counter"


def test_publish_stores_the_images_of_its_artifact_and_no_others(
    checkout: Checkout, listed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    repository, _ = folder(checkout)
    artifact = listed["images"]["counter"]["artifact"]
    publish_command.publish_images(repository, VERSION, artifact, None, Options())
    assert "listed by counter-0.1.0-g0123456789ab.images." in capsys.readouterr().out
    publish_command.publish_images(repository, VERSION, "0" * 64, None, Options())
    assert "are of another build: make images" in capsys.readouterr().err
    shutil.rmtree(build.FOLDER)
    publish_command.publish_images(repository, VERSION, artifact, None, Options())
    assert "are not built: make images" in capsys.readouterr().err


# --- a registry -------------------------------------------------------------------------------------


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Debian's own, which asks for a password."""
    program = shutil.which("docker-registry")
    if not (program and shutil.which("skopeo")):
        pytest.skip("docker-registry and skopeo are not here: `make tests-need` installs them")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "htpasswd").write_text(f"ada:{HASH}\n")
    (tmp_path / "registry.yaml").write_text(
        json.dumps(
            {
                "version": 0.1,
                "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
                "http": {"addr": f"127.0.0.1:{port}"},
                "auth": {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}},
            }
        )
    )
    with open(tmp_path / "registry.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [program, "serve", str(tmp_path / "registry.yaml")], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline, "it did not start"
            time.sleep(0.05)
        yield f"docker+http://127.0.0.1:{port}/team/counter"
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_images_are_pushed_to_a_registry_by_digest_and_nothing_there_is_replaced(
    checkout: Checkout, listed: dict[str, Any], registry: str, tmp_path: Path
) -> None:
    repository = Folder(checkout.root / "store")
    options = Options(image_store=registry, image_store_user="ada", image_store_password=PASSWORD)
    images = store.open_store(repository, options)
    assert images is not None
    digest = listed["images"]["edge"]["digest"]
    assert images.add("edge", digest, build.FOLDER / "edge") is True
    assert images.add("edge", digest, build.FOLDER / "edge") is False
    # As a host gets it: by digest.
    host = registry.removeprefix("docker+http://")
    (tmp_path / "auth.json").write_text("{}")
    login = ["--src-tls-verify=false", "--src-creds", f"ada:{PASSWORD}"]
    fetched = tmp_path / "fetched"
    subprocess.run(
        ["skopeo", "copy", "-q", *login, f"docker://{host}/edge@{digest}", f"oci:{fetched}"],
        check=True,
    )
    assert build.is_whole(fetched, digest)
    # Somebody has put another image under that name.
    other = listed["images"]["counter"]
    tag = other["digest"].replace(":", "-")
    words = ["--dest-tls-verify=false", "--dest-creds", f"ada:{PASSWORD}"]
    subprocess.run(
        [
            "skopeo",
            "copy",
            "-q",
            *words,
            f"oci:{build.FOLDER / 'edge'}",
            f"docker://{host}/counter:{tag}",
        ],
        check=True,
    )
    with pytest.raises(ControlError, match="is not what its name says; it stays"):
        images.add("counter", other["digest"], build.FOLDER / "counter")


def test_a_registry_that_lets_nobody_in_says_so_and_shows_no_password(
    checkout: Checkout, listed: dict[str, Any], registry: str
) -> None:
    options = Options(
        image_store=registry, image_store_user="ada", image_store_password="wrong-one"
    )
    images = store.open_store(Folder(checkout.root / "store"), options)
    assert images is not None
    with pytest.raises(ControlError) as refused:
        images.add("edge", listed["images"]["edge"]["digest"], build.FOLDER / "edge")
    assert "wrong-one" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "unauthorized" in str(refused.value) or "authentication required" in str(refused.value)
