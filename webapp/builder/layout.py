"""What is in an artifact, and where: the application, its packages, programs, and what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.errors import BuildError
from builder.sbom import sbom
from builder.sources import WEBAPP, Source, source_files
from builder.wheels import MACHINES, Target, Wheels, programs, unpack

Files = dict[str, bytes]

START = """\
#!/usr/bin/python3 -IS
# -I ignores PYTHON* variables and the user's packages, -S the system's: what is in the artifact and
# the standard library are all there is.
import os
import sys

PYTHONS = {pythons}
if sys.version_info[:2] not in PYTHONS:
    needed = " or ".join("%d.%d" % python for python in PYTHONS)
    sys.exit("{name}: this artifact needs Python %s; /usr/bin/python3 is %d.%d"
             % ((needed,) + sys.version_info[:2]))
# A release never changes. Whoever installs it may byte-compile it.
sys.dont_write_bytecode = True
root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
target = "lib-%d.%d-%s" % (sys.version_info[:2] + (os.uname().machine,))
# Packages come last: what is in the standard library they must not replace.
sys.path += [os.path.join(root, target), os.path.join(root, "lib")]
"""
RUNTIME = """
from serving.cli import main  # noqa: E402

sys.exit(main())
"""
PROGRAM = """
sys.path.insert(0, os.path.join(root, "app"))
sys.argv[0] = "{script}"
from {module} import {first}  # noqa: E402

sys.exit({call}())
"""
PYTHON = """
paths = [os.path.join(root, "app"), *sys.path[-2:]]
os.environ.update(PYTHONPATH=":".join(paths), PYTHONDONTWRITEBYTECODE="1", PYTHONNOUSERSITE="1")
os.execv("/usr/bin/python3", ["python3", "-S", *sys.argv[1:]])
"""


def assemble(folder: Path, application: Mapping[str, Any], source: Source, wheels: Wheels) -> Files:
    """All files of the artifact by their path below its root folder."""
    name = application["name"]
    files: Files = {}
    scripts: dict[str, str] = {}
    _place_packages(files, scripts, wheels)
    for path in source_files(WEBAPP):
        if path.startswith("src/serving/"):
            installed = "lib/" + path.removeprefix("src/")
            merge(files, installed, (WEBAPP / path).read_bytes(), "the runtime")
    _place_application(files, folder, application)
    pythons = tuple(tuple(int(part) for part in each.split(".")) for each in _pythons(application))
    start = START.format(name=name, pythons=pythons)
    files["bin/python"] = (start + PYTHON).encode()
    for script, place in scripts.items():
        module, _, call = place.partition(":")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", script) or not call or script == name:
            continue
        first = call.partition(".")[0]
        text = PROGRAM.format(script=script, module=module, first=first, call=call)
        files.setdefault(f"bin/{script}", (start + text).encode())
    files[f"bin/{name}"] = (start + RUNTIME).encode()
    files["app.json"] = to_json(application)
    machines = [f"linux-{MACHINES[each]}" for each in application["build"]["machine"]]
    files["release.json"] = to_json(
        {
            "name": name,
            "version": source.version,
            "commit": source.commit,
            "built_from": source.built_from,
            "python": _pythons(application),
            "platform": machines[0] if len(machines) == 1 else machines,
        }
    )
    files["sbom.cdx.json"] = to_json(sbom(name, source, wheels))
    return files


def _pythons(application: Mapping[str, Any]) -> list[str]:
    return sorted(application["build"]["python"], key=lambda each: int(each.partition(".")[2]))


def targets(application: Mapping[str, Any]) -> list[Target]:
    """Each Python on each machine that the artifact is for."""
    machines = sorted(MACHINES[each] for each in application["build"]["machine"])
    return [Target(python, machine) for python in _pythons(application) for machine in machines]


def _place_application(files: Files, folder: Path, application: Mapping[str, Any]) -> None:
    names = source_files(folder)
    for taken in application["include"]:
        inside = taken.rstrip("/")
        chosen = [name for name in names if name == inside or name.startswith(f"{inside}/")]
        if inside == ".":
            chosen = names
        if not chosen:
            raise BuildError(f"{folder}/app.toml: include: {taken} has no file that git knows")
        for name in chosen:
            installed = "app/" + name.removeprefix("src/")
            merge(files, installed, (folder / name).read_bytes(), name)


def _place_packages(files: Files, scripts: dict[str, str], wheels: Wheels) -> None:
    """A package goes into lib/ where all targets share its files, else into each one's folder."""
    every = sorted(
        {each for chosen in wheels.values() for each in chosen}, key=lambda each: each.name
    )
    for requirement in every:
        chosen = {target: wheels[target].get(requirement) for target in wheels}
        shared: Files = {}
        try:
            if None in chosen.values():
                raise BuildError("not for all")
            for path in sorted({path for path in chosen.values() if path}):
                for name, content in unpack(path):
                    merge(shared, name, content, path.name)
            for name, content in shared.items():
                merge(files, f"lib/{name}", content, requirement.name)
            scripts |= programs(shared.items())
            continue
        except BuildError:
            if len(set(chosen.values())) == 1:
                raise
        for target, path in chosen.items():
            if path is not None:
                found = list(unpack(path))
                for name, content in found:
                    merge(files, f"{target.folder}/{name}", content, path.name)
                scripts |= programs(found)


def merge(files: Files, path: str, content: bytes, origin: str) -> None:
    """Add a file; refuse one that is there with other contents."""
    if files.setdefault(path, content) != content:
        raise BuildError(f"{origin}: {path} is already there with other contents")


def to_json(content: object) -> bytes:
    """As JSON files of an artifact are written."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
