"""What the pillar of a topology sets, as far as it is plain YAML: pillar/settings.sls and settings/TOPOLOGY.sls."""

from __future__ import annotations

import copy
import re
from typing import Any

import yaml

from .errors import UserError
from .paths import ROOT
from .topology import Topology


def read(topology: Topology) -> dict[str, Any]:
    """What the pillar sets, the topology's own over the common ones. UserError for a template."""
    found: dict[str, Any] = {}
    for path in ("settings.sls", f"settings/{topology.name}.sls"):
        try:
            text = (ROOT / "pillar" / path).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        try:
            if text.startswith("#!") or re.search(r"{[{%#]", text):
                raise yaml.YAMLError("a template, which only Salt reads")
            found = merge(found, yaml.safe_load(text) or {})
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"pillar/{path}: not plain YAML, so nobody knows whose secrets it names: {reason}"
            ) from error
    return found


def merge(under: dict[str, Any], over: Any) -> dict[str, Any]:
    """As Salt merges pillars: maps by key, all else replaced."""
    merged = copy.copy(under)
    for key, value in (over if isinstance(over, dict) else {}).items():
        inner = merged.get(key)
        merged[key] = (
            merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return merged
