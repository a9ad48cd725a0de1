"""The artifact: reproducible, complete, named after what it was built from, and it runs.

These tests download the locked wheels, unless the cache beside webapp/ has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from builder import layout, locks, wheels
from builder.errors import BuildError
from builder.wheels import Target
from support import WEBAPP, App, RedisServer, StartApp, number

CACHE = WEBAPP.parent / ".cache" / "wheels"


PYTHONS = ("3.11", "3.13")
TARGETS = [Target(python, "x86_64") for python in PYTHONS]


def git(folder: Path, *arguments: str, date: str = "2024-05-06T07:08:09Z") -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def copy_tree(to: Path) -> Path:
    """A copy of webapp/ alone, in a folder named `to`."""
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info", "dist", "build")
    shutil.copytree(WEBAPP, to / "webapp", ignore=ignored)
    return to / "webapp"


def commit(webapp: Path) -> str:
    """Make the folder of `webapp` a repository with one commit; return the commit."""
    git(webapp.parent, "init", "-q", "-b", "main")
    (webapp.parent / ".gitignore").write_text("__pycache__/\n")
    git(webapp.parent, "add", ".")
    git(webapp.parent, "commit", "-q", "-m", "first")
    return git(webapp.parent, "rev-parse", "HEAD")


def run(webapp: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(webapp / "build.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def version(webapp: Path) -> str:
    done = run(webapp, "--print-version")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.removesuffix("\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, built once from a clean commit."""
    webapp = copy_tree(tmp_path_factory.mktemp("built"))
    commit(webapp)
    out = webapp.parent / "dist"
    done = run(webapp, "--out", str(out), "--cache", str(CACHE))
    assert done.returncode == 0, done.stderr
    (archive,) = out.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root folder of the archive, unpacked, in a path with a space in it."""
    folder = tmp_path_factory.mktemp("an installed") / "a folder"
    folder.mkdir()
    subprocess.run(["tar", "-xf", built, "-C", folder], check=True)
    (root,) = folder.iterdir()
    return root


def test_two_builds_in_two_folders_at_two_times_are_the_same(built: Path, tmp_path: Path) -> None:
    webapp = copy_tree(tmp_path / "another folder, much deeper")
    for file in webapp.rglob("*"):
        file.touch()  # other times, and below other modes
        if file.is_file():
            file.chmod(0o600)
    (webapp / "src/counter/__pycache__").mkdir()
    (webapp / "src/counter/__pycache__/left.pyc").write_bytes(b"left over")
    commit(webapp)
    done = run(webapp, "--out", str(tmp_path / "out"), "--cache", str(CACHE))
    assert done.returncode == 0, done.stderr
    (again,) = (tmp_path / "out").glob("*.tar.gz")
    assert again.name == built.name
    assert again.read_bytes() == built.read_bytes()


def test_a_complete_cache_needs_no_network(tmp_path: Path, built: Path) -> None:
    chosen = wheels.collect(_lock(), TARGETS, CACHE)
    webapp = copy_tree(tmp_path)
    shutil.copytree(CACHE, tmp_path / "cache")
    # pip without any index stands for a network that is not there.
    no_network = {"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1"}
    done = subprocess.run(
        [sys.executable, str(webapp / "build.py"), "--out", "out", "--cache", "cache"],
        cwd=tmp_path,
        env=no_network,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    next((tmp_path / "cache").glob("redis-*.whl")).unlink()
    (tmp_path / "out").rename(tmp_path / "old")
    done = subprocess.run(
        [sys.executable, str(webapp / "build.py"), "--out", "out", "--cache", "cache"],
        cwd=tmp_path,
        env=no_network,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"redis==\S+ has no wheel for Python 3.11 .*: build one", done.stderr)
    assert "\nERROR: " in done.stderr
    assert not (tmp_path / "out").exists()
    assert [target.python for target in chosen] == ["3.11", "3.13"]


def _lock() -> list[locks.Requirement]:
    """What is in the counter's artifact."""
    return [
        each
        for name in ("requirements.lock", "serving.lock")
        for each in locks.read_lock(WEBAPP / name)
    ]


def test_checksum_size_and_members_are_as_promised(built: Path) -> None:
    checksum = built.with_name(built.name + ".sha256")
    subprocess.run(["sha256sum", "--check", checksum.name], cwd=built.parent, check=True)
    assert built.stat().st_size < 15_000_000
    root = built.name.removesuffix(".tar.gz")
    with tarfile.open(built) as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert all(name == root or name.startswith(f"{root}/") for name in names)
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, "", "")
    }
    assert {member.mtime for member in members} == {1714979289}  # the time of the commit
    modes = {member.name: member.mode for member in members if member.isfile()}
    programs = {name: mode for name, mode in modes.items() if name.startswith(f"{root}/bin/")}
    assert f"{root}/bin/counter" in programs
    assert set(programs.values()) == {0o755}
    assert {mode for name, mode in modes.items() if name not in programs} == {0o644}
    assert not [n for n in names if n.endswith((".exe", ".pyc", ".pth")) or "/tests/test_" in n]
    # gzip: no file name and no time in its header
    assert built.read_bytes()[3:8] == b"\0\0\0\0\0"


