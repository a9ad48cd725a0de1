"""
What is asked of a machine by a program that is there: Salt's functions where packages run the services, programs of the
host's own where containers do (containers/host). Both answer alike.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from . import paths
from .application import Application
from .topology import Topology


def salt_call(function: str) -> str:
    """One of Salt's functions on a machine that has it, as JSON below ``local``."""
    return f"cd {paths.PLACE} && {paths.SALT_CALL} --out=json {function}"


def services(topology: Topology) -> str:
    """The table of a machine's services, as JSON below ``local``."""
    if topology.has_containers:
        return "stack-status"
    # A tree from before there was one that loads no Salt has none.
    instead = f"{paths.SALT_CALL} --out=json report.services"
    return f"cd {paths.PLACE} && if [ -x bootstrap/status ]; then exec bootstrap/status; else {instead}; fi"


def releases(topology: Topology, app: Application) -> str:
    """What runs, could run and ran, as JSON below ``local``."""
    return (
        f"stack-roll --overview {app.name}"
        if topology.has_containers
        else salt_call(f"release.overview {app.name}")
    )


def maintenance(topology: Topology, on: bool) -> str:
    """The edge's own page instead of the applications, or no longer."""
    if topology.has_containers:
        return f"stack-maintenance {'on' if on else 'off'}"
    return salt_call(f"maintenance.switch {'true' if on else 'false'}")


def record_refusal(topology: Topology, app: Application, request: Mapping[str, str]) -> str:
    """A line in the machine's record of deploys."""
    encoded = f"STACK_DEPLOY={shlex.quote(json.dumps(dict(request)))}"
    if topology.has_containers:
        return f"{encoded} stack-roll --refused {app.name}"
    return f"cd {paths.PLACE} && {encoded} {paths.SALT_CALL} record.refused {app.name}"


def roll(
    topology: Topology, app: Application, request: Mapping[str, str], words: Sequence[str]
) -> str:
    """The application brought to the requested release, with progress; ``words``: of bootstrap/converge."""
    encoded = f"STACK_DEPLOY={shlex.quote(json.dumps(dict(request)))}"
    if topology.has_containers:
        return f"{encoded} exec stack-roll {app.name}"
    command = shlex.join([f"{paths.PLACE}/bootstrap/converge", app.formula, *words])
    return f"cd {paths.PLACE} && {encoded} exec {command}"
