"""Modules of this checkout that are in no package, such as those that machines use too: loaded by path."""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

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


def hint(value: str, known: list[str]) -> str:
    """``did you mean NAME?``, or where none is near all that there are; as machines say it."""
    text: str = load_module("salt/_utils/suggest.py").hint(value, known, "there are")
    return text
