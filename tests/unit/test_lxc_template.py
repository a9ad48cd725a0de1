"""How machines of the lab are made of a box: what they share, and that nothing of one is seen by another."""

from __future__ import annotations

import os
import re
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
        path.mkdir(parents=True)
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
            (entry / "usr/bin/says").read_text(encoding="ascii")
            for entry in self.trees.iterdir()
            if entry.is_dir()
        )


def config(path: Path) -> str:
    return (path / "config").read_text(encoding="ascii")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_what_a_machine_writes_no_other_machine_sees(lab: Lab) -> None:
    lab.pack("one")
    first, second = lab.make("first"), lab.make("second")
    lab.run(first, "echo mine >usr/bin/says; echo mine >etc/says; mv usr/bin usr/moved")
    read = "cat usr/bin/says; echo; cat etc/says"
    assert lab.run(first, "cat usr/moved/says etc/says") == "mine\nmine\n"
    assert lab.run(second, read) == "one\none"
    assert lab.run(lab.make("third"), read) == "one\none"
    assert (lab.machines / "third/rootfs/bin").readlink() == Path("usr/bin")
    assert not any((second / "rootfs/usr").iterdir()), "the large part was copied"
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
    assert (path / "rootfs/usr/bin/says").read_text(encoding="ascii") == "one"
    assert lab.run(path, "cat bin/says") == "one"


def test_a_tree_is_kept_as_long_as_a_machine_uses_it_or_its_box_is_there(lab: Lab) -> None:
    lab.pack("one")
    first = lab.make("first")
    lab.pack("two")
    second = lab.make("second")
    assert lab.list_trees() == ["one", "two"], "a tree of a machine that is there was removed"
    assert lab.run(first, "cat bin/says") == "one"
    subprocess.run(["rm", "-r", str(first), str(second)], check=True)
    lab.make("third")
    assert lab.list_trees() == ["two"], "of a box that was replaced, and no machine uses it"


def test_a_tree_that_was_left_half_unpacked_is_not_used(lab: Lab) -> None:
    box = lab.pack("one")
    done = subprocess.run(
        ["stat", "-c", "%d-%i-%Y-%s", box], capture_output=True, text=True, check=True
    )
    half = lab.trees / f"{done.stdout.strip()}.part"
    (half / "usr/bin").mkdir(parents=True)
    path = lab.make("first")
    assert lab.run(path, "cat bin/says") == "one"
    assert not half.exists()
