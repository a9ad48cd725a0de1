"""Images are the same bytes each time, hold no more than they run with, and are there whole or not at all."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from control.application import APPS, COUNTER, Application
from control.errors import ControlError, OperationError
from control.images import build, description, lock, packages, rootfs
from control.options import Options
from control.paths import ROOT

from .conftest import VERSION, Checkout, move

FILES = {
    "usr/bin/thing!": "\x7fELF",
    "usr/bin/bench": "\x7fELF",
    "usr/bin/helper": "#!/usr/bin/perl\n",
    "etc/thing.conf": "secret = none\n",
    "usr/share/man/man1/thing.1": "manual",
    "usr/share/doc/thing/copyright": "MIT",
    "usr/share/doc/thing/README": "read me",
}


def made(checkout: Checkout, *debs: lock.Package) -> dict[str, Any]:
    return build.build(
        checkout.images, checkout.lock(*debs), checkout.artifact(), VERSION, checkout.options
    )


def members(name: str) -> dict[str, tarfile.TarInfo]:
    """All files of an image that was made, by path."""
    layout = build.FOLDER / name
    found: dict[str, tarfile.TarInfo] = {}
    for layer in manifest(layout)["layers"]:
        path = layout / "blobs/sha256" / layer["digest"].removeprefix("sha256:")
        with tarfile.open(path) as archive:
            found |= {member.name: member for member in archive}
    return found


def manifest(layout: Path) -> Any:
    return blob(layout, json.loads((layout / "index.json").read_text())["manifests"][0])


def blob(layout: Path, described: dict[str, Any]) -> Any:
    content = (layout / "blobs/sha256" / described["digest"].removeprefix("sha256:")).read_bytes()
    assert len(content) == described["size"]
    return json.loads(content)


def test_two_builds_in_two_folders_have_the_same_digests(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deb = checkout.deb("thing", FILES)
    artifact = checkout.artifact()
    results = []
    for number in (0, 1):
        move(monkeypatch, tmp_path / f"checkout-{number}")
        locked = checkout.lock(deb)
        results.append(build.build(checkout.images, locked, artifact, VERSION, checkout.options))
    assert results[0] == results[1]
    both = [sorted_files(tmp_path / f"checkout-{number}/dist/images") for number in (0, 1)]
    assert both[0] == both[1]


def sorted_files(folder: Path) -> list[tuple[str, bytes]]:
    return sorted(
        (str(path.relative_to(folder)), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    )


def test_an_image_holds_what_it_runs_with_and_no_more(checkout: Checkout) -> None:
    made(checkout, checkout.deb("thing", FILES))
    files = members("edge")
    assert "usr/bin/thing" in files
    assert files["usr/bin/thing"].mode == 0o755, "nothing gains privileges"
    assert "usr/bin/bench" not in files, "dropped by its description"
    assert "usr/bin/helper" not in files, "its interpreter is not there"
    assert "etc/thing.conf" not in files, "configuration is mounted"
    assert "usr/share/man/man1/thing.1" not in files
    assert "usr/share/doc/thing/copyright" in files
    assert "usr/share/doc/thing/README" not in files
    assert files["var/lib/thing"].uid == 10002 and files["var/lib/thing"].mode == 0o700
    others = {one.uid for path, one in files.items() if path != "var/lib/thing"}
    assert others == {0}, "its own user can change nothing but its data"
    assert "var/lib/dpkg/status.d/thing" in files, "scanners find its packages"


def test_the_configuration_of_an_image_is_that_of_its_description(checkout: Checkout) -> None:
    result = made(checkout, checkout.deb("thing", FILES))
    layout = build.FOLDER / "edge"
    (described,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert described["digest"] == result["images"]["edge"]["digest"]
    config = blob(layout, blob(layout, described)["config"])
    assert config["config"]["User"] == "10002:10002"
    assert config["config"]["Entrypoint"] == ["/usr/bin/thing"]
    assert config["config"]["Cmd"] == ["-f", "/etc/thing.conf"]
    assert config["created"] == "2026-01-02T03:04:05Z", "the time of the lock, not of the build"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("app-1.0/../../x", tarfile.REGTYPE, "is outside of the archive's own folder"),
        ("/x", tarfile.REGTYPE, "is outside of the archive's own folder"),
        ("app-1.0/x", tarfile.SYMTYPE, "is neither a file nor a folder"),
        ("app-1.0/x", tarfile.LNKTYPE, "is neither a file nor a folder"),
    ],
)
def test_an_artifact_that_would_write_elsewhere_makes_no_image(
    tmp_path: Path, name: str, kind: bytes, said: str
) -> None:
    """Also by a Python that has no filters for archives, as Debian 12's."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "app.tar.gz", "w:gz") as archive:
        archive.addfile(member)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(OperationError, match=f"app.tar.gz: member '{name}' {said}; refused"):
        rootfs.add_artifact(root, tmp_path / "app.tar.gz", Path("/opt/app"), "0" * 64)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["app.tar.gz", "opt", "root"]


