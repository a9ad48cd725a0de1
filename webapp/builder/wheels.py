"""The wheels of locked packages: chosen for each target, downloaded, unpacked."""

from __future__ import annotations

import configparser
import contextlib
import email
import functools
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Parsed
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from builder.errors import BuildError
from builder.locks import Requirement, explain, is_wanted

# Debian's names of architectures, and the kernel's.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# The minor versions of glibc that a wheel may want, the newest first: Debian 12 has 2.36.
GLIBC = range(36, 4, -1)
OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, order=True)
class Target:
    """What an artifact must run on: a Python (`3.11`) and a machine (`x86_64`)."""

    python: str
    machine: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.machine}"

    @property
    def folder(self) -> str:
        """Where packages are that are for this target alone; the launcher knows the name too."""
        return f"lib-{self.python}-{self.machine}"


Wheels = dict[Target, dict[Requirement, Path]]


@functools.cache
def platforms(machine: str) -> tuple[str, ...]:
    """Platform tags that Debian 12 and 13 can load, the preferred first."""
    names = []
    for minor in GLIBC:
        names.append(f"manylinux_2_{minor}_{machine}")
        if minor in OLD_NAMES:
            names.append(f"{OLD_NAMES[minor]}_{machine}")
    return tuple(names)


@functools.cache
def _tags(target: Target, own: bool) -> dict[Tag, int]:
    version = tuple(int(part) for part in target.python.split("."))
    names = [*platforms(target.machine), *([f"linux_{target.machine}"] if own else [])]
    tags = [*cpython_tags(version, platforms=names)]
    tags += compatible_tags(version, f"cp{target.python.replace('.', '')}", names)
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def find_wheel(
    requirement: Requirement, target: Target, cache: Path, own: Path | None = None
) -> Path | None:
    """The wheel that fits best; None without one.

    From the cache, with a hash that the lock has; or from the application's own folder of wheels,
    which its commit holds as it does its sources.
    """
    fitting = []
    for folder in (own, cache):
        if folder is None:
            continue
        for path in sorted(folder.glob("*.whl")):
            if not path.name.replace("_", "-").lower().startswith(requirement.name[:1]):
                continue
            try:
                name, version, _, tags = parse_wheel_filename(path.name)
            except InvalidWheelFilename:
                continue
            if (name, str(version)) != (requirement.name, requirement.version):
                continue
            ranks = [
                _tags(target, folder is own)[tag]
                for tag in tags
                if tag in _tags(target, folder is own)
            ]
            if ranks and (folder is own or sha256(path) in requirement.hashes):
                fitting.append((folder is not own, min(ranks), path.name, path))
    return min(fitting)[3] if fitting else None


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def collect(
    requirements: list[Requirement], targets: Iterable[Target], cache: Path, own: Path | None = None
) -> Wheels:
    """For each target, the wheel of each requirement; downloads what the cache lacks."""
    cache.mkdir(parents=True, exist_ok=True)
    wheels: Wheels = {}
    for target in targets:
        wanted = [
            each for each in requirements if is_wanted(each.marker, target.python, target.machine)
        ]
        missing = [each for each in wanted if find_wheel(each, target, cache, own) is None]
        if missing:
            print(f"build: downloading {len(missing)} wheels for {target}", flush=True)
            _download(missing, target, cache)
        wheels[target] = {}
        for each in wanted:
            path = find_wheel(each, target, cache, own)
            if path is None:
                raise BuildError(_way_out(each, target))
            wheels[target][each] = path
    return wheels


def check_complete(wheels: Wheels, locked: Iterable[Requirement], lock: str) -> None:
    """BuildError where a wheel needs a package that is not locked.

    It would be missing on the machine alone.
    """
    names = {each.name for each in locked}
    for target, chosen in wheels.items():
        extras = {each.name: set(each.extras) for each in chosen}
        todo = [*chosen]
        while todo:
            each = todo.pop()
            for needed in requires(chosen[each], target, extras[each.name]):
                name = canonicalize_name(needed.name)
                if name not in names:
                    raise BuildError(
                        f"{lock}: {each.name}=={each.version} needs {name}, which is not in it;"
                        f" {explain(lock)}"
                    )
                # One that is now wanted with more of its extras needs more.
                if name in extras and not needed.extras <= extras[name]:
                    extras[name] |= needed.extras
                    todo += [other for other in chosen if other.name == name]


def requires(wheel: Path, target: Target, extras: Iterable[str]) -> list[Parsed]:
    """What a wheel needs on a target, with these of its extras."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = re.compile(r"[^/]+\.dist-info/METADATA")
        path = next(filter(metadata.fullmatch, archive.namelist()), "")
        text = archive.read(path).decode(errors="replace") if path else ""
    found = []
    for line in email.message_from_string(text).get_all("Requires-Dist", []):
        # What nobody can read asks for nothing.
        with contextlib.suppress(InvalidRequirement):
            needed = Parsed(line)
            if is_wanted(str(needed.marker or ""), target.python, target.machine, extras):
                found.append(needed)
    return found


def _way_out(requirement: Requirement, target: Target) -> str:
    pinned = f"{requirement.name}=={requirement.version}"
    return (
        f"{pinned} has no wheel for {target}, and an artifact takes no sources that would have to"
        f" be compiled: build one yourself (pip wheel --no-deps {pinned} -w wheels, in the"
        " application's folder, on such a machine; wheels/ is looked in first), or lock a version"
        " or a package that has one"
    )


def _download(requirements: list[Requirement], target: Target, cache: Path) -> None:
    lines = []
    for each in requirements:
        if not each.hashes:
            raise BuildError(_way_out(each, target))
        hashes = " ".join(f"--hash=sha256:{value}" for value in sorted(each.hashes))
        lines.append(f"{each.name}=={each.version} {hashes}")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-Im", "pip", "--disable-pip-version-check", "download"]
        command += ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        command += ["--implementation=cp", f"--python-version={target.python}"]
        command += [f"--abi=cp{target.python.replace('.', '')}", "--abi=abi3", "--abi=none"]
        command += [f"--platform={name}" for name in platforms(target.machine)]
        command += [f"--dest={cache}", f"--requirement={wanted}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lost = re.search(r"No matching distribution found for ([A-Za-z0-9._-]+)==", done.stderr)
        for each in requirements:
            # Where the index has other versions or none is known by the line before.
            if lost and each.name == re.sub(r"[-_.]+", "-", lost[1]).lower():
                raise BuildError(f"{_way_out(each, target)}\n{_reason(done.stderr)}")
        raise BuildError(f"pip can't get the wheels for {target}:\n{_reason(done.stderr)}")


def _reason(stderr: str) -> str:
    return "\n".join([line for line in stderr.splitlines() if "ERROR" in line] or [stderr])


def unpack(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of what a wheel installs, without what nobody runs."""
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
    # Tests; what is beside them in their folder other modules may use (numpy does).
    if "tests" in path.parts[:-1] and re.fullmatch(r"test_.*|conftest\.py", path.name):
        return True
    # Windows programs, C sources; .pth files only work in a site-packages folder.
    return path.suffix in (".exe", ".c", ".h", ".pth")


def programs(files: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """{name: `module:function`} of the programs that a wheel's files declare."""
    found = {}
    for name, content in files:
        if name.endswith(".dist-info/entry_points.txt"):
            parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
            parser.optionxform = str  # type: ignore[assignment,method-assign]
            parser.read_string(content.decode())
            if parser.has_section("console_scripts"):
                for script, place in parser.items("console_scripts"):
                    found[script] = place.partition("[")[0].strip()
    return found
