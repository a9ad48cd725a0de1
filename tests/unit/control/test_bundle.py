"""The tree that a machine gets: all that it needs, and nothing of this host."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from control import (
    bundle,
    paths,
    topology,
)
from control.errors import ControlError
from tests.unit.control.topologies import PROD

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with all that must stay at home."""
    files = {
        "Saltfile": "x",
        "salt/a/init.sls": "state",
        "pillar/top.sls": "x",
        "pillar/machine.yaml": "of-this-host",
        "bootstrap/bootstrap.sh": "#!/bin/sh",
        "dist/counter-1.tar.gz": "artifact",
        "dist/counter-1.tar.gz.sha256": "hash",
        "dist/counter-0.tar.gz": "old",
        ".git/config": "x",
        ".venv/bin/python": "x",
        ".lab/dev/vagrant/private_key": "x",
        "webapp/src/a.py": "x",
        "tests/a.py": "x",
        "salt/_modules/__pycache__/a.pyc": "x",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "bootstrap/bootstrap.sh").chmod(0o755)
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    return tmp_path


def pack(host: str = "dev", release: str = "1") -> tuple[str, dict[str, bytes]]:
    name, data = bundle.pack(topology.load(host), host, release)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        # Of two members of one name the later would win, and hide the other.
        assert len(set(archive.getnames())) == len(archive.getnames())
        members = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore
    return name, members


def test_a_machine_gets_what_it_needs_and_nothing_of_this_host(checkout: Path) -> None:
    _, members = pack()
    assert set(members) == {
        "Saltfile",
        "salt/a/init.sls",
        "pillar/top.sls",
        "pillar/machine.yaml",
        "bootstrap/bootstrap.sh",
        "dist/counter-1.tar.gz",
        "dist/counter-1.tar.gz.sha256",
    }
    identity = yaml.safe_load(members["pillar/machine.yaml"])
    assert identity == {"topology": "dev", "name": "dev", "release": "1"}


def test_the_same_content_has_the_same_name_whatever_its_times(checkout: Path) -> None:
    name, _ = pack()
    os.utime(checkout / "salt/a/init.sls", (1, 1))
    assert pack()[0] == name


def test_any_change_of_content_mode_or_identity_changes_the_name(checkout: Path) -> None:
    (checkout / "dist/counter-2.tar.gz").write_text("artifact")
    (checkout / "dist/counter-2.tar.gz.sha256").write_text("hash")
    names = [pack()[0], pack("dev12")[0], pack(release="2")[0]]
    (checkout / "salt/a/init.sls").write_text("other")
    names.append(pack()[0])
    (checkout / "salt/a/init.sls").chmod(0o755)
    names.append(pack()[0])
    (checkout / "salt/a/new").write_text("")
    names.append(pack()[0])
    assert len(set(names)) == 6


def test_the_real_tree_carries_nothing_private(root: Path) -> None:
    carried = {str(path.relative_to(root)) for path in bundle._list_files()}
    assert {"Saltfile", "salt/top.sls", "pillar/topology.sls", "bootstrap/converge"} <= carried
    for name in carried:
        assert name.split("/")[0] in bundle.UPLOADED, name
        assert "__pycache__" not in name
        assert not name.endswith(("machine.yaml", ".pem", ".key", "private_key")), name


def test_a_machine_in_a_cloud_is_not_told_the_labs_addresses(reached: dict[str, str]) -> None:
    reached["app1"] = "/srv/stack.d/1\ncloud\n"
    with pytest.raises(ControlError, match=r"app1 is in a cloud, .*cloud\.yaml from where"):
        bundle.upload(PROD, "app1", "1")


def test_two_uploads_at_a_time_leave_each_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one and the same tree; what an upload left that was cut off an hour ago goes."""
    monkeypatch.setattr(paths, "PLACE", str(tmp_path / "stack"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("Saltfile"))
    folder = tmp_path / "stack.d"
    cut_off = folder / "9.abcdef.part"
    cut_off.mkdir(parents=True)
    os.utime(cut_off, (1, 1))

    def start(name: str) -> subprocess.Popen[bytes]:
        script = bundle._unpack_script(name, "0")
        return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE)

    def parts() -> int:
        return len([part for part in folder.glob("*.part") if part != cut_off])

    slow = [start("1"), start("2")]
    while parts() < len(slow):
        assert all(one.poll() is None for one in slow)
    for process in (start("1"), *slow):
        process.communicate(packed.getvalue())
        assert process.returncode == 0
        assert (tmp_path / "stack" / "Saltfile").is_file()
    assert [path.name for path in folder.iterdir()] == ["2"]
    assert folder.joinpath("2").stat().st_mode & 0o777 == 0o755


def test_the_checkouts_own_machine_files_never_travel(root: Path) -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", paths.IDENTITY, paths.SECRETS, ".lab/prod/secrets/ca.key"],
        cwd=root,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert len(ignored) == 3
