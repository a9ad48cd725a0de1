"""`make restore`."""

from __future__ import annotations

from .. import backups
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, options: Options) -> int:
    """Bring a backup back into the store, or into an application's state folder; asks before it does.

    Shows the backups and what runs. With --test it is a drill, which does all but the change.
    """
    return backups.restore(topology, backups.choose_host(topology, options.host), options)


COMMAND = make_command(
    "restore",
    run,
    "yes",
    "identity",
    host="The store, where there are several.",
    version="Name of the backup; by default the last one.",
    app="The state folder of this application, instead of the store.",
    test="A drill: all but the change.",
    force="Also one that is older, smaller or another's.",
)
