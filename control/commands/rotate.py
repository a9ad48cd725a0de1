"""`make rotate`."""

from __future__ import annotations

import re

from .. import rotation
from ..command import make_command
from ..containers import lifecycle
from ..errors import UserError
from ..options import Options, refuse_narrowing
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Give a secret a new value, on every machine that has it.

    Both values are accepted until everybody uses the new one, so no moment is without one.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", options.secret):
        raise UserError("SECRET=name is needed, such as SECRET=redis-counter", 2)
    # A machine left out, or only shown, would be left without the new value once the old one is dropped.
    refuse_narrowing("rotate", "HOST", "TEST", "SLS")
    if topology.has_containers:
        return lifecycle.rotate_secret(topology, options.secret, options)
    return rotation.rotate_secret(topology, options.secret, options)


COMMAND = make_command(
    "rotate", run, "pillar", "verbose", secret="Name of the secret, such as redis-counter."
)