def test_the_application_is_where_machines_have_it_with_its_hash_beside_it(
    checkout: Checkout,
) -> None:
    result = made(checkout, checkout.deb("thing", FILES))
    top = f"opt/counter/releases/{VERSION}"
    files = members("counter")
    assert f"{top}/artifact.sha256" in files and f"{top}/release.json" in files
    digest = hashlib.sha256(checkout.artifact().read_bytes()).hexdigest()
    assert result["images"]["counter"]["artifact"] == digest
    assert len(manifest(build.FOLDER / "counter")["layers"]) == 2, (
        "a release costs a layer of its own, not a new Python"
    )


def test_the_list_of_parts_names_packages_and_the_artifacts_wheels(checkout: Checkout) -> None:
    made(checkout, checkout.deb("thing", FILES, "1:2.0+deb13u1"))
    document = json.loads((build.FOLDER / "counter.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    names = [one["name"] for one in document["components"]]
    assert names == ["thing", "waitress"]
    purl = "pkg:deb/debian/thing@1%3A2.0%2Bdeb13u1?arch=all&distro=trixie"
    assert document["components"][0]["purl"] == purl
    assert (build.FOLDER / "edge.packages").read_text().startswith("thing 1:2.0+deb13u1 ")


def test_what_is_the_same_is_not_built_again_and_what_was_damaged_is(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    deb = checkout.deb("thing", FILES)
    first = made(checkout, deb)
    capsys.readouterr()
    assert made(checkout, deb) == first
    assert capsys.readouterr().out.count("made before of the same") == 2
    kept = next(build.KEPT.glob("*/edge")).parent
    layers = [
        max((folder / "edge/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        for folder in (build.FOLDER, kept)
    ]
    before = sorted_files(build.FOLDER)
    whole = (kept / "edge/oci-layout", kept / "edge.cdx.json", kept / "images.json")
    damaged = [(layers[0], 2), (layers[1], 1), *((path, 1) for path in whole)]
    for path, unchanged in damaged:
        path.write_bytes(path.read_bytes()[:-3])
        assert made(checkout, deb) == first
        assert capsys.readouterr().out.count("made before of the same") == unchanged, path
        assert sorted_files(build.FOLDER) == before
    (kept / "edge.packages").unlink()
    assert made(checkout, deb) == first
    assert sorted_files(build.FOLDER) == before


def test_what_changes_while_it_is_made_is_not_kept_as_what_it_was(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = checkout.deb("thing", FILES)
    fetch = packages.fetch

    def meanwhile(*words: Any) -> Any:
        content = gzip.decompress(checkout.artifact().read_bytes())
        checkout.artifact().write_bytes(gzip.compress(content, 1))
        return fetch(*words)

    monkeypatch.setattr(packages, "fetch", meanwhile)
    with pytest.raises(OperationError, match="image counter: what it is made from has changed"):
        made(checkout, deb)
    assert not build.FOLDER.exists() and not list(build.KEPT.glob("*-*"))


def test_another_checkout_builds_nothing_again_and_another_artifact_only_its_own_layer(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deb = checkout.deb("thing", FILES)
    first = made(checkout, deb)
    before = sorted_files(build.FOLDER)
    kept = build.KEPT
    capsys.readouterr()
    move(monkeypatch, checkout.root / "another")
    monkeypatch.setattr(build, "KEPT", kept)
    # Neither the packages nor where they come from are there any more.
    shutil.rmtree(packages.CACHE)
    nowhere = dataclasses.replace(checkout, options=Options(debian_mirror="http://127.0.0.1:9"))
    assert made(nowhere, deb) == first
    assert sorted_files(build.FOLDER) == before
    assert capsys.readouterr().out.count("made before of the same") == 2
    checkout.artifact().write_bytes(
        gzip.compress(gzip.decompress(checkout.artifact().read_bytes()), 1)
    )
    second = made(nowhere, deb)
    assert second["images"]["edge"] == first["images"]["edge"]
    assert second["images"]["counter"]["digest"] != first["images"]["counter"]["digest"]
    # The same bytes as from the packages themselves.
    monkeypatch.setattr(build, "KEPT", checkout.root / "empty")
    assert made(checkout, deb) == second


def test_an_artifact_has_another_image_for_another_version_application_or_place(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = checkout.lock(checkout.deb("thing", FILES))
    monkeypatch.setattr(build, "load", lambda: checkout.images)
    monkeypatch.setattr(build, "read_lock", lambda _: locked)
    shop = Application("shop", APPS)

    def release(version: str = VERSION, app: Application = COUNTER) -> tuple[str, str, str, int]:
        entry = build.build_release(checkout.artifact(), version, checkout.options, app)
        config = blob(Path(entry["layout"]), manifest(Path(entry["layout"]))["config"])["config"]
        labels = config["Labels"]
        return (
            labels["org.opencontainers.image.title"],
            labels["org.opencontainers.image.version"],
            config["Entrypoint"][0],
            len(list(build.KEPT.glob("*-*"))),
        )

    where = f"/opt/counter/releases/{VERSION}/bin"
    assert release() == ("counter", VERSION, f"{where}/counter", 1)
    assert release("2.0") == ("counter", "2.0", "/opt/counter/releases/2.0/bin/counter", 2)
    assert release("2.0", shop) == ("app-shop", "2.0", "/opt/apps/shop/releases/2.0/bin/shop", 3)
    assert release() == ("counter", VERSION, f"{where}/counter", 3), "it is kept"
    monkeypatch.setattr(build, "_place", lambda _: (Path("/srv/counter/releases"), "bin/run"))
    assert release()[2] == f"/srv/counter/releases/{VERSION}/bin/run"


def test_what_nobody_asked_for_in_a_month_and_what_a_killed_build_left_is_not_kept(
    checkout: Checkout,
) -> None:
    name = "0" * 64
    old, left = build.KEPT / f"{name}-{name}", build.KEPT / ".new-dead"
    others = build.KEPT / "somebody-elses"
    for folder in (old, left, others, packages.CACHE):
        folder.mkdir(parents=True)
    (packages.CACHE / name).write_text("")
    for path in (old, others, packages.CACHE / name):
        os.utime(path, (0, 0))
    deb = checkout.deb("thing", FILES)
    made(checkout, deb)
    assert others.exists() and not (packages.CACHE / name).exists()
    used = sorted(build.KEPT.glob("*-" + "[0-9a-f]" * 64))
    assert len(used) == 2 and not old.exists() and not left.exists()
    for path in used:
        # Made long ago, and asked for now and then.
        os.utime(path, (time.time() - 29 * 86400,) * 2)
    made(checkout, deb)
    assert all(time.time() - path.stat().st_mtime < 86400 for path in used)


def test_a_build_that_fails_leaves_the_images_of_before(checkout: Checkout) -> None:
    deb = checkout.deb("thing", FILES)
    made(checkout, deb)
    before = sorted_files(build.FOLDER)
    gone = checkout.deb("thing", FILES, "2.0")
    (checkout.mirror / gone.path).unlink()
    with pytest.raises(
        ControlError, match=r"thing 2\.0 of the lock cannot be had .*make images RENEW=1"
    ):
        made(checkout, gone)
    assert sorted_files(build.FOLDER) == before
    assert [path.name for path in build.DIST.iterdir()] == ["images"], "nothing half-made is left"


def test_what_a_killed_build_left_is_removed(checkout: Checkout) -> None:
    (build.DIST / ".images-dead/counter").mkdir(parents=True)
    made(checkout, checkout.deb("thing", FILES))
    assert [path.name for path in build.DIST.iterdir()] == ["images"]


def test_a_package_that_is_not_what_the_lock_says_is_refused(checkout: Checkout) -> None:
    deb = checkout.deb("thing", FILES)
    path = checkout.mirror / deb.path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ControlError, match="damaged, cut off or tampered with"):
        made(checkout, deb)
    assert not build.FOLDER.exists()
    assert list(packages.CACHE.iterdir()) == []


def test_a_version_that_the_mirror_has_no_longer_comes_from_the_archive(checkout: Checkout) -> None:
    deb = checkout.deb("thing", FILES)
    archived = (
        checkout.mirror / "snapshot/debian/20260102T030405Z" / deb.path.removeprefix("debian/")
    )
    archived.parent.mkdir(parents=True)
    (checkout.mirror / deb.path).rename(archived)
    assert set(made(checkout, deb)["images"]) == {"counter", "edge"}


def test_a_kept_package_needs_no_network(checkout: Checkout) -> None:
    deb = checkout.deb("thing", FILES)
    first = made(checkout, deb)
    nowhere = dataclasses.replace(checkout, options=Options(debian_mirror="http://127.0.0.1:9"))
    subprocess.run(["rm", "-r", str(build.FOLDER), str(build.KEPT)], check=True)
    assert made(nowhere, deb) == first


# --- the lock ---------------------------------------------------------------------------------------


def test_a_lock_is_read_as_it_was_written(checkout: Checkout) -> None:
    written = checkout.lock(checkout.deb("thing", FILES))
    lock.write(written)
    assert lock.read(checkout.images.values()) == written


def test_a_lock_of_other_packages_than_an_image_asks_for_is_refused(checkout: Checkout) -> None:
    lock.write(checkout.lock(checkout.deb("thing", FILES)))
    changed = dataclasses.replace(checkout.images["edge"], packages=("thing", "another"))
    with pytest.raises(
        ControlError, match="before edge asked for thing, another: make images RENEW=1"
    ):
        lock.read([changed])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"packages": {"a": {}}}'])
def test_a_damaged_or_missing_lock_says_what_to_do(checkout: Checkout, text: str) -> None:
    with pytest.raises(ControlError, match="is missing: make images RENEW=1"):
        lock.read([])
    lock.path().write_text(text)
    with pytest.raises(ControlError, match="not a lock"):
        lock.read([])


def test_what_differs_from_the_lock_is_named_with_both_versions(checkout: Checkout) -> None:
    old = checkout.lock(checkout.deb("thing", FILES), checkout.deb("gone", {"usr/bin/gone": ""}))
    new = checkout.lock(checkout.deb("thing", FILES, "2.0"))
    assert lock.differences(old, new) == ["gone: 1.0 -> none", "thing: 1.0 -> 2.0"]
    assert lock.differences(old, old) == []


def test_the_lock_of_this_checkout_is_that_of_its_images() -> None:
    images = description.load()
    locked = lock.read(images.values())
    assert set(locked.images) == {one.key for one in images.values()}
    for image in images.values():
        names = {one.name for one in locked.packages_of(image.key)}
        assert {*image.packages, *lock.ALWAYS, "libc6"} <= names
        shells = names & {
            "bash",
            "dash",
            "busybox",
            "perl-base",
            "dpkg",
            "apt",
            "coreutils",
            "passwd",
        }
        assert not shells, image.name
    used = {name for one in locked.images.values() for name in one["all"]}
    assert used == set(locked.packages), "no package is locked that no image has"


# --- descriptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"packagez": ["x"]}, "packagez: no such key; did you mean packages"),
        ({"packages": "redis"}, "packages: 'redis' is not of type 'array'"),
        ({"packages": ["Redis Server"]}, "packages:0: 'Redis Server' does not match"),
        ({"uid": 0}, "uid: 0 is less than the minimum of 10001"),
        ({"uid": None}, "uid: None is not of type 'integer'"),
        ({"entrypoint": None}, "entrypoint: None is not of type 'array'"),
        ({"stop_signal": "SIGKILL"}, "stop_signal: 'SIGKILL' is not one of"),
        ({"folders": {"var/lib": "0700"}}, "folders: 'var/lib' does not match"),
    ],
)
def test_a_wrong_description_is_refused_with_its_file_and_key(
    tmp_path: Path, change: dict[str, Any], error: str
) -> None:
    right = {"summary": "x", "packages": ["thing"], "uid": 10001, "entrypoint": ["/usr/bin/thing"]}
    (tmp_path / "thing.yaml").write_text(yaml.safe_dump(right))
    assert set(description.load(tmp_path)) == {"thing"}
    (tmp_path / "thing.yaml").write_text(yaml.safe_dump({**right, **change}))
    with pytest.raises(ControlError) as refused:
        description.load(tmp_path)
    assert f"thing.yaml: {error}" in str(refused.value)


def test_two_images_of_one_user_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        right = {"summary": "x", "packages": ["thing"], "uid": 10001, "entrypoint": ["/x"]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(right))
    with pytest.raises(ControlError, match="uid 10001 is a's and b's: each has its own"):
        description.load(tmp_path)


def test_what_an_image_adds_is_in_the_tree() -> None:
    for image in description.load().values():
        for source in image.add.values():
            assert (ROOT / source).is_file(), (image.name, source)


def test_a_host_without_dpkg_is_told_what_to_install(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = checkout.deb("thing", FILES)
    monkeypatch.setenv("PATH", str(checkout.root / "nothing"))
    with pytest.raises(ControlError, match="no dpkg-deb: install the package dpkg"):
        made(checkout, deb)


def test_a_link_to_what_was_dropped_is_dropped_too(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/real").write_text("")
    for name, target in {"there": "real", "gone": "nothing", "whole": "/usr/lib/real"}.items():
        (tmp_path / "usr/lib" / name).symlink_to(target)
    rootfs.drop_dangling(tmp_path)
    assert sorted(path.name for path in (tmp_path / "usr/lib").iterdir()) == [
        "real",
        "there",
        "whole",
    ]
