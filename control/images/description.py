"""What an image is: one file of containers/images, checked against containers/image.schema.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..application import NAME
from ..by_path import hint, load_yaml
from ..errors import UserError
from ..paths import ROOT

FOLDER = ROOT / "containers" / "images"
SCHEMA = ROOT / "containers" / "image.schema.yaml"
# The file whose image is the application's, and bears its name.
APPLICATION = "application"


@dataclass(frozen=True)
class Description:
    """One image. The schema says what each is for; paths are inside of the image. ``key``: its file's name."""

    name: str
    key: str
    summary: str
    packages: tuple[str, ...]
    uid: int
    artifact: bool = False
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    folders: dict[str, str] = field(default_factory=dict)
    add: dict[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _read(path: Path, schema: dict[str, Any]) -> Description:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{_shown(path)}: not YAML: {problem}", 2) from error
    # A tenth of a second, which most commands need not wait for.
    import jsonschema

    known = list(schema["properties"])
    for key in value if isinstance(value, dict) else ():
        if key not in known:
            raise UserError(f"{_shown(path)}: {key}: no such key; {hint(str(key), known)}", 2)
    for wrong in jsonschema.Draft202012Validator(schema).iter_errors(value):
        place = ":".join(str(one) for one in wrong.path)
        raise UserError(f"{_shown(path)}: {place + ': ' if place else ''}{wrong.message}", 2)
    lists = {key: tuple(one) for key, one in value.items() if isinstance(one, list)}
    name = NAME if path.stem == APPLICATION else path.stem
    return Description(name=name, key=path.stem, **{**value, **lists})


def load(folder: Path = FOLDER) -> dict[str, Description]:
    """Every image by its name, in order; UserError, with file and key, for one that is not as the schema has it."""
    schema = load_yaml(SCHEMA)
    images = [_read(path, schema) for path in sorted(folder.glob("*.yaml"))]
    if not images:
        raise UserError(f"{_shown(folder)}: no image is described there", 2)
    users: dict[int, str] = {}
    for image in images:
        if (other := users.setdefault(image.uid, image.name)) != image.name:
            raise UserError(
                f"{_shown(folder)}: uid {image.uid} is {other}'s and {image.name}'s: each has its own",
                2,
            )
    return {image.name: image for image in images}
