"""Releases are whole or absent, and instances are moved one at a time, forth and back."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.conftest import functions

APPLICATIONS = ("applications.pillar", "applications.option")


@pytest.fixture
def record(
    load_source: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The execution module `record`, whose history and log are in `tmp_path`."""
    module = load_source("salt/_modules/record.py")
    monkeypatch.setattr(module, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(module, "LOGS", str(tmp_path / "log"))
    monkeypatch.setattr(module.syslog, "syslog", lambda *words: None)
    for name in (module.REQUEST, module.PROGRESS):
        monkeypatch.delenv(name, raising=False)
    return module


@pytest.fixture
def ask(record: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`ask("rollback", "1.0")`: what the controller asks the next run for."""

    def asked(action: str, version: str | None = None) -> None:
        request = {"action": action, "version": version, "who": "ann@desk", "why": "a test"}
        monkeypatch.setenv(record.REQUEST, json.dumps(request))

    return asked


def audit(tmp_path: Path) -> list[dict[str, Any]]:
    text = (tmp_path / "log" / "app-deploys.log").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def artifacts(
    load_source: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The execution module `artifact`, in a tree whose dist/ is empty."""
    (tmp_path / "tree" / "dist").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tree")
    # The pillar's: app is one of `apps`.
    applications = load_source("salt/_modules/applications.py", pillar={"apps": {"app": {}}})
    salt = {name: getattr(applications, name.partition(".")[2]) for name in APPLICATIONS}
    return load_source("salt/_modules/artifact.py", salt=salt)


@pytest.fixture
def instance(load_source: Callable[..., ModuleType], artifacts: ModuleType) -> ModuleType:
    return load_source("salt/_modules/instance.py", salt=functions(artifact=artifacts))


@pytest.fixture
def release(
    load_source: Callable[..., ModuleType],
    artifacts: ModuleType,
    instance: ModuleType,
    record: ModuleType,
) -> ModuleType:
    """The execution module."""
    salt = functions(artifact=artifacts, instance=instance, record=record)
    salt |= {name: artifacts.__salt__[name] for name in APPLICATIONS}  # type: ignore[attr-defined]
    for name in ("manifest", "signature"):
        salt |= functions(**{name: load_source(f"salt/_modules/{name}.py", salt=salt)})
    return load_source("salt/_modules/release.py", salt=salt)


@pytest.fixture
def home(tmp_path: Path) -> str:
    """Where releases and instances live."""
    return str(tmp_path / "opt")


def artifact(
    version: str,
    members: dict[str, bytes] | None = None,
    cut: int = 0,
    add: tarfile.TarInfo | None = None,
    top: str | None = None,
    time: int = 0,
) -> Path:
    """dist/app-VERSION.tar.gz and its hash, its files of `time`; `cut` bytes are missing at its end."""
    top = top or f"app-{version}"
    content = {
        f"{top}/release.json": b"{}",
        f"{top}/bin/app": b"#!/bin/sh\n",
        f"{top}/lib/a.py": b"x = 1\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in {**content, **(members or {})}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o777 if "/bin/" in name else 0o644
            info.uid = info.gid = 12345
            info.mtime = time
            archive.addfile(info, io.BytesIO(data))
        if add:
            archive.addfile(add)
    # Made twice, it is the same, whatever second it is.
    data = gzip.compress(buffer.getvalue(), mtime=0)
    path = Path("dist") / f"app-{version}.tar.gz"
    path.write_bytes(data[: len(data) - cut])
    Path(f"{path}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n")
    return path


def unpacked(home: str) -> list[str]:
    """Names in releases/, hidden and half-made ones too."""
    place = Path(home, "releases")
    return sorted(os.listdir(place)) if place.exists() else []


# --- install --------------------------------------------------------------------------------------


def test_a_verified_artifact_is_unpacked_and_a_second_install_does_nothing(
    release: ModuleType, home: str, artifacts: ModuleType
) -> None:
    path = artifact("1.0")
    assert release.install("app", home, "1.0") is True
    top = Path(home, "releases", "1.0")
    assert (top / "lib/a.py").read_bytes() == b"x = 1\n"
    assert (top / "artifact.sha256").read_text().strip() == artifacts.sha256(path)
    before = top.stat().st_mtime_ns
    path.unlink()
    assert release.install("app", home, "1.0") is False
    assert top.stat().st_mtime_ns == before
    assert unpacked(home) == ["1.0"]


def test_unpacked_files_are_not_writable_by_others_and_belong_to_who_unpacked(
    release: ModuleType, home: str
) -> None:
    artifact("1.0")
    release.install("app", home, "1.0")
    program = Path(home, "releases", "1.0", "bin", "app").stat()
    assert program.st_mode & 0o777 == 0o755
    assert program.st_uid == os.geteuid()


@pytest.mark.parametrize("filters", [True, False], ids=["with-filters", "as-on-debian-12"])
@pytest.mark.parametrize("kind", ["dotdot", "absolute", "symlink", "hardlink", "device"])
def test_a_member_that_would_land_outside_is_refused(
    release: ModuleType,
    home: str,
    kind: str,
    filters: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Debian 12's Python 3.11.2 knows no extraction filters: it must be safe without them."""
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    members, add = {}, None
    if kind == "dotdot":
        members = {"app-1.0/../../../../evil": b"x"}
    elif kind == "absolute":
        members = {f"{tmp_path}/evil": b"x"}
    else:
        add = tarfile.TarInfo("app-1.0/evil")
        add.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}.get(
            kind, tarfile.CHRTYPE
        )
        add.linkname = "/etc/passwd"
    artifact("1.0", members, add=add)
    with pytest.raises(CommandExecutionError, match="nothing was changed"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []
    assert list(tmp_path.rglob("evil")) == []


@pytest.fixture
def narrow() -> Iterator[None]:
    """The caller's umask leaves nothing to others."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def unreadable(home: str) -> list[str]:
    """What an account of its own could not read or enter below `home`."""
    found = [Path(home), *Path(home).rglob("*")]
    private = [one for one in found if one.name == "started"]
    return [
        f"{one}: {one.lstat().st_mode & 0o777:o}"
        for one in found
        if one not in private
        and (one.stat().st_mode & 0o777) not in ((0o755,) if one.is_dir() else (0o755, 0o644))
    ]


def test_a_release_installed_under_any_umask_can_be_run_by_its_account(
    release: ModuleType, home: str, narrow: None, instance: ModuleType
) -> None:
    artifact("1.0")
    release.install("app", f"{home}/deep/app", "1.0")
    instance.stage(f"{home}/deep/app", "1.0")
    instance.assign(f"{home}/deep/app", 1, "1.0", {"A": "b"})
    assert list(Path(home).rglob("*.pyc")), "also what is compiled"
    assert unreadable(home) == []


@pytest.mark.parametrize("listed", [True, False], ids=["", "installed-by-an-older-version"])
def test_an_installed_release_that_its_account_cannot_read_is_mended(
    release: ModuleType, home: str, listed: bool
) -> None:
    """Without its artifact: a later apply has another one with it."""
    path = artifact("1.0")
    release.install("app", home, "1.0")
    path.unlink()
    if not listed:
        Path(home, "releases/1.0", "artifact.manifest").unlink()
    for one in Path(home).rglob("*"):
        one.chmod(one.stat().st_mode & 0o750)
    Path(home).chmod(0o750)
    assert release.install("app", home, "1.0") is True
    assert unreadable(home) == []
    assert release.install("app", home, "1.0") is False


def damage(home: str, how: str) -> None:
    top = Path(home, "releases/1.0")
    (pyc,) = top.rglob("*.pyc")
    if how == "changed":
        (top / "lib/a.py").write_text("x = 2\n")
    elif how == "cut off by a power cut":
        os.truncate(top / "lib/a.py", 0)
    elif how == "byte code cut off":
        os.truncate(pyc, 20)
    elif how == "missing":
        (top / "release.json").unlink()
    elif how == "folder missing":
        shutil.rmtree(top / "bin")
    elif how == "added":
        (top / "lib/b.py").write_text("")
    elif how == "not executable":
        (top / "bin/app").chmod(0o644)
    elif how == "a link":
        (top / "lib/a.py").unlink()
        (top / "lib/a.py").symlink_to("/etc/passwd")
    else:
        (top / "artifact.manifest").write_text("{")


DAMAGES = [
    *("changed", "cut off by a power cut", "byte code cut off", "missing", "folder missing"),
    *("added", "not executable", "a link", "its list damaged"),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_an_installed_release_is_compared_with_what_was_installed_and_mended(
    release: ModuleType, state: Any, home: str, how: str
) -> None:
    """A folder that is there is not taken as good: an instance could fail with it for ever."""
    artifact("1.0")
    assert state.module.installed("app", home, "1.0")["result"] is True
    before = {path: path.read_bytes() for path in Path(home).rglob("*.py")}
    damage(home, how)
    state.module.__opts__["test"] = True
    would = state.module.installed("app", home, "1.0")
    assert (would["result"], would["comment"]) == (None, "1.0 would be mended")
    state.module.__opts__["test"] = False
    ret = state.module.installed("app", home, "1.0")
    assert (ret["result"], list(ret["changes"])) == (True, ["app"])
    assert release.damage(home, "1.0") == []
    assert unreadable(home) == []
    assert {path: path.read_bytes() for path in Path(home).rglob("*.py")} == before
    assert state.module.installed("app", home, "1.0")["changes"] == {}
    assert unpacked(home) == ["1.0"]


def test_a_damaged_release_whose_artifact_is_not_at_hand_says_what_to_do(
    release: ModuleType, state: Any, home: str
) -> None:
    path = artifact("1.0")
    release.install("app", home, "1.0")
    damage(home, "changed")
    path.unlink()
    ret = state.module.installed("app", home, "1.0")
    assert ret["result"] is False
    assert "releases/1.0/lib/a.py: changed, not as it was installed" in ret["comment"]
    assert "'make deploy APP=app VERSION=1.0' mends it" in ret["comment"]


def test_byte_code_that_python_added_is_no_damage(release: ModuleType, home: str) -> None:
    artifact("1.0")
    release.install("app", home, "1.0")
    Path(home, "releases/1.0/lib/__pycache__/a.cpython-99.pyc").write_bytes(b"x")
    assert release.install("app", home, "1.0") is False


def byte_code(home: str, version: str, module: str) -> Path:
    (path,) = Path(home, "releases", version, "lib/__pycache__").glob(f"{module}.*.pyc")
    return path


def imported(home: str, version: str) -> str:
    """What modules a and b of a release say, to a Python that may write nothing; each that has no byte code is named."""
    program = (
        f"import sys; sys.path.insert(0, {home!r} + '/releases/{version}/lib'); import a, b\n"
        "import os; print(a.x, b.x, *(m for m in (a, b) if not os.path.exists(m.__cached__)))"
    )
    command = ["/usr/bin/python3", "-I", "-B", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_byte_code_of_what_did_not_change_is_taken_from_the_last_release(
    release: ModuleType, home: str
) -> None:
    """Compiling what an application is built of is most of the CPU time of a deploy."""
    artifact("1.0", {"app-1.0/lib/b.py": b"x = 'b'\n"})
    release.install("app", home, "1.0")
    artifact("1.1", {"app-1.1/lib/b.py": b"x = 'c'\n"}, time=1_700_000_000)
    release.install("app", home, "1.1")
    # In it is the folder in which it was compiled, another for each release.
    old, new = (
        {module: byte_code(home, version, module).read_bytes()[16:] for module in "ab"}
        for version in ("1.0", "1.1")
    )
    assert old["a"] == new["a"]
    assert old["b"] != new["b"]
    assert imported(home, "1.1") == "1 c"
    command = ["/usr/bin/python3", "-I", "-m", "compileall", str(Path(home, "releases/1.1/lib"))]
    assert "Compiling" not in subprocess.run(command, capture_output=True, text=True).stdout
    assert release.damage(home, "1.1") == []


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("changed", ""),
        ("missing", ""),
        *(("list", text) for text in ("{", "[]", "null", '{"lib/b.py": 1}')),
        ("of another signer", "ssh-ed25519 AAAA"),
    ],
)
def test_byte_code_that_is_not_what_was_installed_is_not_taken(
    release: ModuleType, home: str, how: str, text: str
) -> None:
    files = {"b": b"x = 'b'\n", "c": b"x = 'c'\n"}
    artifact("1.0", {f"app-1.0/lib/{name}.py": text for name, text in files.items()})
    release.install("app", home, "1.0")
    code = byte_code(home, "1.0", "b")
    if how == "changed":
        other = byte_code(home, "1.0", "c").read_bytes()
        code.write_bytes(code.read_bytes()[:16] + other[16:])
        assert imported(home, "1.0") == "1 c", "Python itself would not notice"
    elif how == "missing":
        code.unlink()
    elif how == "list":
        Path(home, "releases/1.0/artifact.manifest").write_text(text)
        assert release.damage(home, "1.0") == ["artifact.manifest: damaged"]
    else:
        Path(home, "releases/1.0/artifact.signer").write_text(text)
    artifact("1.1", {f"app-1.1/lib/{name}.py": text for name, text in files.items()})
    release.install("app", home, "1.1")
    assert imported(home, "1.1") == "1 b"
    if how == "of another signer":
        compiled = [byte_code(home, version, "c").read_bytes() for version in ("1.0", "1.1")]
        assert compiled[0] != compiled[1], "in it is the folder in which it was compiled"


def test_byte_code_that_an_artifact_brings_is_run_nowhere(
    release: ModuleType, home: str, tmp_path: Path
) -> None:
    """Its signer has read the sources beside it; releases after it would take it, too."""
    source = tmp_path / "b.py"
    source.write_text("x = 'evil'\n")
    os.utime(source, (0, 0))
    compile_all = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", str(source)]
    subprocess.run(compile_all, check=True)
    (code,) = tmp_path.glob("__pycache__/b.*.pyc")
    false = code.read_bytes()
    for version in ("1.0", "1.1"):
        members = {"lib/b.py": b"x = 'good'\n"}
        if version == "1.0":
            members |= {f"lib/__pycache__/{code.name}": false, "lib/c/__pycache__": b""}
        artifact(version, {f"app-{version}/{path}": data for path, data in members.items()})
        release.install("app", home, version)
        assert imported(home, version) == "1 good"
        assert release.damage(home, version) == []


def test_byte_code_of_another_python_is_left_behind(release: ModuleType, home: str) -> None:
    artifact("1.0")
    release.install("app", home, "1.0")
    top = Path(home, "releases/1.0")
    (top / "lib/__pycache__/a.cpython-99.pyc").write_bytes(byte_code(home, "1.0", "a").read_bytes())
    release.__salt__["manifest.write"](top)
    artifact("1.1")
    release.install("app", home, "1.1")
    byte_code(home, "1.1", "a")


def test_a_wrong_hash_is_refused_and_both_hashes_are_named(
    release: ModuleType, home: str, artifacts: ModuleType
) -> None:
    path = artifact("1.0")
    Path(f"{path}.sha256").write_text("0" * 64)
    with pytest.raises(CommandExecutionError, match=f"{artifacts.sha256(path)}.*{'0' * 64}"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


@pytest.mark.parametrize("text", [None, ""], ids=["absent", "empty"])
def test_an_artifact_without_its_hash_is_refused(
    release: ModuleType, home: str, text: str | None
) -> None:
    beside = Path(f"{artifact('1.0')}.sha256")
    beside.unlink()
    if text is not None:
        beside.write_text(text)
    with pytest.raises(CommandExecutionError, match="sha256 is missing"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


@pytest.mark.parametrize("cut", [150, 10000])
def test_a_truncated_archive_is_refused_and_leaves_nothing(
    release: ModuleType, home: str, cut: int
) -> None:
    """Even when its hash is that of the truncated file."""
    artifact("1.0", {"app-1.0/lib/big": os.urandom(20000)}, cut=cut)
    with pytest.raises(CommandExecutionError, match="nothing was changed"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


def test_an_archive_of_another_release_is_refused(release: ModuleType, home: str) -> None:
    artifact("1.0", top="app-2.0")
    with pytest.raises(CommandExecutionError, match=r"holds no app-1.0/release.json"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


def test_an_artifact_that_was_not_carried_says_what_to_do(release: ModuleType, home: str) -> None:
    with pytest.raises(CommandExecutionError, match="make artifact"):
        release.install("app", home, "1.0")


def test_what_a_killed_install_left_is_cleared(release: ModuleType, home: str) -> None:
    Path(home, "releases", ".unpack-x", "half").mkdir(parents=True)
    artifact("1.0")
    release.install("app", home, "1.0")
    assert unpacked(home) == ["1.0"]


@pytest.mark.parametrize("version", ["../1", "a/b", "", ".hidden", "-x", "a b", "x" * 200])
def test_a_version_that_is_no_file_name_is_refused(
    release: ModuleType, home: str, version: str
) -> None:
    with pytest.raises(CommandExecutionError, match="use letters, digits"):
        release.install("app", home, version)


def test_no_room_is_refused_before_a_byte_is_written(
    release: ModuleType, home: str, monkeypatch: pytest.MonkeyPatch, artifacts: ModuleType
) -> None:
    artifact("1.0", {"app-1.0/lib/big": b"x" * 1_000_000})
    full = SimpleNamespace(f_bavail=4000, f_frsize=4096, f_files=0, f_favail=0)
    monkeypatch.setattr(artifacts.os, "statvfs", lambda path: full)
    artifacts.__utils__["archives.extract"] = lambda *words: pytest.fail("it wrote")  # type: ignore[attr-defined]
    with pytest.raises(CommandExecutionError, match="needs 18 MB in .*, but 16 MB are free"):
        release.install("app", home, "1.0")
    few = SimpleNamespace(f_bavail=10**9, f_frsize=4096, f_files=100, f_favail=5)
    monkeypatch.setattr(artifacts.os, "statvfs", lambda path: few)
    with pytest.raises(CommandExecutionError, match="has 4 files, but .* room for 5 more"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"python": ["3.99"]},
            r"needs Python 3.99; /usr/bin/python3 of this machine is 3\.\d+; re",
        ),
        # Shop's, called as if it were this one's.
        ({"name": "shop"}, "is a release of 'shop', not of app; refused"),
        ({"platform": "linux-pdp11"}, "is for linux-pdp11, this machine is linux-"),
    ],
)
def test_a_release_for_another_machine_is_refused(
    release: ModuleType, home: str, told: dict[str, Any], said: str
) -> None:
    artifact("1.0", {"app-1.0/release.json": json.dumps(told).encode()})
    with pytest.raises(CommandExecutionError, match=said):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


# --- signed, or fetched by the machine itself -----------------------------------------------------


def keypair(folder: Path, name: str) -> tuple[Path, str]:
    key = folder / name
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)]
    subprocess.run(words, check=True)
    return key, Path(f"{key}.pub").read_text().strip()


def signed(path: Path, key: Path, space: str = "app-release") -> None:
    words = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", space, str(path)]
    subprocess.run(words, check=True, capture_output=True)


def test_only_what_a_signer_has_signed_is_unpacked(
    release: ModuleType, home: str, tmp_path: Path
) -> None:
    ours, public = keypair(tmp_path, "ours")
    theirs, _ = keypair(tmp_path, "theirs")
    path = artifact("1.0")
    with pytest.raises(
        CommandExecutionError, match="is not signed, and pillar apps:app:release:signers"
    ):
        release.install("app", home, "1.0", signers=[public])
    for key, space in ((theirs, "app-release"), (ours, "another-use")):
        signed(path, key, space)
        with pytest.raises(
            CommandExecutionError, match="no signer of pillar apps:app:release:signers"
        ):
            release.install("app", home, "1.0", signers=[public])
        Path(f"{path}.sig").unlink()
    assert unpacked(home) == []
    signed(path, ours)
    assert release.install("app", home, "1.0", signers=["ssh-ed25519 AAAA", public]) is True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """URL of a web server of `tmp_path/web`."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass


def test_a_module_that_no_package_brought_says_what_to_lock(
    release: ModuleType, tmp_path: Path
) -> None:
    """The traceback alone says neither which lock nor that it takes another publish."""
    said = {
        "units.last_words": lambda unit, lines: "ModuleNotFoundError: No module named 'humanize.x'"
    }
    release.__salt__.update(said)  # type: ignore[attr-defined]
    top = tmp_path / "releases/1.0"
    top.mkdir(parents=True)
    (top / "app.json").write_text('{"packages": "uv.lock"}')
    hint = release.last_words(str(tmp_path), "1.0", "app@1.service").splitlines()[-1]
    assert hint.startswith("humanize is not in uv.lock: lock its package")
    said["units.last_words"] = lambda unit, lines: "ValueError"
    release.__salt__.update(said)  # type: ignore[attr-defined]
    assert release.last_words(str(tmp_path), "1.0", "app@1.service") == "ValueError"


def test_a_machine_fetches_a_release_by_itself(
    release: ModuleType, home: str, server: str, tmp_path: Path, artifacts: ModuleType
) -> None:
    path = artifact("1.0").rename(tmp_path / "web" / "app-1.0.tar.gz")
    digest, source = artifacts.sha256(path), f"{server}/{{name}}-{{version}}.tar.gz"
    Path("dist/app-1.0.tar.gz.sha256").unlink()
    with pytest.raises(CommandExecutionError, match="apps:app:release:source needs release:sha256"):
        release.install("app", home, "1.0", source)
    with pytest.raises(
        CommandExecutionError, match=f"{digest}, but pillar apps:app:release:sha256 says 0"
    ):
        release.install("app", home, "1.0", source, "0" * 64)
    with pytest.raises(CommandExecutionError, match="app-2.0.tar.gz could not be fetched: .*404"):
        release.install("app", home, "2.0", source, digest)
    assert unpacked(home) == []
    assert release.install("app", home, "1.0", source, digest) is True
    assert unpacked(home) == ["1.0"], "what was fetched is not kept"


def offered(artifacts: ModuleType, server: str, folder: Path) -> tuple[Path, str, str]:
    """Release 1.0 where ``server`` has it, and nowhere else: its file, hash and source."""
    path = artifact("1.0")
    digest, source = artifacts.sha256(path), f"{server}/{{name}}-{{version}}.tar.gz"
    return path.rename(folder / "web" / "app-1.0.tar.gz"), digest, source


def test_a_machine_fetches_the_signature_too(
    release: ModuleType, home: str, server: str, tmp_path: Path, artifacts: ModuleType
) -> None:
    key, public = keypair(tmp_path, "ours")
    path, digest, source = offered(artifacts, server, tmp_path)
    with pytest.raises(CommandExecutionError, match=r"app-1.0.tar.gz.sig could not be fetched"):
        release.install("app", home, "1.0", source, digest, [public])
    signed(path, key)
    assert release.install("app", home, "1.0", source, digest, [public]) is True


def test_another_artifact_under_an_installed_version_is_refused(
    release: ModuleType, home: str, tmp_path: Path, artifacts: ModuleType
) -> None:
    first = artifacts.sha256(artifact("1.0"))
    release.install("app", home, "1.0")
    other = artifacts.sha256(artifact("1.0", {"app-1.0/lib/b.py": b"evil = 1"}))
    with pytest.raises(
        CommandExecutionError, match=f"installed here with sha256 {first}, .*{other}"
    ):
        release.install("app", home, "1.0")
    path = artifact("1.0")
    with pytest.raises(
        CommandExecutionError, match=f"app:release:sha256 says {'0' * 64}: a version"
    ):
        release.install("app", home, "1.0", stated="0" * 64)
    ours, public = keypair(tmp_path, "ours")
    theirs, _ = keypair(tmp_path, "theirs")
    with pytest.raises(CommandExecutionError, match="is not signed, and pillar"):
        release.install("app", home, "1.0", signers=[public])
    signed(path, theirs)
    with pytest.raises(CommandExecutionError, match="no signer of pillar"):
        release.install("app", home, "1.0", signers=[public])
    Path(f"{path}.sig").unlink()
    signed(path, ours)
    assert release.install("app", home, "1.0", signers=[public]) is False


def test_what_was_installed_unsigned_is_refused_once_signers_are_set(
    release: ModuleType, state: Any, home: str, tmp_path: Path
) -> None:
    """A rollback and a plain apply bring no artifact: whose it is was seen when it was installed."""
    ours, public = keypair(tmp_path, "ours")
    _, other = keypair(tmp_path, "other")
    # It may say what it likes of itself.
    path = artifact("1.0", {"app-1.0/artifact.signer": public.encode()})
    release.install("app", home, "1.0")
    away = tmp_path / "away"

    def installed(test: bool, signers: list[str]) -> Any:
        state.module.__opts__["test"] = test
        return state.module.installed("app", home, "1.0", signers=signers)

    def carried(there: bool) -> None:
        for name in (path.name, f"{path.name}.sha256", f"{path.name}.sig"):
            source, target = (
                (away / name, Path("dist", name)) if there else (Path("dist", name), away / name)
            )
            if source.exists():
                source.rename(target)

    away.mkdir()
    carried(False)
    for test in (False, True):
        ret = installed(test, [public])
        assert ret["result"] is False
        assert "installed without a signature" in ret["comment"]
        assert "make deploy APP=app VERSION=1.0" in ret["comment"]
    assert release.install("app", home, "1.0") is False, "while nobody asks for one"
    carried(True)
    for test in (False, True):
        assert "is not signed" in installed(test, [public])["comment"]
    # The way forward: signed, and deployed again; then also without the artifact.
    signed(path, ours)
    assert installed(True, [public])["result"] is True
    assert release.install("app", home, "1.0", signers=[other, f"{public} moved"]) is False
    carried(False)
    for signers in ([public], [other, public.rpartition(" ")[0]], []):
        assert release.install("app", home, "1.0", signers=signers) is False
        assert release.damage(home, "1.0") == []
        assert installed(True, signers)["result"] is True
    # A signer that is one no more.
    with pytest.raises(CommandExecutionError, match="without a signature of pillar"):
        release.install("app", home, "1.0", signers=[other])


def test_a_release_that_was_installed_signed_needs_no_artifact(
    release: ModuleType, home: str, tmp_path: Path
) -> None:
    key, public = keypair(tmp_path, "ours")
    path = artifact("1.0")
    signed(path, key)
    release.install("app", home, "1.0", signers=[public])
    for one in Path("dist").iterdir():
        one.unlink()
    assert release.install("app", home, "1.0", signers=[public]) is False
    assert release.refusal("app", home, "1.0", signers=[public]) is None
    refusal = release.refusal("app", home, "2.0", signers=[public])
    assert "without a signature of pillar apps:app:release:signers" in refusal
    assert "'make publish APP=FOLDER'" in refusal and "'make deploy APP=app VERSION=2.0'" in refusal
    assert "'make deploy VERSION=2.0'" in release.refusal("counter", home, "2.0", signers=[public])


def test_a_machine_that_fetches_by_itself_proves_what_it_has(
    release: ModuleType, home: str, server: str, tmp_path: Path, artifacts: ModuleType
) -> None:
    key, public = keypair(tmp_path, "ours")
    path, digest, source = offered(artifacts, server, tmp_path)
    release.install("app", home, "1.0", source, digest)
    with pytest.raises(CommandExecutionError, match=r"app-1.0.tar.gz.sig could not be fetched"):
        release.install("app", home, "1.0", source, digest, [public])
    signed(path, key)
    release.install("app", home, "1.0", source, digest, [public])
    assert release.install("app", home, "1.0", source, digest, [public]) is False


def test_a_disk_that_fills_up_while_unpacking_leaves_no_half_release(
    release: ModuleType, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact("1.0")

    def full(archive: tarfile.TarFile, folder: str, members: Any = None, **more: Any) -> None:
        archive.extract(members[0], folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(CommandExecutionError, match="nothing was changed: .*No space left"):
        release.install("app", home, "1.0")
    assert unpacked(home) == []


# --- which release, and which go ------------------------------------------------------------------


def test_prune_keeps_the_newest_and_those_in_use(
    release: ModuleType, home: str, instance: ModuleType
) -> None:
    for age, version in enumerate(["1", "2", "3", "4", "5", "6"]):
        folder = Path(home, "releases", version)
        folder.mkdir(parents=True)
        os.utime(folder, (1000 + age, 1000 + age))
    instance.assign(home, 1, "1", {})
    assert release.prune(home, keep=2, protect=["3"]) == ["2", "4"]
    assert unpacked(home) == ["1", "3", "5", "6"]
    assert release.prune(home, keep=2, protect=["3"]) == []
    assert release.prune(home, keep=1, protect=["3"], proven=["5"]) == ["6"], "it never was good"


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_roll_there_is_nothing_left_to_remove(
    state: Any, home: str, fails: bool, record: ModuleType
) -> None:
    """A further apply changes nothing, also after a deploy that failed."""
    for age, version in enumerate(["v1", "v2", "v3", "v4", "v5"]):
        folder = Path(home, "releases", version)
        folder.mkdir(parents=True)
        os.utime(folder, (1000 + age, 1000 + age))
        if version != "v5":
            assert state.rolled(version, keep=1)["result"] is True
    if fails:
        state.mortal["v5"] = 2
    assert state.rolled("v5", keep=1, bake_seconds=6)["result"] is not fails
    kept = record.current("app")
    assert state.rolled(kept, keep=1)["changes"] == {}
    assert record.previous("app") in unpacked(home)


def test_the_release_is_the_one_asked_for_then_deployed_then_carried_then_in_use(
    release: ModuleType,
    record: ModuleType,
    ask: Callable[..., None],
    home: str,
    instance: ModuleType,
) -> None:
    def choose(version: str | None = None) -> str:
        return str(release.choose("app", home, version, *brought))

    brought: list[str] = []
    with pytest.raises(CommandExecutionError, match="app: which release.*make artifact"):
        choose()
    instance.assign(home, 1, "in-use", {})
    assert choose() == "in-use"
    Path("dist/app-only.tar.gz").write_bytes(b"")
    Path("dist/application-other.tar.gz").write_bytes(b"")
    assert choose() == "only"
    brought.append("carried")
    assert choose() == "carried"
    assert choose("asked") == "asked"
    with pytest.raises(CommandExecutionError, match="use letters"):
        choose("../asked")
    record.remember("app", "deployed")
    assert choose() == "deployed", "a plain apply keeps what was deployed"
    assert choose("asked") == "asked", "a pin is stronger"
    ask("deploy", "newer")
    assert choose() == "newer"
    with pytest.raises(CommandExecutionError, match="app:version pins asked: the next apply would"):
        choose("asked")
    ask("deploy", "../newer")
    with pytest.raises(CommandExecutionError, match="use letters"):
        choose()


def test_two_artifacts_and_none_in_use_is_a_question_not_a_guess(
    release: ModuleType, home: str
) -> None:
    for name in "ab":
        Path(f"dist/app-{name}.tar.gz").write_bytes(b"")
    with pytest.raises(CommandExecutionError, match="holds 2 artifacts"):
        release.choose("app", home)


# --- one instance ---------------------------------------------------------------------------------


def test_environment_values_reach_systemd_unharmed(home: str, instance: ModuleType) -> None:
    """As systemd.exec(5) reads EnvironmentFile=: in quotes, backslash and quote are special."""
    instance.assign(home, 1, "v", {"B": 'a "b" \\ c', "A": "two words", "C": "50%d"})
    assert Path(home, "instances/1/env").read_text() == (
        'A="two words"\nB="a \\"b\\" \\\\ c"\nC="50%d"\n'
    )


def test_an_environment_value_with_a_newline_is_refused_and_nothing_moves(
    home: str, instance: ModuleType
) -> None:
    instance.assign(home, 1, "v1", {"A": "1"})
    with pytest.raises(CommandExecutionError, match="spans lines"):
        instance.assign(home, 1, "v2", {"A": "1\nLD_PRELOAD=evil"})
    assert instance.running(home) == {"1": "v1"}
    assert Path(home, "instances/1/env").read_text() == 'A="1"\n'


def test_going_back_restores_release_and_environment(home: str, instance: ModuleType) -> None:
    instance.assign(home, 1, "v1", {"A": "1"})
    before = instance.assign(home, 1, "v2", {"A": "2"})
    instance.mark_started(home, 1, "x")
    instance.restore(home, 1, before)
    assert instance.running(home) == {"1": "v1"}
    assert Path(home, "instances/1/env").read_text() == 'A="1"\n'
    assert instance.started_with(home, 1) is None, "it was not started with these yet"


def test_the_fingerprint_tells_every_input_apart(
    home: str, tmp_path: Path, instance: ModuleType
) -> None:
    used = tmp_path / "unit"
    used.write_text("one")
    prints = {
        instance.fingerprint(home, "1", {"A": "1"}, [str(used)]),
        instance.fingerprint(home, "2", {"A": "1"}, [str(used)]),
        instance.fingerprint(home, "1", {"A": "2"}, [str(used)]),
        instance.fingerprint(home, "1", {"A": "1"}, []),
    }
    same = instance.fingerprint(home, "1", {"A": "1"}, [str(used)])
    assert same in prints
    used.write_text("two")
    prints.add(instance.fingerprint(home, "1", {"A": "1"}, [str(used)]))
    assert len(prints) == 5


def test_waiting_ends_at_once_when_the_unit_has_failed(instance: ModuleType) -> None:
    instance.__salt__["units.systemctl"] = lambda *words: (0, "failed")
    said = instance.wait_ready("127.0.0.1", 1, "/readyz", 60, "app@1.service")
    assert said.startswith("app@1.service has failed")


# --- the state release.installed ------------------------------------------------------------------


@pytest.fixture
def state(
    release: ModuleType,
    instance: ModuleType,
    record: ModuleType,
    load_source: Callable[..., ModuleType],
    systemd: Any,
    home: str,
) -> Any:
    """
    `rolled(version, instances=…)` and what it did; `broken` releases never get ready, those in
    `mortal` die in the bake time of the instance of that number, hooks in `failing` fail.
    """
    broken: set[str] = set()
    mortal: dict[str, int] = {}
    watched: list[list[str]] = []
    hooked: list[str] = []
    failing: set[str] = set()
    waits: list[int] = []
    in_rotation: list[str | float] = []
    unseen: set[str] = set()

    unready: set[int] = set()
    # {version: how often its path of choice is yet answered}, and what was asked.
    hollow: dict[str, int] = {}
    asked: list[str] = []
    replaced: dict[str, str] = {}

    def wait_ready(address: str, port: int, path: str, seconds: float, unit: str) -> str | None:
        if port in unready:
            return "not ready"
        # Not those that only ask, and do not wait.
        if not seconds:
            return None
        waits.append(port)
        number = unit.removeprefix("app@").removesuffix(".service")
        return "not ready" if instance.running(home)[number] in broken else None

    def wait_until_in_rotation(command: str | None, seconds: float, timeout: float) -> str | None:
        if timeout:
            in_rotation.append(command or seconds)
        return "the load balancer does not see it" if command in unseen else None

    def ask_path(address: str, port: int, path: str, seconds: float) -> str | None:
        asked.append(f"{port}{path}")
        on = instance.running(home)[str(port - 8000)]
        if on in hollow and len(asked) > hollow[on]:
            return f"GET {path} answers 500, not 2xx"
        return None

    def taken(path: str) -> bool:
        """What an earlier state of the run replaced, as `file_set.take_back` puts it back."""
        if path not in replaced:
            return False
        Path(path).write_text(replaced.pop(path))
        return True

    def bake(invocations: dict[str, Any], seconds: float) -> tuple[str, str] | None:
        watched.append([unit.removesuffix(".service") for unit in invocations])
        for unit in invocations:
            number = unit.removeprefix("app@").removesuffix(".service")
            if mortal.get(instance.running(home)[number]) == int(number):
                return unit, "died 5.0 s into its bake time"
        return None

    def hook(hook: dict[str, Any], told: dict[str, str]) -> str | None:
        hooked.append(f"{told['WHEN']}: {hook['command']} {told['FROM']}->{told['VERSION']}")
        return "the hook says no" if hook["command"] in failing else None

    release.__salt__["units.last_words"] = lambda unit, lines: f"last words of {unit}"  # type: ignore[attr-defined]
    salt = functions(release=release, instance=instance, record=record) | {
        "instance.invocation": lambda unit: unit,
        "instance.bake": bake,
        "instance.wait_ready": wait_ready,
        "instance.wait_until_in_rotation": wait_until_in_rotation,
        "instance.smoke_test": ask_path,
        "hooks.run": hook,
        "file_set.take_back": lambda paths: [path for path in paths if taken(path)],
        "units.systemctl": systemd,
    }
    salt |= functions(commands=load_source("salt/_modules/commands.py", salt=salt))
    salt |= functions(moves=load_source("salt/_modules/moves.py", salt=salt))
    salt |= functions(roll=load_source("salt/_modules/roll.py", salt=salt))
    module = load_source("salt/_states/release.py", salt=salt)

    def rolled(version: str, instances: int = 3, **more: Any) -> dict[str, Any]:
        options = {"environment": {"LISTEN": "{address}:{port}", "N": "{instance}"}, **more}
        answer = module.rolled("app", home, version, instances, "127.0.0.1", 8001, **options)
        assert isinstance(answer, dict)
        return answer

    return SimpleNamespace(
        module=module,
        rolled=rolled,
        broken=broken,
        mortal=mortal,
        watched=watched,
        hooked=hooked,
        failing=failing,
        waits=waits,
        in_rotation=in_rotation,
        unseen=unseen,
        unready=unready,
        hollow=hollow,
        asked=asked,
        replaced=replaced,
    )


class Killed(BaseException):
    """Nothing of the roll's own runs after it, as after kill -9."""


def units(*numbers: int) -> list[str]:
    return [f"app@{number}.service" for number in numbers]


def test_installed_is_quiet_the_second_time(state: Any, home: str) -> None:
    artifact("1.0")
    assert state.module.installed("app", home, "1.0")["changes"] == {"app": "1.0 installed"}
    assert state.module.installed("app", home, "1.0")["changes"] == {}
    artifact("2.0", cut=40)
    ret = state.module.installed("app", home, "2.0")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert unpacked(home) == ["1.0"]


def test_installed_in_test_mode_unpacks_nothing(state: Any, home: str) -> None:
    artifact("1.0")
    state.module.__opts__["test"] = True
    ret = state.module.installed("app", home, "1.0")
    assert (ret["result"], ret["changes"]) == (None, {"app": "1.0"})
    assert unpacked(home) == []


# --- the state release.rolled ---------------------------------------------------------------------


def test_instances_are_rolled_one_at_a_time_each_waited_for(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    order: list[str] = []
    systemd.on = lambda command: order.append(f"{command} after {len(state.waits)} ready")
    ret = state.rolled("v1")
    assert ret["result"] is True
    assert sorted(ret["changes"]) == units(1, 2, 3)
    assert [one for one in order if one.startswith("restart")] == [
        f"restart {unit} after {index} ready" for index, unit in enumerate(units(1, 2, 3))
    ]
    assert state.waits == [8001, 8002, 8003]
    assert instance.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    assert systemd.enabled == set(units(1, 2, 3))
    assert Path(home, "instances/2/env").read_text() == 'LISTEN="127.0.0.1:8002"\nN="2"\n'


def test_the_next_instance_waits_until_the_load_balancer_has_this_one_back(
    state: Any, systemd: Any
) -> None:
    assert state.rolled("v1", 2, in_rotation="ask {instance}")["result"] is True
    assert state.in_rotation == ["ask 1", "ask 2"]
    state.unseen.add("ask 1")
    ret = state.rolled("v2", 2, in_rotation="ask {instance}")
    assert ret["result"] is False
    assert (
        "app@1.service on v2: it is ready, but the load balancer does not see it" in ret["comment"]
    )
    assert systemd.did("restart")[-1] == "restart app@1.service"


@pytest.mark.parametrize("why", ["stopped", "not ready", "not in use"])
def test_an_instance_that_does_not_serve_is_rolled_first(
    state: Any, systemd: Any, why: str
) -> None:
    """A kill may have left it so: were the other one drained first, nobody would serve."""
    assert state.rolled("v1", 2, in_rotation="ask {instance}")["result"] is True
    systemd.commands.clear()
    if why == "stopped":
        systemd.active.discard("app@2.service")
    elif why == "not ready":
        state.unready.add(8002)
    else:
        state.unseen.add("ask 2")

    def mend(command: str) -> None:
        if command == "restart app@2.service":
            state.unready.clear()
            state.unseen.clear()

    systemd.on = mend
    assert state.rolled("v2", 2, in_rotation="ask {instance}")["result"] is True
    assert systemd.did("restart") == [f"restart {unit}" for unit in units(2, 1)]


def test_a_second_roll_changes_nothing(state: Any, systemd: Any) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    ret = state.rolled("v1")
    assert (ret["result"], ret["changes"]) == (True, {})
    assert systemd.commands == []


def test_a_failing_instance_goes_back_and_later_ones_are_not_touched(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    state.broken.add("v2")
    ret = state.rolled("v2")
    assert ret["result"] is False
    assert "app@1.service on v2: not ready; it is back on v1; later" in ret["comment"]
    assert "last words of app@1.service" in ret["comment"]
    assert instance.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    assert systemd.did("restart") == ["restart app@1.service"] * 2
    state.broken.clear()
    assert sorted(state.rolled("v2")["changes"]) == units(1, 2, 3)


def test_the_first_release_that_fails_says_that_there_is_no_way_back(
    state: Any, systemd: Any
) -> None:
    systemd.fail["restart app@1.service"] = 1
    ret = state.rolled("v1")
    assert ret["result"] is False
    assert "Job for app@1.service failed.; it is the first release" in ret["comment"]
    assert systemd.did("restart") == ["restart app@1.service"]


def test_an_interrupted_roll_is_finished_by_the_next(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    state.rolled("v1")

    def die(command: str) -> None:
        if command == "restart app@2.service":
            raise Killed

    systemd.on = die
    with pytest.raises(Killed):
        state.rolled("v2")
    assert instance.running(home) == {"1": "v2", "2": "v2", "3": "v1"}
    systemd.on = lambda command: None
    systemd.commands.clear()
    ret = state.rolled("v2")
    assert ret["result"] is True
    assert systemd.did("restart") == [f"restart {unit}" for unit in units(1, 2, 3)], (
        "none had proven itself"
    )


def test_an_interrupted_roll_that_then_fails_goes_back_to_what_was_good_before_it(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    """No instance may stay on a release that another one then died of."""
    state.rolled("v1")

    def die(command: str) -> None:
        if command == "restart app@2.service":
            raise Killed

    systemd.on = die
    with pytest.raises(Killed):
        state.rolled("v2", bake_seconds=6)
    systemd.on = lambda command: None
    state.mortal["v2"] = 3
    assert state.rolled("v2", bake_seconds=6)["result"] is False
    assert instance.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    assert state.rolled("v1")["changes"] == {}, "what went back needs no further roll"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), subprocess.TimeoutExpired("ask", 30)]
)
@pytest.mark.parametrize("where", ["assign", "wait_until_in_rotation"])
def test_an_error_in_the_middle_of_a_roll_takes_all_back(
    state: Any, home: str, tmp_path: Path, where: str, error: Exception, instance: ModuleType
) -> None:
    state.rolled("v1")
    calls: list[Any] = []
    real = state.module.__salt__[f"instance.{where}"]

    def fails(*words: Any) -> Any:
        # Before the roll it is asked who serves, with no time to wait.
        if where == "wait_until_in_rotation" and not words[2]:
            return real(*words)
        calls.append(words)
        if len(calls) == 2:
            raise error
        return real(*words)

    state.module.__salt__[f"instance.{where}"] = fails
    ret = state.rolled("v2", bake_seconds=6)
    assert ret["result"] is False
    assert f"app@2.service on v2: {error}; it is back on v1, with it app@1" in ret["comment"]
    assert instance.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    assert [one["outcome"] for one in audit(tmp_path)][-2:] == ["started", "failed"]
    assert state.rolled("v1")["changes"] == {}, "what went back needs no further roll"


def test_a_full_disk_does_not_bar_the_way_back(
    state: Any, home: str, monkeypatch: pytest.MonkeyPatch, instance: ModuleType
) -> None:
    """Nothing can be written from the middle of the roll on, also not what the old one was."""
    state.rolled("v1", 2)
    state.mortal["v2"] = 2

    def full(*words: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    started: list[str] = []
    real = state.module.__salt__["units.systemctl"]

    def systemctl(*words: str) -> Any:
        if words[0] == "restart":
            started.append(instance.running(home)[words[1][4]])
            instance.__utils__["atomic_file.write"] = full
        return real(*words)

    state.module.__salt__["units.systemctl"] = systemctl
    ret = state.rolled("v2", 2, bake_seconds=6)
    assert ret["result"] is False
    assert "it is back on v1, with it app@1.service" in ret["comment"]
    assert started == ["v2", "v2", "v1", "v1"]


def test_what_is_told_to_stop_goes_back_and_says_so(
    state: Any, systemd: Any, home: str, tmp_path: Path, instance: ModuleType
) -> None:
    """Ctrl-C of who watches; a second one leaves it to the next run."""
    state.rolled("v1")
    stops = [KeyboardInterrupt]

    def stop(command: str) -> None:
        if command == "restart app@2.service" and stops:
            raise stops.pop()

    systemd.on = stop
    with pytest.raises(KeyboardInterrupt):
        state.rolled("v2")
    assert instance.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    last = audit(tmp_path)[-1]
    assert last["outcome"] == "failed"
    assert "v2: stopped (KeyboardInterrupt); back on v1: app@1" in last["reason"]


def test_where_one_cannot_go_back_those_that_serve_are_left_alone(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    state.mortal["v2"] = 3
    state.broken.add("v1")
    ret = state.rolled("v2", bake_seconds=6)
    assert ret["result"] is False
    assert (
        "but app@3.service: not ready; but app@1.service is left on v2, for it is ready"
        in (ret["comment"])
    )
    assert systemd.did("restart") == [f"restart {unit}" for unit in units(1, 2, 3, 3)]
    assert instance.running(home) == {"1": "v2", "2": "v2", "3": "v1"}
    state.broken.clear()
    assert len(state.rolled("v1")["changes"]) == 3, "the next apply goes on with it"


# --- bake time, hooks, the record -----------------------------------------------------------------


def test_the_first_instance_proves_itself_before_the_second_is_touched(
    state: Any, systemd: Any
) -> None:
    state.rolled("v1", bake_seconds=6)
    assert state.watched == [], "a first release has nothing to go back to"
    restarts: list[int] = []
    systemd.on = lambda command: (
        restarts.append(len(state.watched)) if command.startswith("restart") else None
    )
    assert state.rolled("v2", bake_seconds=6)["result"] is True
    assert state.watched == [["app@1"], ["app@1", "app@2", "app@3"]]
    assert restarts == [0, 1, 1], "how many bake times were over at each restart"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_death_in_bake_time_takes_all_back(
    state: Any, systemd: Any, home: str, number: int, instance: ModuleType
) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    state.mortal["v2"] = number
    ret = state.rolled("v2", bake_seconds=6)
    assert ret["result"] is False
    assert ret["changes"] == {}
    assert (
        f"app@{number}.service on v2: died 5.0 s into its bake time; it is back" in ret["comment"]
    )
    assert f"last words of app@{number}.service" in ret["comment"]
    assert ("later instances" in ret["comment"]) == (number == 1)
    assert instance.running(home) == {"1": "v1", "2": "v1", "3": "v1"}
    touched = [1] if number == 1 else [1, 2, 3]
    back = [number, *(one for one in touched if one != number)]
    assert systemd.did("restart") == [f"restart {unit}" for unit in units(*touched, *back)]
    assert state.rolled("v1")["changes"] == {}, "what went back needs no further roll"


def test_what_went_back_onto_a_changed_unit_is_rolled_by_the_next_apply(
    state: Any, systemd: Any, tmp_path: Path
) -> None:
    used = tmp_path / "unit"
    used.write_text("old")
    state.rolled("v1", 2, watch_files=[str(used)])
    used.write_text("new")
    state.mortal["v2"] = 1
    state.rolled("v2", 2, watch_files=[str(used)], bake_seconds=6)
    systemd.commands.clear()
    used.write_text("old")
    assert sorted(state.rolled("v1", 2, watch_files=[str(used)])["changes"]) == units(1)


@pytest.mark.parametrize("what", ["unit", "credential"])
@pytest.mark.parametrize("when", ["start", "hook"])
def test_what_this_run_gave_the_instances_goes_back_with_them(
    state: Any, systemd: Any, tmp_path: Path, what: str, when: str
) -> None:
    """A release that goes back onto the unit or the password that broke it is down for good."""
    path = tmp_path / what
    path.write_text("good")
    assert state.rolled("v1", watch_files=[str(path)])["result"] is True
    path.write_text("bad")
    state.replaced[str(path)] = "good"
    seen: list[str] = []
    systemd.on = lambda command: seen.append(f"{command} on {path.read_text()}")
    if when == "start":
        systemd.fail["restart app@1.service"] = 1
        ret = state.rolled("v1", watch_files=[str(path)])
    else:
        state.failing.add("backup")
        hooks = {"before": [{"command": "backup"}], "after": []}
        ret = state.rolled("v2", watch_files=[str(path)], hooks=hooks)
    assert ret["result"] is False
    assert path.read_text() == "good"
    assert "daemon-reload on good" in seen
    systemd.commands.clear()
    assert state.rolled("v1", watch_files=[str(path)])["changes"] == {}
    assert systemd.did("restart") == []


# --- a path of the application's own choice -------------------------------------------------------


@pytest.mark.parametrize("answers", [0, 1], ids=["from-the-start", "in-its-bake-time"])
def test_a_release_that_is_ready_but_answers_500_is_taken_back(
    state: Any, home: str, answers: int, instance: ModuleType
) -> None:
    assert state.rolled("v1", 2)["result"] is True
    state.hollow["v2"] = answers
    ret = state.rolled("v2", 2, smoke="/version", bake_seconds=6)
    assert ret["result"] is False
    assert "GET /version answers 500, not 2xx; it is back on v1" in ret["comment"]
    assert instance.running(home) == {"1": "v1", "2": "v1"}
    assert state.asked == ["8001/version"] * (answers + 1), "the second was never touched"


def test_the_path_of_choice_is_asked_of_each_instance_also_at_the_end_of_its_bake_time(
    state: Any,
) -> None:
    state.rolled("v1", 2)
    assert state.rolled("v2", 2, smoke="/version", bake_seconds=6)["result"] is True
    first, second = "8001/version", "8002/version"
    assert state.asked == [first, first, second, first, second]


def test_a_rollback_asks_no_path_of_choice(state: Any, ask: Callable[..., None]) -> None:
    """It goes to what has proven itself, which may not know that path: nobody is kept on the bad one."""
    state.rolled("v1")
    state.rolled("v2")
    ask("rollback")
    assert state.rolled("v1", smoke="/version")["result"] is True
    assert state.asked == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/fine", None),
        ("/folder", "GET /folder answers 301, not 2xx"),
        ("/none", "GET /none answers 404, not 2xx"),
    ],
)
def test_a_path_of_choice_must_answer_2xx(
    server: str, tmp_path: Path, path: str, said: str | None, instance: ModuleType
) -> None:
    (tmp_path / "web/fine").write_text("x")
    (tmp_path / "web/folder").mkdir()
    port = int(server.rpartition(":")[2])
    assert instance.smoke_test("127.0.0.1", port, path, 5) == said
    assert "refused" in str(instance.smoke_test("127.0.0.1", 1, path, 5))


def test_an_instance_that_is_new_beside_ones_that_go_back_is_removed(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    state.rolled("v1", 2)
    state.mortal["v2"] = 2
    assert state.rolled("v2", 3, bake_seconds=6)["result"] is False
    assert instance.running(home) == {"1": "v1", "2": "v1"}
    assert "app@3.service" not in systemd.active


def test_a_rollback_has_no_bake_time(state: Any, ask: Callable[..., None]) -> None:
    state.rolled("v1")
    state.rolled("v2", bake_seconds=6)
    state.watched.clear()
    ask("rollback", "v1")
    assert state.rolled("v1", bake_seconds=6)["result"] is True
    assert state.watched == []


HOOKS = {"before": [{"command": "ask"}], "after": [{"command": "smoke"}, {"command": "tell"}]}


def test_hooks_run_around_a_change_of_the_release_alone(state: Any) -> None:
    state.rolled("v1")
    state.rolled("v1", environment={"A": "2"}, hooks=HOOKS)
    assert state.hooked == []
    state.rolled("v2", environment={"A": "2"}, hooks=HOOKS)
    assert state.hooked == ["before: ask v1->v2", "after: smoke v1->v2", "after: tell v1->v2"]


def test_a_hook_that_fails_before_moves_nothing(state: Any, systemd: Any, home: str) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    state.failing.add("ask")
    ret = state.rolled("v2", hooks=HOOKS)
    assert ret["result"] is False
    assert ret["comment"] == "the hook says no; nothing was changed"
    assert systemd.commands == []


def test_a_hook_that_fails_after_takes_the_release_back(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    state.rolled("v1")
    state.failing.add("smoke")
    ret = state.rolled("v2", hooks=HOOKS)
    assert ret["result"] is False
    assert "v2: the hook says no; back on v1: app@1.service, app@2.service" in ret["comment"]
    assert "after: tell v1->v2" not in state.hooked
    assert instance.running(home) == {"1": "v1", "2": "v1", "3": "v1"}


@pytest.mark.parametrize("hook", ["ask", "smoke"])
def test_a_hook_that_fails_does_not_stop_a_rollback(
    state: Any, ask: Callable[..., None], home: str, hook: str, tmp_path: Path, instance: ModuleType
) -> None:
    state.rolled("v1")
    state.rolled("v2")
    state.failing.add(hook)
    ask("rollback", "v1")
    ret = state.rolled("v1", hooks=HOOKS)
    assert ret["result"] is True
    assert ret["comment"].endswith("the hook says no")
    assert set(instance.running(home).values()) == {"v1"}
    last = audit(tmp_path)[-1]
    assert (last["outcome"], last["reason"]) == ("succeeded", "the hook says no")


def test_every_attempt_is_in_the_audit_log(
    state: Any, ask: Callable[..., None], tmp_path: Path
) -> None:
    artifact("v1")
    state.module.installed("app", str(tmp_path / "opt"), "v1")
    state.rolled("v1")
    ask("deploy", "v2")
    state.mortal["v2"] = 1
    state.rolled("v2", bake_seconds=6)
    state.module.installed("app", str(tmp_path / "opt"), "v3")
    ask("deploy", "v1")
    state.rolled("v1")
    told = [(one["action"], one["outcome"], one["from"], one["to"]) for one in audit(tmp_path)]
    assert told == [
        ("apply", "started", None, "v1"),
        ("apply", "succeeded", None, "v1"),
        ("deploy", "started", "v1", "v2"),
        ("deploy", "failed", "v1", "v2"),
        ("deploy", "refused", "v1", "v3"),
        ("deploy", "unchanged", "v1", "v1"),
    ]
    last = audit(tmp_path)
    assert (last[3]["who"], last[3]["why"]) == ("ann@desk", "a test")
    assert "died 5.0 s into its bake time" in last[3]["reason"]
    assert last[1]["sha256"] == hashlib.sha256(Path("dist/app-v1.tar.gz").read_bytes()).hexdigest()
    assert (tmp_path / "log" / "app-deploys.log").stat().st_mode & 0o777 == 0o640


def test_what_the_controller_refuses_is_a_line_too(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"action": "deploy", "version": "1.0", "who": "ann", "reason": 'not: stored # "x"'}
    monkeypatch.setenv(record.REQUEST, json.dumps(request))
    record.refused("app")
    (line,) = audit(tmp_path)
    assert (line["outcome"], line["to"], line["who"]) == ("refused", "1.0", "ann")
    assert line["reason"] == request["reason"]


def test_history_goes_forth_with_deploys_and_back_with_rollbacks(
    record: ModuleType, release: ModuleType, home: str, ask: Callable[..., None]
) -> None:
    def known() -> list[str]:
        return [entry["version"] for entry in record.history("app")]

    assert (record.current("app"), record.previous("app")) == (None, None)
    for version in ("a", "b", "b", "a", "c"):
        ask("deploy", version)
        record.remember("app", version)
    assert known() == ["a", "b", "a", "c"]
    for wanted in ("a", "b", "a"):
        assert record.previous("app") == wanted
        ask("rollback")
        assert release.choose("app", home) == wanted
        record.remember("app", wanted)
        assert record.current("app") == wanted
    with pytest.raises(
        CommandExecutionError, match="nothing further to go back to: a is the first"
    ):
        release.choose("app", home)
    ask("rollback", "never-here")
    record.remember("app", "never-here")
    assert known() == ["a", "never-here"]


def test_a_damaged_history_is_named_not_overwritten(record: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "app.json").write_text("{")
    with pytest.raises(CommandExecutionError, match=r"app.json is damaged .*app-deploys.log"):
        record.current("app")


def test_a_machine_from_before_there_was_a_history_can_go_back(
    state: Any, record: ModuleType, tmp_path: Path
) -> None:
    state.rolled("v1")
    (tmp_path / "state" / "app.json").unlink()
    state.rolled("v2")
    assert record.previous("app") == "v1"


def test_instances_that_are_too_many_are_drained_and_removed(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    state.rolled("v1", 3)
    ret = state.rolled("v1", 1)
    assert ret["changes"] == dict.fromkeys(units(2, 3), "drained and removed")
    assert systemd.did("disable") == [f"disable --now {unit}" for unit in units(2, 3)]
    assert instance.running(home) == {"1": "v1"}
    assert state.rolled("v1", 1)["changes"] == {}


def test_an_instance_that_cannot_be_stopped_is_not_forgotten(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    """Its folder is what tells the next apply that it is there."""
    state.rolled("v1", 2)
    systemd.fail["disable --now app@2.service"] = 1
    ret = state.rolled("v1", 1)
    assert ret["result"] is False
    assert "app@2.service" in ret["comment"]
    assert instance.running(home) == {"1": "v1", "2": "v1"}


def test_a_changed_credential_or_unit_rolls(state: Any, systemd: Any, tmp_path: Path) -> None:
    used = tmp_path / "credential"
    used.write_text("one")
    state.rolled("v1", watch_files=[str(used)])
    systemd.commands.clear()
    used.write_text("two")
    state.rolled("v1", watch_files=[str(used)])
    assert systemd.did("restart") == [f"restart {unit}" for unit in units(1, 2, 3)]


def test_an_instance_that_is_down_or_disabled_is_put_right_alone(state: Any, systemd: Any) -> None:
    state.rolled("v1")
    systemd.commands.clear()
    systemd.active.discard("app@2.service")
    systemd.enabled.discard("app@3.service")
    ret = state.rolled("v1")
    assert ret["changes"] == {"app@2.service": "on v1", "app@3.service": "enabled"}
    assert systemd.did("restart", "enable") == ["restart app@2.service", "enable app@3.service"]


def test_placeholders_are_replaced_also_the_formulas_own(state: Any, home: str) -> None:
    environment = {"A": "{store}", "B": "{credentials}/x", "C": 5}
    state.rolled("v1", 1, environment=environment, values={"store": "10.0.0.1"})
    assert Path(home, "instances/1/env").read_text() == (
        'A="10.0.0.1"\nB="/run/credentials/app@1.service/x"\nC="5"\n'
    )


@pytest.mark.parametrize("value", ["{prot}", "{0}", "{port", "{port.x}", "a\nb"])
def test_an_unusable_environment_is_a_clear_error_before_anything_moves(
    state: Any, systemd: Any, home: str, value: str, instance: ModuleType
) -> None:
    ret = state.rolled("v1", environment={"GOOD": "1", "LISTEN": value})
    assert ret["result"] is False
    assert "LISTEN" in ret["comment"]
    assert len(ret["comment"].splitlines()) == 1
    assert systemd.commands == []
    assert instance.running(home) == {}


def test_test_mode_rolls_nothing_and_says_what_it_would(
    state: Any, systemd: Any, home: str, instance: ModuleType
) -> None:
    state.rolled("v1", 3)
    systemd.commands.clear()
    state.module.__opts__["test"] = True
    ret = state.rolled("v2", 2)
    assert ret["result"] is None
    assert ret["changes"] == {
        "app@1.service": "would be rolled to v2",
        "app@2.service": "would be rolled to v2",
        "app@3.service": "would be drained and removed",
    }
    assert systemd.commands == []
    assert set(instance.running(home).values()) == {"v1"}
