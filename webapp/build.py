#!/usr/bin/env python3
"""Build the artifact: one reproducible archive with the application and all it needs.

    python webapp/build.py --out dist

makes dist/counter-VERSION.tar.gz and its .sha256. Needs Python 3.11 or later with pip, and git
where the sources are in a git repository; the standard library does the rest. Wheels come from
the index that pip is set up for, each checked against the hash in requirements.lock, and are
kept in a cache: with a complete one, the build needs no network. README.md, "The artifact",
says what is inside.
"""

from __future__ import annotations

import argparse
import datetime
import email
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

WEBAPP = Path(__file__).resolve().parent
NAME = "counter"
# What a version may be, as whatever stores or deploys one takes it (control/artifacts/files.py).
VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

# The Pythons of Debian 12 and 13. Their extension modules have different names, so that one
# folder serves both.
PYTHONS = ("3.11", "3.13")
PLATFORM = "linux-x86_64"
# What glibc 2.28 and later can load, the preferred first. Debian 12 has 2.36.
WHEEL_PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_5_x86_64",
    "manylinux1_x86_64",
)
# Where there is no commit to take a time from: the first that a zip file can hold.
NO_TIME = int(datetime.datetime(1980, 1, 1, tzinfo=datetime.UTC).timestamp())
# Never part of the sources, also where no .gitignore says so.
NOT_SOURCES = {"__pycache__", ".git", ".pytest_cache", ".ruff_cache", ".venv", "build", "dist"}

LAUNCHER = """\
#!/usr/bin/python3 -IS
# -I ignores PYTHON* variables and the user's packages, -S the system's: what is in lib/ and the
# standard library are all there is. lib/ comes last, because legacy-cgi, meant for Python 3.13,
# holds a cgi.py that must not replace the one of 3.11.
import os
import sys

PYTHONS = {pythons}
if sys.version_info[:2] not in PYTHONS:
    needed = " or ".join("%d.%d" % python for python in PYTHONS)
    sys.exit("counter: this artifact needs Python %s; /usr/bin/python3 is %d.%d"
             % ((needed,) + sys.version_info[:2]))
# A release never changes. Whoever installs it may byte-compile lib/.
sys.dont_write_bytecode = True
root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path.append(os.path.join(root, "lib"))

from counter.cli import main  # noqa: E402

sys.exit(main())
"""


class BuildError(Exception):
    """Nothing was built. The message says what is wrong and what to do."""


