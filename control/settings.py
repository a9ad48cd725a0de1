"""What the pillar of a topology sets, as far as it is plain YAML: pillar/settings.sls and settings/TOPOLOGY.sls."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from typing import Any

import yaml

from .errors import UserError
from .paths import ROOT
from .topology import Topology


def read(topology: Topology) -> dict[str, Any]:
    """What the pillar sets, the topology's own over the common ones. UserError for a template, and for what is no YAML."""
    found: dict[str, Any] = {}
    for path, text in _texts(topology):
        if _is_template(text):
            raise UserError(
                f"{path}: not plain YAML, so nobody knows whose secrets it names: a template,"
                " which only Salt reads"
            )
        found = merge(found, _parse(path, text))
    return found


def check(topology: Topology) -> None:
    """UserError with file and line for settings that are no YAML: Salt names neither. A template is Salt's to judge."""
    for path, text in _texts(topology):
        if not _is_template(text):
            _parse(path, text)


def _texts(topology: Topology) -> Iterator[tuple[str, str]]:
    for path in ("pillar/settings.sls", f"pillar/settings/{topology.name}.sls"):
        with contextlib.suppress(FileNotFoundError):
            yield path, (ROOT / path).read_text(encoding="utf-8")


def _is_template(text: str) -> bool:
    return text.startswith("#!") or bool(re.search(r"{[{%#]", text))


def _parse(path: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = error.problem or error.context or "not YAML"
        reason = "a tab; use spaces" if r"'\t'" in problem else problem
        raise UserError(f"{path}{line}: {reason}", 2) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}", 2) from error


def merge(under: dict[str, Any], over: Any) -> dict[str, Any]:
    """As Salt merges pillars: maps by key, all else replaced."""
    merged = copy.copy(under)
    for key, value in (over if isinstance(over, dict) else {}).items():
        inner = merged.get(key)
        merged[key] = (
            merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return merged
