"""How machines of the lab are made of a box: what they share, and that nothing of one is seen by another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parents[2] / "lab" / "lxc-template"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="lxc's containers are made by root")


class Lab:
    """Boxes and machines below one folder, as Vagrant's and lxc's own are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trees = folder / "trees"
        self.machines = folder / "lxc"
        (folder / "lxc-config").write_text("lxc.tty.dir =\n", encoding="ascii")

    def pack(self, words: str) -> Path:
        """A box whose program says ``words``, in the place of the one before."""
        root = self.folder / "rootfs"
        for name in ("usr/bin", "opt", "etc", "var"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "usr/bin/says").write_text(words, encoding="ascii")
        (root / "etc/says").write_text(words, encoding="ascii")
        if not (root / "bin").is_symlink():
            (root / "bin").symlink_to("usr/bin")
        box, new = self.folder / "rootfs.tar.gz", self.folder / "new"
        subprocess.run(["tar", "-C", self.folder, "-cf", new, "./rootfs"], check=True)
        new.replace(box)
        return box

    def make(self, name: str, **environment: str) -> Path:
        """A machine's folder, as lxc-create has it made."""
        path = self.machines / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "config").write_text("# lxc-create's own\n", encoding="ascii")
        given = {
            "name": name,
            "path": path,
            "rootfs": path / "rootfs",
            "tarball": self.folder / "rootfs.tar.gz",
            "config": self.folder / "lxc-config",
        }
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        env = {**os.environ, "LAB_TREES": str(self.trees), **environment}
        subprocess.run([TEMPLATE, *words], env=env, check=True)
        return path

    def run(self, path: Path, script: str) -> str:
        """What ``script`` says in a machine's tree, mounted as lxc mounts it when the machine starts."""
        entries = re.findall(
            r"^lxc\.mount\.entry = overlay (\S+) overlay (\S+) 0 0$", config(path), re.MULTILINE
        )
        mounts = [
            f"mount -t overlay -o {options} overlay {folder}\n" for folder, options in entries
        ]
        words = ["unshare", "--mount", "sh", "-euc", "".join(mounts) + script]
        done = subprocess.run(
            words, cwd=path / "rootfs", capture_output=True, text=True, check=True
        )
        return done.stdout

    def list_trees(self) -> list[str]:
        return sorted(
            path.read_text(encoding="ascii") for path in self.trees.glob("*/rootfs/usr/bin/says")
        )

    def pass_a_day(self) -> None:
        for path in self.trees.glob("*/"):
            os.utime(path, (path.stat().st_mtime - 25 * 3600,) * 2)


def config(path: Path) -> str:
    return (path / "config").read_text(encoding="ascii")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_what_a_machine_writes_no_other_machine_sees(lab: Lab, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "here"):
        (tmp_path / name).mkdir()
    mount = "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay here"
    if subprocess.run(["unshare", "--mount", *mount.split()], cwd=tmp_path, check=False).returncode:
        pytest.skip("a container that may mount no overlays, or lies on one itself")
    lab.pack("one")
    (lab.folder / "rootfs/opt").chmod(0o711)
    lab.pack("one")
    first, second = lab.make("first"), lab.make("second")
    lab.run(first, "echo mine >usr/bin/says; echo mine >etc/says; mv usr/bin usr/moved")
    read = "cat usr/bin/says; echo; cat etc/says"
    assert lab.run(first, "cat usr/moved/says etc/says") == "mine\nmine\n"
    assert lab.run(second, read) == "one\none"
    assert lab.run(lab.make("third"), read) == "one\none"
    assert (lab.machines / "third/rootfs/bin").readlink() == Path("usr/bin")
    assert not any((second / "rootfs/usr").iterdir()), "the large part was copied"
    assert lab.run(second, "stat -c %a . usr opt").split() == ["755", "755", "711"]
    assert config(second).startswith("# lxc-create's own\nlxc.uts.name = second\nlxc.mount.entry")
    # vagrant-lxc's own settings come after an empty line.
    assert config(second).endswith("lxc.tty.dir =\n\n")


def test_where_there_can_be_no_overlay_machines_have_a_copy_of_all(
    lab: Lab, tmp_path: Path
) -> None:
    lab.pack("one")
    refuses = tmp_path / "bin" / "unshare"
    refuses.parent.mkdir()
    refuses.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    refuses.chmod(0o755)
    path = lab.make("first", PATH=f"{refuses.parent}:{os.environ['PATH']}")
    assert "overlay" not in config(path)
    assert (path / "rootfs/bin/says").read_text(encoding="ascii") == "one"
    (tree,) = (path / "tree").read_text(encoding="utf-8").split()
    assert lab.list_trees() == ["one"] and Path(tree, "rootfs/bin").is_symlink()


def test_a_tree_is_kept_while_a_machine_uses_it_or_used_it_today(lab: Lab) -> None:
    lab.pack("one")
    first = lab.make("first")
    lab.pack("two")
    lab.make("second")
    lab.pass_a_day()
    lab.pack("three")
    third = lab.make("third")
    assert lab.list_trees() == ["one", "three", "two"], (
        "a tree of a machine that is there was removed"
    )
    assert (first / "rootfs/etc/says").read_text(encoding="ascii") == "one"
    shutil.rmtree(first)
    shutil.rmtree(third)
    lab.pack("four")
    lab.make("fourth")
    assert lab.list_trees() == ["four", "three", "two"], "three was used a moment ago"
    assert len(list(lab.trees.iterdir())) == 3 + 1, "nothing of the removed one is left"


def test_a_tree_that_was_left_half_unpacked_is_not_used(lab: Lab) -> None:
    lab.pack("one")
    (tree,) = (lab.make("first") / "tree").read_text(encoding="utf-8").split()
    half = Path(f"{tree}.part")
    Path(tree).rename(half)
    (half / "rootfs/etc/says").unlink()
    path = lab.make("second")
    assert (path / "rootfs/etc/says").read_text(encoding="ascii") == "one"
    assert not half.exists()


def test_a_new_machine_has_nothing_of_one_that_was_half_removed(lab: Lab) -> None:
    lab.pack("one")
    path = lab.make("first")
    left = path / "overlay/usr.upper/bin/says"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("old", encoding="ascii")
    shutil.rmtree(path / "rootfs")
    (path / "config").unlink()
    lab.make("first")
    assert not left.exists()