@dataclass(frozen=True)
class Requirement:
    """One line of requirements.lock."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


@dataclass(frozen=True)
class Source:
    """The state of the sources: version, commit (None without), time (Unix seconds), origin."""

    version: str
    commit: str | None
    time: int
    built_from: str

    def __post_init__(self) -> None:
        if not re.fullmatch(VERSION, self.version):
            raise BuildError(
                f"webapp/pyproject.toml: version: {self.version} could be stored and deployed"
                " nowhere: use letters, digits, '.', '_' and '-', at most 128"
            )


# --- the sources ---------------------------------------------------------------------------


def _git(*arguments: str) -> str | None:
    """Standard output of git in webapp/; None if git fails. BuildError if there is no git.

    Whatever the caller's own settings of git say: no variable of git's gets through, what is
    ignored is said by the repository alone, and only commands for programs are used, which no
    setting of `log` or `status` changes.
    """
    settings = ["-c", "core.excludesFile=/dev/null", "-c", "core.fsmonitor=false"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *settings, *arguments],
            cwd=WEBAPP,
            env={**kept, "LC_ALL": "C.UTF-8", "LANGUAGE": ""},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise BuildError("the sources are in a git repository: install git") from None
    if done.returncode and "dubious ownership" in done.stderr:
        raise BuildError(f"git refuses to read the repository: {done.stderr.strip()}")
    return done.stdout if done.returncode == 0 else None


def _in_git() -> bool:
    return any((folder / ".git").exists() for folder in (WEBAPP, *WEBAPP.parents))


def _is_source(path: PurePath) -> bool:
    return not NOT_SOURCES & set(path.parts) and not any(
        part.endswith(".egg-info") for part in path.parts
    )


def source_files() -> list[str]:
    """Paths of all source files, relative to webapp/, sorted: tracked and new, not ignored."""
    listed = _git("ls-files", "-z", "-co", "--exclude-standard", "--", ".") if _in_git() else None
    if listed is None:
        paths = [path.relative_to(WEBAPP) for path in WEBAPP.rglob("*") if path.is_file()]
    else:
        names = {name for name in listed.split("\0") if name}
        paths = [Path(name) for name in names if (WEBAPP / name).is_file()]
    return sorted(path.as_posix() for path in paths if _is_source(path))


def _is_changed() -> bool:
    """Whether a source differs from the commit by one byte, by not being there, or by being new.

    Compared here: `git status` leaves out what somebody's settings or marks in the index hide, and
    what a filter, such as one of line ends, made of a file.
    """
    committed = {}
    for entry in (_git("ls-tree", "-r", "-z", "HEAD", "--", ".") or "").split("\0")[:-1]:
        (_, kind, identity), name = entry.partition("\t")[0].split(), entry.partition("\t")[2]
        if kind == "blob" and _is_source(PurePosixPath(name)):
            committed[name] = identity
    names = source_files()
    return set(names) != set(committed) or any(
        _blob((WEBAPP / name).read_bytes(), committed[name]) != committed[name] for name in names
    )


def _blob(content: bytes, like: str) -> str:
    """git's name of a file's content, by the hash that made `like`."""
    hashing = hashlib.sha1 if len(like) == 40 else hashlib.sha256
    return hashing(b"blob %d\0" % len(content) + content).hexdigest()


def content_hash() -> str:
    """The first 8 hexadecimal digits of a hash over names and contents of the sources."""
    total = hashlib.sha256()
    for name in source_files():
        content = hashlib.sha256((WEBAPP / name).read_bytes()).hexdigest()
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()[:8]


def read_source() -> Source:
    """Find the version: BASE-gCOMMIT, BASE-gCOMMIT.dirty.HASH, or BASE-src.HASH without git.

    The commit is the last one that touched webapp/, so that other commits make no new version.
    Letters, digits, dots, _ and dashes alone: safe in file names, URLs and unit names.
    """
    with (WEBAPP / "pyproject.toml").open("rb") as file:
        base = tomllib.load(file)["project"]["version"]
    last = (_git("rev-list", "-1", "--timestamp", "HEAD", "--", ".") or "") if _in_git() else ""
    if not last.strip():
        return Source(f"{base}-src.{content_hash()}", None, NO_TIME, "files without a commit")
    time, commit = last.split()
    _refuse_shallow(commit)
    version = f"{base}-g{commit[:12]}"
    if _is_changed():
        version = f"{version}.dirty.{content_hash()}"
        return Source(version, commit, int(time), "a commit with uncommitted changes")
    return Source(version, commit, int(time), "a commit")


def _refuse_shallow(commit: str) -> None:
    """In a shallow clone the oldest commit seems to have touched everything."""
    place = _git("rev-parse", "--git-path", "shallow")
    shallow = WEBAPP / place.strip() if place else None
    if shallow and shallow.is_file() and commit in shallow.read_text(encoding="ascii").split():
        raise BuildError(
            "this clone is shallow, and the last commit that touched webapp/ can't be told; "
            "run: git fetch --unshallow"
        )


# --- the dependencies ----------------------------------------------------------------------


def read_lock(text: str) -> list[Requirement]:
    """Parse a requirements.lock; refuse what is not name==version with hashes."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        before, *hashes = re.split(r"\s+--hash=sha256:", line)
        pinned, _, marker = before.partition(";")
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)", pinned.strip())
        if not match or not all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes):
            raise BuildError(f"requirements.lock: can't read {before.strip()!r}")
        if not hashes:
            raise BuildError(f"requirements.lock: {match[1]} has no hash")
        found.append(Requirement(_plain(match[1]), match[2], marker.strip(), frozenset(hashes)))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def is_wanted(marker: str, python: str) -> bool:
    """Does any 3.x.y of this Python 3.x want a requirement with this marker?

    pip evaluates markers for the Python it runs on, not for the one it downloads for. Knows
    the markers that a lock for one platform has: Python's version, joined by "and".
    """
    return not marker or any(_holds(marker, f"{python}.{patch}") for patch in range(60))


def _holds(marker: str, python: str) -> bool:
    result = True
    for term in marker.split(" and "):
        match = re.fullmatch(
            r"(python_version|python_full_version) (<|<=|>|>=|==|!=) '([0-9.]+)'", term.strip()
        )
        if not match:
            raise BuildError(f"requirements.lock: can't judge the marker {marker!r}")
        left, right = ([int(part) for part in text.split(".")] for text in (python, match[3]))
        if match[1] == "python_version":
            left = left[:2]
        length = max(len(left), len(right))
        left, right = (side + [0] * (length - len(side)) for side in (left, right))
        order = (left > right) - (left < right)
        result &= {
            "<": order < 0, "<=": order <= 0, ">": order > 0,
            ">=": order >= 0, "==": order == 0, "!=": order != 0,
        }[match[2]]  # fmt: skip
    return result


