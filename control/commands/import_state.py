"""`python -m control import-state FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import controller_state, local_state
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Make this checkout one that reaches a topology's machines.

    FILE is what export-state gave; - is standard input.
    """
    given = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    controller_state.import_state(topology, given)
    names = ", ".join(local_state.recorded_machines(topology) or topology.machines)
    print(f"this checkout reaches topology {topology.name}: {names}")
    return 0


COMMAND = make_command("import-state", run, arguments=["file"], is_as_written=True)
