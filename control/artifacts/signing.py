"""Signatures of artifacts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..application import NAME
from ..errors import UserError
from ..options import Options
from ..paths import ROOT

# The controller's own key, for publishers who are given none; git ignores it.
OWN_KEY = ROOT / ".lab" / "release-key"


def find_key(options: Options, make: bool = False) -> Path | None:
    """
    The key that releases are signed with: RELEASE_KEY, else this checkout's own. ``make`` makes that one, but
    not in a pipeline, whose checkout and key would be gone with the job.
    """
    if options.release_key:
        return Path(options.release_key)
    if not OWN_KEY.exists():
        if not make or options.ci:
            return None
        OWN_KEY.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=OWN_KEY.parent) as folder:
            made = Path(folder) / "key"
            words = ["-q", "-t", "ed25519", "-N", "", "-C", f"{NAME}-release", "-f", str(made)]
            subprocess.run(["ssh-keygen", *words], stdin=subprocess.DEVNULL, check=True)
            with contextlib.suppress(FileExistsError):
                os.link(made, OWN_KEY)
    return OWN_KEY


@contextlib.contextmanager
def _copy_key(key: Path) -> Iterator[str]:
    """
    A copy for ssh-keygen. Made 0600: GitLab gives a file that all may read, which ssh-keygen refuses, and
    without the newline at its end, which it needs.
    """
    with tempfile.NamedTemporaryFile(prefix="release-key-") as own:
        try:
            own.write(key.read_bytes().rstrip() + b"\n")
        except OSError as error:
            raise UserError(f"RELEASE_KEY={key}: cannot sign: {error}") from error
        own.flush()
        yield own.name


def _run_keygen(key: Path, *words: str) -> str:
    with _copy_key(key) as name:
        done = subprocess.run(
            ["ssh-keygen", "-q", *(name if word == "KEY" else word for word in words)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().replace(name, str(key))
            raise UserError(f"RELEASE_KEY={key}: cannot sign: {reason}")
    return done.stdout


def read_public_key(key: Path) -> str:
    """As pillar counter:release:signers has it."""
    return " ".join(_run_keygen(key, "-y", "-f", "KEY").split()[:2]) + f" {NAME}-release"


def sign_file(path: Path, key: Path, name: str = NAME) -> bytes:
    """A signature by ``ssh-keygen -Y``, as machines verify it (salt/_modules/signature.py)."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.sig")
    _run_keygen(key, "-Y", "sign", "-f", "KEY", "-n", f"{name}-release", str(path))
    # Stays beside the artifact: a machine that asks for signatures gets it with the tree.
    return Path(f"{path}.sig").read_bytes()


def is_signed(
    path: Path, signature: bytes | None, key: Path | None = None, name: str = NAME
) -> bool:
    """Whether ``signature`` is one of this artifact, and by ``key`` where one is given."""
    if signature is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sig").write_bytes(signature)
        words = ["-n", f"{name}-release", "-s", f"{folder}/sig"]
        if key:
            (Path(folder) / "signers").write_text(f"release {read_public_key(key)}\n", "utf-8")
            words = ["verify", "-f", f"{folder}/signers", "-I", "release", *words]
        else:
            words = ["check-novalidate", *words]
        command = ["ssh-keygen", "-Y", *words]
        done = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=False)
    return done.returncode == 0


def sign_built(path: Path, options: Options, name: str = NAME) -> None:
    """
    Sign what was built here, where there is a key: a machine that asks for signatures asks also for that of
    what `make up` and `make apply` bring. One by a key that was given once stays, unless another is given.
    """
    key, beside = find_key(options), Path(f"{path}.sig")
    existing = beside.read_bytes() if beside.exists() else None
    if key and not is_signed(path, existing, None if key == OWN_KEY else key, name):
        sign_file(path, key, name)