def find_wheel(requirement: Requirement, python: str, cache: Path) -> Path | None:
    """The wheel in the cache that fits, with a hash that the lock has; None without one."""
    fitting = []
    for path in sorted(cache.glob("*.whl")):
        name, version, *_, pythons, abis, platforms = path.name.removesuffix(".whl").split("-")
        if (_plain(name), version) != (requirement.name, requirement.version):
            continue
        rank = _rank(pythons.split("."), abis.split("."), platforms.split("."), python)
        if rank is not None and _sha256(path.read_bytes()) in requirement.hashes:
            fitting.append((rank, path.name, path))
    return min(fitting)[2] if fitting else None


def _rank(pythons: list[str], abis: list[str], platforms: list[str], python: str) -> int | None:
    """How well the tags of a wheel fit, 0 best; None if they do not."""
    tag = "cp" + python.replace(".", "")
    if tag in pythons and tag in abis:
        ranks = [rank for rank, name in enumerate(WHEEL_PLATFORMS) if name in platforms]
        return min(ranks, default=None)
    if {"py3", tag} & set(pythons) and "none" in abis and "any" in platforms:
        return len(WHEEL_PLATFORMS)
    return None


def collect_wheels(
    requirements: list[Requirement], cache: Path
) -> dict[str, dict[Requirement, Path]]:
    """For each Python, the wheel of each requirement; downloads what the cache lacks."""
    cache.mkdir(parents=True, exist_ok=True)
    wheels: dict[str, dict[Requirement, Path]] = {}
    for python in PYTHONS:
        wanted = [each for each in requirements if is_wanted(each.marker, python)]
        missing = [each for each in wanted if find_wheel(each, python, cache) is None]
        if missing:
            print(f"build: downloading {len(missing)} wheels for Python {python}", flush=True)
            _download(missing, python, cache)
        wheels[python] = {}
        for each in wanted:
            path = find_wheel(each, python, cache)
            if path is None:
                raise BuildError(
                    f"no wheel of {each.name} {each.version} for Python {python} on {PLATFORM} "
                    f"in {cache} with a hash that requirements.lock has"
                )
            wheels[python][each] = path
    return wheels


def _download(requirements: list[Requirement], python: str, cache: Path) -> None:
    lines = []
    for each in requirements:
        hashes = " ".join(f"--hash=sha256:{value}" for value in sorted(each.hashes))
        lines.append(f"{each.name}=={each.version} {hashes}")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-Im", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--implementation=cp"]
        command += [f"--python-version={python}", f"--abi=cp{python.replace('.', '')}"]
        command += ["--abi=none", *(f"--platform={name}" for name in WHEEL_PLATFORMS)]
        command += [f"--dest={cache}", f"--requirement={wanted}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr]
        raise BuildError(f"pip can't get the wheels for Python {python}:\n" + "\n".join(reason))


def unpack(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of what a wheel installs into lib/, without what nobody runs."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = PurePosixPath(name)
            if name.endswith("/"):
                continue
            if path.is_absolute() or ".." in path.parts:
                raise BuildError(f"{wheel.name}: {name} points outside of its folder")
            if path.parts[0].endswith(".data"):
                if path.parts[1] not in ("purelib", "platlib"):
                    continue  # scripts and headers
                path = PurePosixPath(*path.parts[2:])
            if not _is_ballast(path):
                yield path.as_posix(), archive.read(name)


def _is_ballast(path: PurePosixPath) -> bool:
    if path.parts[0].endswith(".dist-info"):
        # They describe the wheel, not this folder; the SBOM has the hashes.
        return path.name in ("RECORD", "WHEEL", "INSTALLER", "REQUESTED")
    # Tests, Windows programs, C sources; .pth files only work in a site-packages folder.
    return "tests" in path.parts[:-1] or path.suffix in (".exe", ".c", ".h", ".pth")


def merge(files: dict[str, bytes], path: str, content: bytes, origin: str) -> None:
    """Add a file; refuse one that is there with other contents."""
    if files.setdefault(path, content) != content:
        raise BuildError(f"{origin}: {path} is already there with other contents")


# --- the archive ---------------------------------------------------------------------------


def assemble(source: Source, wheels: dict[str, dict[Requirement, Path]]) -> dict[str, bytes]:
    """All files of the artifact by their path below its root folder."""
    files: dict[str, bytes] = {}
    for path in sorted({path for chosen in wheels.values() for path in chosen.values()}):
        for name, content in unpack(path):
            merge(files, f"lib/{name}", content, path.name)
    for name in source_files():
        if name.startswith(f"src/{NAME}/"):
            installed = "lib/" + name.removeprefix("src/")
            merge(files, installed, (WEBAPP / name).read_bytes(), "webapp")
    pythons = tuple(tuple(int(part) for part in python.split(".")) for python in PYTHONS)
    files[f"bin/{NAME}"] = LAUNCHER.format(pythons=pythons).encode()
    files["release.json"] = _json(
        {
            "name": NAME,
            "version": source.version,
            "commit": source.commit,
            "built_from": source.built_from,
            "python": list(PYTHONS),
            "platform": PLATFORM,
        }
    )
    files["sbom.cdx.json"] = _json(_sbom(source, wheels))
    return files


def _sbom(source: Source, wheels: dict[str, dict[Requirement, Path]]) -> dict[str, object]:
    """CycloneDX 1.5. One component a wheel: two wheels of one package have two hashes."""
    components = {}
    for chosen in wheels.values():
        for requirement, path in chosen.items():
            purl = f"pkg:pypi/{requirement.name}@{requirement.version}?file_name={path.name}"
            components[purl] = {
                "type": "library",
                "bom-ref": purl,
                "name": requirement.name,
                "version": requirement.version,
                "hashes": [{"alg": "SHA-256", "content": _sha256(path.read_bytes())}],
                "purl": purl,
            } | _licences(path)
    root = f"pkg:generic/{NAME}@{source.version}"
    when = datetime.datetime.fromtimestamp(source.time, datetime.UTC)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": NAME,
                "version": source.version,
                "purl": root,
            },
        },
        "components": [components[purl] for purl in sorted(components)],
        "dependencies": [{"ref": root, "dependsOn": sorted(components)}],
    }


