"""`python -m control export-state`."""

from __future__ import annotations

import sys

from .. import controller_state
from ..command import make_command
from ..options import Options
from ..topology import Topology

# Characters that GitLab takes in a variable.
LARGEST = 10_000


def run(topology: Topology, _: Options) -> int:
    """Print what another checkout needs to reach a topology's machines.

    A text for import-state there: for a second controller, a pipeline's variable DEPLOY_STATE, or, sealed, for
    the loss of this controller. It is as secret as the machines are.
    """
    text = controller_state.export_state(topology)
    if len(text) > LARGEST:
        print(
            f"{len(text)} characters, and GitLab takes {LARGEST} in a variable: run the"
            " pipeline's deploys on the controller instead",
            file=sys.stderr,
        )
    print(text, end="")
    return 0


COMMAND = make_command("export-state", run, is_as_written=True)
