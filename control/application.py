"""The application that runs on the stack: its name, and the formula that brings it."""

from __future__ import annotations

import yaml

from .paths import ROOT
from .topology import formula_roles

# The formula that salt/top.sls gives to the application machines.
FORMULA = next(formula for formula, role in formula_roles().items() if role == "app")
# What its releases, units and records are called, unless its pillar says otherwise.
NAME = str(
    yaml.safe_load((ROOT / "salt" / FORMULA / "defaults.yaml").read_text(encoding="utf-8"))["name"]
)