def _licences(wheel: Path) -> dict[str, object]:
    """What the wheel says of its licence: an SPDX expression, a name, or a classifier."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    if expression := metadata["License-Expression"]:
        return {"licenses": [{"expression": expression}]}
    licence = metadata["License"]
    if not licence or "\n" in licence or licence == "UNKNOWN":
        told = [entry for entry in metadata.get_all("Classifier", []) if entry[:9] == "License :"]
        licence = told[0].rpartition(" :: ")[2] if told else "see the wheel's dist-info"
    return {"licenses": [{"license": {"name": licence}}]}


def pack(root: str, files: dict[str, bytes], time: int) -> bytes:
    """A .tar.gz that depends on nothing but its arguments (and the version of zlib)."""
    folders = {
        parent.as_posix()
        for name in files
        for parent in PurePosixPath(root, name).parents
        if parent.as_posix() != "."
    }
    members = {f"{root}/{name}": content for name, content in files.items()}
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in sorted(folders | set(members)):
            entry = tarfile.TarInfo(name)
            entry.mtime = time
            if name in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size = len(members[name])
                entry.mode = 0o755 if name.startswith(f"{root}/bin/") else 0o644
                archive.addfile(entry, io.BytesIO(members[name]))
    return buffer.getvalue()


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- the command ---------------------------------------------------------------------------


def build(out: Path, cache: Path) -> Path:
    """Build into `out` unless it is there already; return the path of the archive."""
    source = read_source()
    root = f"{NAME}-{source.version}"
    archive, checksum = out / f"{root}.tar.gz", out / f"{root}.tar.gz.sha256"
    if archive.is_file() and checksum.is_file():
        told = checksum.read_text(encoding="utf-8")
        if told == f"{_sha256(archive.read_bytes())}  {archive.name}\n":
            print(f"build: {archive} is there already")
            return archive
    print(f"build: {root} from {source.built_from}", flush=True)
    requirements = read_lock((WEBAPP / "requirements.lock").read_text(encoding="utf-8"))
    files = assemble(source, collect_wheels(requirements, cache))
    content = pack(root, files, source.time)
    out.mkdir(parents=True, exist_ok=True)
    checksum.unlink(missing_ok=True)
    _write(archive, content)
    _write(checksum, f"{_sha256(content)}  {archive.name}\n".encode())
    print(f"build: {archive}, {len(content) / 1e6:.1f} MB, sha256 {_sha256(content)}")
    return archive


def _write(path: Path, content: bytes) -> None:
    """Write so that the file is never there in part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def main() -> int:
    """Run the command; return its exit code: 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description="Build the artifact of the application.")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="default: dist")
    parser.add_argument(
        "--cache",
        type=Path,
        default=WEBAPP.parent / ".cache" / "wheels",
        help="folder of downloaded wheels; default: .cache/wheels beside webapp/",
    )
    parser.add_argument("--print-version", action="store_true", help="print the version alone")
    options = parser.parse_args()
    # An artifact is for every account, whoever builds it.
    os.umask(0o022)
    try:
        if options.print_version:
            print(read_source().version)
        else:
            build(options.out, options.cache)
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
