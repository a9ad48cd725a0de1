"""`make cloud-plan`."""

from __future__ import annotations

from ..cloud import account, plan
from ..command import make_command
from ..options import Options
from ..topology import Topology


def run(topology: Topology, _: Options) -> int:
    """Show what cloud-up would create, change and destroy, and what it costs."""
    with account.report_api_errors():
        print(plan.describe(topology, plan.make_plan(account.connect(), topology)))
    return 0


COMMAND = make_command("cloud-plan", run, is_as_written=True)
