"""The files of an image: packages unpacked without being installed, and no more of them than it runs with."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from ..by_path import load_module
from ..errors import OperationError, UserError
from ..paths import ROOT
from .description import Description
from .lock import Package

# Of no use in an image: what people read, what other hosts' init systems start. Licences stay.
DROPPED = (
    "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
    "usr/share/bash-completion", "usr/share/zsh", "usr/share/doc-base", "usr/share/menu", "usr/share/applications",
    "usr/share/pixmaps", "usr/share/icons", "usr/share/python3", "usr/share/base-files", "usr/lib/systemd",
    "usr/lib/init", "usr/lib/tmpfiles.d", "usr/lib/sysusers.d", "usr/share/gcc", "usr/share/gdb",
    "usr/share/initramfs-tools", "usr/share/perl5", "usr/share/vim", "usr/share/binfmts", "usr/lib/python3.*/sitecustomize.py", "usr/lib/binfmt.d",
    "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/engines-3",
)  # fmt: skip
# Of /etc what is no configuration of a service; the rest is mounted by the host.
KEPT_OF_ETC = (
    "etc/os-release",
    "etc/debian_version",
    "etc/protocols",
    "etc/services",
)
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
FOLDERS = {
    "tmp": 0o1777, "var/tmp": 0o1777, "run": 0o755, "proc": 0o555, "sys": 0o555, "dev": 0o755, "etc": 0o755,
    "var/lib": 0o755, "var/log": 0o755,
}  # fmt: skip
# What machines unpack artifacts with.
ARCHIVES = "salt/_utils/archives.py"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unpack(deb: Path, package: Package, root: Path) -> None:
    try:
        done = subprocess.run(
            ["dpkg-deb", "--extract", str(deb), str(root)],
            capture_output=True,
            text=True,
            check=False,
        )
        control = subprocess.run(
            ["dpkg-deb", "--field", str(deb)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError(
            "this host has no dpkg-deb: install the package dpkg, or build on Debian"
        ) from None
    if done.returncode or control.returncode:
        words = (done.stderr or control.stderr).strip().splitlines()
        raise OperationError(
            f"{package.name} could not be unpacked: {words[-1] if words else 'dpkg-deb failed'}"
        )
    # Where scanners for vulnerabilities look in images without a package manager.
    listed = root / "var/lib/dpkg/status.d" / package.name
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(control.stdout, encoding="utf-8")


def _prune(root: Path, patterns: Iterable[str]) -> None:
    for pattern in (*DROPPED, *patterns):
        for path in sorted(root.glob(pattern)):
            _remove(path)
    kept = {path for pattern in KEPT_OF_ETC for path in root.glob(pattern)}
    for path in sorted((root / "etc").glob("*")):
        if path not in kept:
            _remove(path)
    for path in sorted((root / "usr/share/doc").glob("*/*")):
        if path.name != "copyright":
            _remove(path)


def _drop_scripts(root: Path) -> None:
    """Programs whose interpreter is not there: of packages' scripts, for an administrator at a shell."""
    for folder in ("usr/bin", "usr/sbin"):
        for path in sorted((root / folder).glob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            with path.open("rb") as file:
                first = file.readline(256)
            if first.startswith(b"#!"):
                interpreter = first[2:].split()[0].decode(errors="replace").lstrip("/")
                if not (root / interpreter).exists():
                    path.unlink()


def _bundle_authorities(root: Path) -> None:
    """The certificates of the usual authorities in the one file that programs read."""
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if not certificates:
        return
    bundle = root / BUNDLE
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(path.read_bytes().rstrip() + b"\n" for path in certificates))
    _remove(root / "usr/share/ca-certificates")


def _add_accounts(root: Path, image: Description) -> None:
    accounts = {"root": 0, image.name: image.uid, "nobody": 65534}
    users = [
        f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"
        for name, number in accounts.items()
    ]
    (root / "etc/passwd").write_text("".join(users))
    (root / "etc/group").write_text(
        "".join(f"{name}:x:{number}:\n" for name, number in accounts.items())
    )
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")


def drop_dangling(root: Path) -> None:
    """Links to what is gone."""
    for folder, folders, files in os.walk(root / "usr", topdown=False):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                target = os.readlink(path)
                real = root / target.lstrip("/") if target.startswith("/") else path.parent / target
                if not os.path.lexists(real):
                    path.unlink()


def python_of(root: Path) -> Path | None:
    """The interpreter's library in the image; None without one."""
    return next(iter(sorted((root / "usr/lib").glob("python3.*"))), None)


def _byte_compile(root: Path, folders: Iterable[Path]) -> None:
    """
    As a package's script would, and machines do with a release: an image is read-only and could keep none. By
    an interpreter of the image's own version, with hashes instead of times, so that it is the same each time.
    """
    binary = next(iter(sorted((root / "usr/bin").glob("python3.*[0-9]"))), None)
    if binary is None:
        return
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    command = [
        str(loader),
        "--library-path",
        libraries,
        str(binary),
        # Not what it imports itself: with times, and the folder that it lies in now.
        "-SB",
        "-m",
        "compileall",
        "-qf",
        "-s",
        str(root),
    ]
    command += [
        "-p",
        "/",
        "--invalidation-mode",
        "unchecked-hash",
        *(str(folder) for folder in folders),
    ]
    environment = {
        "PYTHONHOME": str(root / "usr"),
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/bin",
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        words = (done.stdout + done.stderr).strip().splitlines()
        raise OperationError(f"byte-compiling failed: {words[-1] if words else done.returncode}")


def make(root: Path, image: Description, packages: Iterable[tuple[Package, Path]]) -> None:
    """All files of ``image`` but an artifact's, in the empty folder ``root``."""
    for link, target in LINKS.items():
        (root / target).mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target)
    for package, deb in packages:
        _unpack(deb, package, root)
    for link in LINKS:
        if not (root / link).is_symlink():
            raise OperationError(
                f"{image.name}: a package of it has a folder /{link}, which is a link since Debian 12"
            )
    _prune(root, image.drop)
    for folder, mode in FOLDERS.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).chmod(mode)
    for folder, digits in image.folders.items():
        (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (root / folder.lstrip("/")).chmod(int(digits, 8))
    for place, source in image.add.items():
        path = root / place.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, path)
        path.chmod(0o755)
    _bundle_authorities(root)
    _add_accounts(root, image)
    _drop_scripts(root)
    drop_dangling(root)
    if library := python_of(root):
        _byte_compile(root, [library, *sorted((root / "usr/lib/python3").glob("dist-packages"))])


def add_artifact(root: Path, artifact: Path, top: Path, sha256: str) -> None:
    """Unpack a release as machines have it: in the folder ``top`` of the image, with its hash beside it."""
    folder = root / str(top).lstrip("/")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unpacked = root / ".artifact"
    try:
        with tarfile.open(artifact) as archive:
            extract = load_module(ARCHIVES).extract
            extract(archive, archive.getmembers(), unpacked)
    except tarfile.TarError as error:
        raise OperationError(f"{artifact}: {error}; refused, no image was made") from error
    (content,) = unpacked.iterdir()
    content.rename(folder)
    unpacked.rmdir()
    (folder / "artifact.sha256").write_text(f"{sha256}\n")
    _byte_compile(root, [folder / "lib"])
