"""`make up`."""

from __future__ import annotations

import time

from .. import converge, endpoint, fleet, local_state, machine_pillar, releases, status
from ..application import NAME
from ..artifacts import build
from ..cloud import addresses
from ..command import make_command
from ..containers import lifecycle
from ..errors import OperationError
from ..lab import box, containers, host, network, vagrant
from ..options import Options
from ..steps import Steps
from ..topology import Topology

# Seconds that what was started a moment ago has until it must say that it is healthy.
HEALTHY_WITHIN = 30


def wait_until_healthy(topology: Topology) -> tuple[str, bool]:
    """The table of all services, and whether all are healthy: as soon as they are, or after HEALTHY_WITHIN."""
    began = time.monotonic()
    while True:
        table, healthy, _ = status.table(topology)
        if healthy or time.monotonic() - began > HEALTHY_WITHIN:
            return table, healthy
        time.sleep(1)


def run(topology: Topology, options: Options) -> int:
    """Make the machines of a topology and converge them.

    They are made in the lab on this computer, by Vagrant; what is there already is kept, what is stopped is
    started. Ends with a table of all services and the URL.
    """
    addresses.refuse_cloud(topology)
    steps = Steps(6)
    if topology.has_containers:
        lifecycle.up(topology, options, steps)
        return _finish(topology, steps)
    removed = converge.refuse_add_and_remove(topology)
    machine_pillar.check_files(topology)
    provider = vagrant.choose_provider(topology, options)
    suite = vagrant.choose_suite(topology, options)
    steps.begin("packages", f"host packages (provider {provider})")
    if provider == "lxc":
        with host.lock_host():
            host.install_packages()
            host.raise_inotify_limit()
    steps.begin("box", f"base box {suite}")
    if provider == "lxc":
        with host.lock_host():
            box.ensure_box(suite, options)
    steps.begin("artifact", "artifact of the application")
    release = build.build_artifact(options)
    print(f"  {NAME} {release}", flush=True)
    steps.begin("boot", f"machines: {', '.join(topology.machines)}")
    if provider == "lxc":
        with host.lock_host():
            network.ensure_network(topology)
            containers.take_ownership(topology)
    vagrant.bring_up(topology, options)
    steps.begin("salt", "Salt on the machines")
    new, failed = converge.prepare_machines(topology, list(topology.machines), release, options)
    steps.begin("states", "states")
    failed |= converge.converge_machines(
        topology,
        [name for name in topology.machines if name not in failed],
        [],
        new=new,
        edges_first=bool(removed),
        known=failed,
    )
    if failed:
        raise OperationError(
            f"{', '.join(fleet.order(topology, failed))}: not converged (see above); mend it and run"
            " 'make up' again",
            max(failed.values()),
        )
    converge.remove_machines(topology, removed, options)
    local_state.record_topology(topology)
    releases.warn_of_other_releases(topology, release)
    return _finish(topology, steps)


def _finish(topology: Topology, steps: Steps) -> int:
    """The table of all services and the URL; 1 where one is unhealthy."""
    curl = endpoint.curl_line(topology)
    table, healthy = wait_until_healthy(topology)
    url = endpoint.url(topology)
    print(f"\n{table}\n\n{steps.summary()}\n\n  {curl}\n\n{url}")
    return 0 if healthy else 1


COMMAND = make_command("up", run, "suite", "provider")
