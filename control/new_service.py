"""
A new service: a formula's directory laid out from service_template/, with its alert, runbook and
machine test. What only a person can write is marked, and the tests name each mark (tests/unit/control/test_new_service.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import UserError
from .paths import ROOT

TEMPLATE = Path(__file__).resolve().parent / "service_template"
# Of each file there, so that no tool takes it for what it is to be.
SUFFIX = ".in"
# The service's name in the template, and what stands where a person has to write.
PLACEHOLDER = "newservice"
MARK = "LEFT TO WRITE"
# Names that mean something else in the pillar, the logs or a template.
TAKEN = ("machine", "topology", "secrets", "system", "salt", "grains", "pillar", PLACEHOLDER)


def replace_name(text: str, name: str) -> str:
    return text.replace(PLACEHOLDER, name).replace(PLACEHOLDER.title(), name.title())


def lay_out(name: str, root: Path = ROOT) -> list[Path]:
    """
    Write the files of formula ``name`` below ``root``; their paths, relative to it. UserError, and nothing is
    written, for a name that no formula can have or that is there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]{1,19}", name):
        raise UserError(f"NAME={name}: allowed: a-z and 0-9, 2 to 20, such as NAME=memcached", 2)
    if name in TAKEN:
        raise UserError(f"NAME={name}: means something else here; choose another name", 2)
    sources = sorted(TEMPLATE.rglob(f"*{SUFFIX}"))
    targets = [
        Path(replace_name(str(path.relative_to(TEMPLATE)), name).removesuffix(SUFFIX))
        for path in sources
    ]
    there = [path for path in (Path("salt", name), *targets) if (root / path).exists()]
    if there:
        raise UserError(f"NAME={name}: {there[0]} is there already; nothing was written", 2)
    for source, target in zip(sources, targets, strict=True):
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        text = replace_name(source.read_text(encoding="utf-8"), name)
        (root / target).write_text(text, encoding="utf-8")
    return targets


def left_to_write(root: Path = ROOT) -> list[str]:
    """`FILE:LINE: what` of each mark in a formula."""
    return [
        f"{path.relative_to(root)}:{number}: {line.partition(f'{MARK}: ')[2]}"
        for path in sorted((root / "salt").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MARK in line
    ]
