"""What this checkout has for machines, and the controller uses too, by its path: modules that are in no package, and YAML."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from .paths import ROOT


@functools.cache
def load_module(path: str) -> ModuleType:
    """The module at ``path`` of the checkout, such as ``salt/_utils/suggest.py``."""
    spec = importlib.util.spec_from_file_location(
        path.rpartition("/")[2].removesuffix(".py"), ROOT / path
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_yaml(path: str | Path) -> Any:
    """What a file of the checkout says: each command reads some before it begins."""
    return parse_yaml((ROOT / path).read_text(encoding="utf-8"))


def parse_yaml(text: str) -> Any:
    """By the parser in C where there is one, which is ten times as fast and explains an error in other words."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def hint(value: str, known: list[str]) -> str:
    """``did you mean NAME?``, or where none is near all that there are; as machines say it."""
    text: str = load_module("salt/_utils/suggest.py").hint(value, known, "there are")
    return text
