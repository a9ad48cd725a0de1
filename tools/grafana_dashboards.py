#!/usr/bin/env python3
"""
docs/grafana/*.json from the formulas' own dashboard.yaml.

    tools/grafana_dashboards.py             write them
    tools/grafana_dashboards.py --check     fail when one is not what it would be
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "grafana"


def load_module() -> ModuleType:
    """The module by which a monitor makes its consoles from the same files."""
    sys.dont_write_bytecode = True
    path = ROOT / "salt" / "_modules" / "dashboards.py"
    spec = importlib.util.spec_from_file_location("dashboards", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_dashboards() -> dict[str, str]:
    """`{file name: text}` of every dashboard."""
    module = load_module()
    specs = {
        path.parent.name: module.complete(yaml.safe_load(path.read_text("utf-8")))
        for path in sorted((ROOT / "salt").glob(f"*/{module.FILE}"))
    }
    specs = {module.OVERVIEW: module.overview(specs), **specs}
    return {
        f"{name}.json": json.dumps(module.grafana(name, spec), indent=1, sort_keys=True) + "\n"
        for name, spec in specs.items()
    }


def main() -> int:
    wanted = make_dashboards()
    TARGET.mkdir(parents=True, exist_ok=True)
    there = {path.name: path.read_text("utf-8") for path in TARGET.glob("*.json")}
    differing = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if "--check" in sys.argv:
        if differing:
            print(f"docs/grafana: {', '.join(differing)}: not what salt/*/dashboard.yaml says")
            print("run .venv/bin/python tools/grafana_dashboards.py")
        return 1 if differing else 0
    for name in differing:
        if name in wanted:
            (TARGET / name).write_text(wanted[name], "utf-8")
        else:
            (TARGET / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
