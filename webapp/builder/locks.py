"""Locked packages: requirements.lock (pip's format), uv.lock and pylock.toml."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import InvalidMarker, Marker, UndefinedEnvironmentName
from packaging.pylock import Pylock, PylockValidationError
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Parsed
from packaging.utils import canonicalize_name

from builder.errors import BuildError


@dataclass(frozen=True)
class Requirement:
    """A locked package."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]
    extras: frozenset[str] = frozenset()


def explain(name: str) -> str:
    """How a lock of this name is made anew."""
    commands = {"uv.lock": "uv lock", "pylock.toml": "pip lock -r requirements.in"}
    compile_it = f"uv pip compile --universal --generate-hashes requirements.in -o {name}"
    return f"lock it: {commands.get(Path(name).name, compile_it)}"


def read_lock(path: Path) -> list[Requirement]:
    """All packages of a lock, in one of the three formats. Raises BuildError."""
    if path.name == "uv.lock":
        return parse_requirements(_export(path), path.name, exported=True)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return parse_pylock(text, path.name)
    return parse_requirements(text, path.name)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with what continues them, without comments, and the number of the first."""
    parts: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            whole = re.sub(r"(^|\s)#.*", "", " ".join(parts)).strip()
            if whole:
                yield number - len(parts) + 1, whole
            parts = []


def parse_requirements(text: str, name: str, exported: bool = False) -> list[Requirement]:
    """Parse pip's format; refuse what is not name==version with hashes.

    `exported`: the text is made of the file, whose lines are others.
    """
    found = []
    for number, line in _logical_lines(text):
        where = name if exported else f"{name}:{number}"
        before, *hashes = re.split(r"\s+--hash=sha256:", line)
        try:
            parsed = Parsed(before)
        except InvalidRequirement:
            raise BuildError(f"{where}: can't read {before!r}; {explain(name)}") from None
        pins = list(parsed.specifier)
        pinned = len(pins) == 1 and pins[0].operator == "==" and "*" not in pins[0].version
        if not pinned or not all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes):
            raise BuildError(
                f"{where}: can't read {before!r}: name==version and hashes are needed;"
                f" {explain(name)}"
            )
        if not hashes:
            raise BuildError(f"{where}: {parsed.name} has no hash; {explain(name)}")
        marker = str(parsed.marker or "")
        found.append(
            Requirement(
                canonicalize_name(parsed.name),
                pins[0].version,
                marker,
                frozenset(hashes),
                frozenset(parsed.extras),
            )
        )
    return found


def parse_pylock(text: str, name: str) -> list[Requirement]:
    """Parse pylock.toml (PEP 751)."""
    try:
        lock = Pylock.from_dict(tomllib.loads(text))
    except (PylockValidationError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"{name}: {error}") from None
    found = []
    for package in lock.packages:
        if package.version is None or package.directory or package.vcs or package.archive:
            raise BuildError(
                f"{name}: {package.name} is no released package: only those of an index, with a"
                " version, can be put into an artifact"
            )
        files = [*(package.wheels or [])]
        hashes = {file.hashes["sha256"] for file in files if "sha256" in file.hashes}
        if files and not hashes:
            raise BuildError(f"{name}: {package.name} has no sha256")
        found.append(
            Requirement(
                package.name, str(package.version), str(package.marker or ""), frozenset(hashes)
            )
        )
    return found


def _export(path: Path) -> str:
    """uv.lock in pip's format, by uv itself."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        raise BuildError(
            f"{path}: uv reads it, and is not here: pip install uv; or lock in another format:"
            " uv export --frozen --no-dev --no-emit-project -o requirements.lock"
        )
    command = [uv, "export", "--project", str(path.parent), "--frozen", "--offline", "--quiet"]
    command += ["--no-dev", "--no-emit-project", "--no-header", "--no-annotate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{path}: uv can't read it: {' '.join(done.stderr.split())}")
    return done.stdout


def is_wanted(marker: str, python: str, machine: str, extras: Iterable[str] = ()) -> bool:
    """Does any 3.x.y of this Python 3.x want a requirement with this marker, with these extras?

    pip evaluates markers for the Python it runs on, not for the one it downloads for.
    """
    if not marker:
        return True
    try:
        parsed = Marker(marker)
        patches: Iterable[int] = range(60) if "python_full_version" in marker else (0,)
        return any(
            parsed.evaluate({**_environment(f"{python}.{n}", machine), "extra": extra})
            for n in patches
            for extra in ("", *extras)
        )
    except (InvalidMarker, UndefinedEnvironmentName) as error:
        raise BuildError(f"can't judge the marker {marker!r}: {error}") from None


def _environment(python: str, machine: str) -> dict[str, str]:
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
    }


def together(runtime: list[Requirement], own: list[Requirement], lock: str) -> list[Requirement]:
    """The runtime's packages and the application's. Raises BuildError where they differ."""
    versions = {each.name: each.version for each in runtime}
    for each in own:
        if versions.get(each.name, each.version) != each.version:
            raise BuildError(
                f"{lock}: {each.name} {each.version}, but the runtime that serves it has"
                f" {versions[each.name]}: lock that version, or leave it out"
            )
    return [*own, *(each for each in runtime if each.name not in {one.name for one in own})]