def test_extensions_of_both_pythons_lie_side_by_side(unpacked: Path) -> None:
    names = {path.name for path in (unpacked / "lib/zope/interface").iterdir()}
    for tag in ("311", "313"):
        assert f"_zope_interface_coptimizations.cpython-{tag}-x86_64-linux-gnu.so" in names


def test_every_wheel_has_its_licence_or_metadata_beside_it(unpacked: Path) -> None:
    folders = list(unpacked.glob("lib*/*.dist-info"))
    assert len(folders) == len(_lock())
    assert all((folder / "METADATA").is_file() for folder in folders)


def test_release_and_sbom_tell_version_commit_and_hashes(unpacked: Path, built: Path) -> None:
    release = json.loads((unpacked / "release.json").read_text())
    assert f"counter-{release['version']}" == unpacked.name
    assert re.fullmatch(r"0\.1\.0-g[0-9a-f]{12}", release["version"])
    assert release["commit"].startswith(release["version"].partition("-g")[2])
    assert (release["name"], release["python"]) == ("counter", ["3.11", "3.13"])
    sbom = json.loads((unpacked / "sbom.cdx.json").read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    assert sbom["metadata"]["timestamp"] == "2024-05-06T07:08:09Z"
    locked = {each.name: each for each in _lock()}
    assert {component["name"] for component in sbom["components"]} == set(locked)
    for component in sbom["components"]:
        requirement = locked[component["name"]]
        assert component["version"] == requirement.version
        assert component["hashes"][0]["content"] in requirement.hashes
        assert component["purl"].startswith(f"pkg:pypi/{requirement.name}@")
        assert component["licenses"]


def _pythons() -> list[str]:
    """Debian's Python, and others that the artifact is made for."""
    found = []
    for name in ("/usr/bin/python3", "python3.11", "python3.13"):
        with contextlib.suppress(OSError):
            show = [name, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(show, capture_output=True, text=True, check=False)
            if done.stdout.strip() in PYTHONS:
                found.append(name)
    return found


@pytest.mark.parametrize("python", _pythons())
def test_the_artifact_counts_with_nothing_but_a_bare_python(
    python: str, unpacked: Path, start_app: StartApp, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.client.flushall()
    digest = hashlib.sha256(b"the archive").hexdigest()
    (unpacked / "artifact.sha256").write_text(f"{digest}  counter.tar.gz\n")
    (tmp_path / "current").symlink_to(unpacked)
    # What would spoil it if Python looked there: a module in PYTHONPATH that fails on import.
    (tmp_path / "pyramid.py").write_text("raise SystemExit('from PYTHONPATH')")
    launcher = str(tmp_path / "current/bin/counter")
    command = [launcher] if python == "/usr/bin/python3" else [python, "-IS", launcher]
    app: App = start_app(redis_server.url, command=command, PYTHONPATH=str(tmp_path))
    assert number(app.ask().text) == 1
    told = json.loads(app.ask("/version").text)
    assert f"counter-{told['version']}" == unpacked.name
    assert told["commit"].startswith(told["version"].partition("-g")[2])
    assert told["sha256"] == digest
    assert app.end() == 0
    assert not list(unpacked.rglob("__pycache__")), "a release never changes"


def test_another_python_is_refused_in_one_line(unpacked: Path, tmp_path: Path) -> None:
    text = (unpacked / "bin/counter").read_text()
    assert text.startswith("#!/usr/bin/python3 -IS\n")
    other = tmp_path / "counter"
    other.write_text(re.sub(r"^PYTHONS = .*", "PYTHONS = ((3, 2), (3, 99))", text, flags=re.M))
    done = subprocess.run([sys.executable, "-IS", str(other)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "needs Python 3.2 or 3.99" in done.stderr


def test_the_version_names_the_last_commit_of_webapp_and_marks_changes(tmp_path: Path) -> None:
    webapp = copy_tree(tmp_path)
    assert re.fullmatch(r"0\.1\.0-src\.[0-9a-f]{8}", version(webapp)), "no git"
    first = commit(webapp)
    clean = f"0.1.0-g{first[:12]}"
    assert version(webapp) == clean
    (tmp_path / "other.txt").write_text("elsewhere")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "elsewhere")
    assert version(webapp) == clean, "a commit elsewhere makes no new version"
    (webapp / "new.txt").write_text("one")
    one = version(webapp)
    assert re.fullmatch(re.escape(clean) + r"\.dirty\.[0-9a-f]{8}", one), "untracked"
    said = run(webapp, "--out", str(tmp_path / "out"), "--cache", str(CACHE)).stderr
    assert said == "build: not committed: new.txt; commit or ignore it\n"
    (webapp / "new.txt").write_text("two")
    assert version(webapp) not in (clean, one), "other contents, other version"
    (webapp / "new.txt").unlink()
    with (webapp / "src/counter/app.py").open("a") as file:
        file.write("# changed\n")
    assert ".dirty." in version(webapp), "modified"
    git(tmp_path, "commit", "-q", "-a", "-m", "second")
    second = version(webapp)
    assert second != clean
    assert re.fullmatch(r"[0-9A-Za-z.-]+", second), "safe in file names, URLs and unit names"


@pytest.mark.parametrize("base", ["1.0+local", "1!2", "1.0 rc", "1.0/2", "x" * 120])
def test_a_version_that_no_deploy_takes_is_not_built(tmp_path: Path, base: str) -> None:
    """Else it would be stored, and offered as the newest, and never run."""
    webapp = copy_tree(tmp_path)
    project = webapp / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "0.1.0"', f'version = "{base}"'))
    commit(webapp)
    done = run(webapp, "--print-version")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"version: {base}-g" in done.stderr


SETTINGS = {
    "untracked files hidden": "[status]\n  showUntrackedFiles = no\n",
    "signatures shown": "[log]\n  showSignature = true\n",
    "python ignored": "[core]\n  excludesFile = {folder}/ignored\n",
    "line ends": "[core]\n  autocrlf = true\n  safecrlf = false\n",
    "colours": "[color]\n  ui = always\n[log]\n  decorate = full\n  date = relative\n",
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("global", marks=pytest.mark.nightly("make test sets them in the repository")),
        "of the repository",
    ],
)
def test_no_setting_of_gits_changes_the_version_or_hides_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, place: str
) -> None:
    webapp = copy_tree(tmp_path)
    sha = commit(webapp)
    (tmp_path / "ignored").write_text("*.py\n")
    text = SETTINGS[setting].format(folder=tmp_path)
    if place == "global":
        (tmp_path / "gitconfig").write_text(text)
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        # Where git looks without that variable, which the build does not pass on.
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        (tmp_path / "config/git").mkdir(parents=True)
        (tmp_path / "config/git/config").write_text(text)
        monkeypatch.setenv("HOME", str(tmp_path))
    else:
        with (tmp_path / ".git/config").open("a") as file:
            file.write(text)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent")
    clean = version(webapp)
    assert clean == f"0.1.0-g{sha[:12]}"
    (webapp / "src/counter/new.py").write_text("new = True\n")
    with_new = version(webapp)
    assert with_new.startswith(f"{clean}.dirty."), "a new file went out under a clean version"


def test_a_signed_commit_is_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `log.showSignature`, git says who signed it, in the middle of what was asked."""
    webapp = copy_tree(tmp_path)
    commit(webapp)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (webapp / "README.md").write_text("signed\n")
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={key}")
    git(tmp_path, *signing, "commit", "-q", "-S", "-a", "-m", "signed")
    with (tmp_path / ".git/config").open("a") as file:
        file.write("[log]\n  showSignature = true\n[gpg]\n  format = ssh\n")
    assert version(webapp) == f"0.1.0-g{git(tmp_path, 'rev-parse', 'HEAD')[:12]}"


def test_a_mark_in_the_index_or_a_filter_hides_no_change(tmp_path: Path) -> None:
    webapp = copy_tree(tmp_path)
    commit(webapp)
    source = webapp / "src/counter/__init__.py"
    text = source.read_bytes()
    clean = version(webapp)
    for mark in ("assume-unchanged", "skip-worktree"):
        git(tmp_path, "update-index", f"--{mark}", "webapp/src/counter/__init__.py")
        source.write_bytes(text + b"# changed\n")
        assert ".dirty." in version(webapp), mark
        source.write_bytes(text)
        assert version(webapp) == clean
        git(tmp_path, "update-index", f"--no-{mark}", "webapp/src/counter/__init__.py")
    # As git itself writes it where core.autocrlf is set; to `git status` it is unchanged.
    (tmp_path / ".git/config").open("a").write("[core]\n  autocrlf = true\n")
    source.write_bytes(text.replace(b"\n", b"\r\n"))
    assert ".dirty." in version(webapp)


def test_an_artifact_is_readable_whatever_the_umask(tmp_path: Path, built: Path) -> None:
    webapp = copy_tree(tmp_path)
    command = shlex.join([sys.executable, str(webapp / "build.py"), "--out", "new/out"])
    command += f" --cache {shlex.quote(str(CACHE))}"
    subprocess.run(["/bin/sh", "-c", f"umask 077; {command}"], cwd=tmp_path, check=True)
    out = tmp_path / "new/out"
    assert out.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}


def test_a_shallow_clone_is_refused_where_it_would_lie(tmp_path: Path) -> None:
    (tmp_path / "origin").mkdir()
    webapp = copy_tree(tmp_path / "origin")
    commit(webapp)
    (tmp_path / "origin/other.txt").write_text("elsewhere")
    git(tmp_path / "origin", "add", ".")
    git(tmp_path / "origin", "commit", "-q", "-m", "elsewhere")
    git(tmp_path, "clone", "-q", "--depth=1", (tmp_path / "origin").as_uri(), "clone")
    done = run(tmp_path / "clone/webapp", "--print-version")
    assert (done.returncode, done.stdout) == (1, "")
    assert "git fetch --unshallow" in done.stderr


def test_an_artifact_that_is_there_is_left_alone_and_a_damaged_one_is_replaced(
    built: Path,
) -> None:
    webapp = built.parent.parent / "webapp"
    content, changed = built.read_bytes(), built.stat().st_mtime_ns
    arguments = ("--out", str(built.parent), "--cache", str(CACHE))
    done = run(webapp, *arguments)
    assert "is there already" in done.stdout
    quiet = run(webapp, "--quiet", *arguments)
    assert (quiet.returncode, quiet.stdout) == (0, f"{built}\n")
    assert built.stat().st_mtime_ns == changed
    built.write_bytes(content[:1000])
    assert run(webapp, *arguments).returncode == 0
    assert built.read_bytes() == content


def test_a_wheel_whose_hash_is_not_in_the_lock_is_not_used(tmp_path: Path) -> None:
    requirement = next(each for each in _lock() if each.name == "venusian")
    wheels.collect(_lock(), TARGETS, CACHE)
    original = wheels.find_wheel(requirement, TARGETS[0], CACHE)
    assert original is not None
    (tmp_path / original.name).write_bytes(original.read_bytes() + b"x")
    assert wheels.find_wheel(requirement, TARGETS[0], tmp_path) is None
    # In the application's own folder, its commit vouches for it.
    assert wheels.find_wheel(requirement, TARGETS[0], CACHE, tmp_path) == tmp_path / original.name


def test_two_contents_for_one_path_are_refused() -> None:
    files: dict[str, bytes] = {}
    layout.merge(files, "lib/a.py", b"1", "one.whl")
    layout.merge(files, "lib/a.py", b"1", "two.whl")
    with pytest.raises(BuildError, match=r"three\.whl: lib/a\.py"):
        layout.merge(files, "lib/a.py", b"2", "three.whl")


@pytest.mark.parametrize(
    "line",
    ["pyramid\n", "pyramid>=2\n", "pyramid==2.1\n", "pyramid==2.1 --hash=sha256:abc\n", "-e .\n"],
)
def test_a_lock_that_locks_nothing_is_refused(line: str) -> None:
    made = (
        "lock it: uv pip compile --universal --generate-hashes requirements.in -o requirements.lock"
    )
    with pytest.raises(BuildError, match=rf"^requirements\.lock:3: .*; {made}$"):
        locks.parse_requirements(
            f"six==1.0 \\\n  --hash=sha256:{'0' * 64}\n{line}", "requirements.lock"
        )


@pytest.mark.parametrize(
    ("marker", "wanted"),
    [
        ("", (True, True)),
        ("python_full_version >= '3.13'", (False, True)),
        ("python_full_version < '3.11.3'", (True, False)),
        ("python_version == '3.11'", (True, False)),
        ("python_version >= '3.11' and python_version < '3.13'", (True, False)),
        ("python_version < '3.10'", (False, False)),
        ("sys_platform == 'win32' or python_version < '3.13'", (True, False)),
        ("platform_machine == 'aarch64'", (False, False)),
        (
            "platform_python_implementation != 'PyPy' and python_version in '3.13 3.14'",
            (False, True),
        ),
    ],
)
def test_markers_are_judged_for_the_target_not_for_this_python(
    marker: str, wanted: tuple[bool, bool]
) -> None:
    assert tuple(locks.is_wanted(marker, python, "x86_64") for python in PYTHONS) == wanted
    assert locks.is_wanted("platform_machine == 'aarch64'", "3.11", "aarch64")


def test_a_marker_that_is_none_is_refused() -> None:
    with pytest.raises(BuildError, match="marker"):
        locks.is_wanted("sys_platfrom == 'win32'", "3.11", "x86_64")


def test_the_lock_is_universal_and_tells_no_machine() -> None:
    text = (WEBAPP / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    assert "legacy-cgi==" in text
    (interface,) = [each for each in _lock() if each.name == "zope-interface"]
    assert len(interface.hashes) > 20, "wheels of every Python and machine, aarch64 too"
