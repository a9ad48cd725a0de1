"""Applying: this checkout's states and settings to the machines of a topology, or to this very one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import bundle, converge, fleet, local_state, machine_pillar, releases, stores
from .artifacts import build
from .cloud import addresses
from .errors import UserError
from .options import Options
from .paths import ROOT
from .topology import Topology, formula_roles


def apply(topology: Topology, options: Options, leaving: Sequence[str] = ()) -> int:
    """Converge the machines that ``options`` mean; the exit code. ``leaving``: machines that are no longer
    in the topology and are about to be removed."""
    words = options.apply_arguments
    if options.host == "local":
        return apply_here(topology, [*filter(None, [options.sls]), *words], options)
    hosts = [topology.machine(options.host).name] if options.host else list(topology.machines)
    formulas: dict[str, list[str]] = {}
    if options.sls:
        formulas = filter_by_formula(topology, hosts, options.sls)
        hosts = list(formulas)
    if not local_state.is_up(topology):
        raise local_state.not_up(topology, ", or HOST=local to converge this very machine")
    if formulas and len(formulas) < len(topology.machines):
        print(f"{options.sls}: on {', '.join(formulas)}", flush=True)
    addresses.warn_of_changed_topology(topology)
    machine_pillar.check_files(topology)
    if "test=True" not in words:
        stores.refuse_while_missing(topology, hosts, "apply")
    release = build.build_artifact(options)
    left_over = converge.refuse_add_and_remove(topology, is_booted=True)
    new, failed = converge.prepare_machines(topology, hosts, release, options, is_quiet=True)
    failed |= converge.converge_machines(
        topology,
        [host for host in hosts if host not in failed],
        words,
        formulas,
        new,
        bool(leaving or left_over),
        failed,
        options.force,
    )
    if left_over:
        print(
            f"no longer in the topology, and still there: {', '.join(left_over)}; 'make up' removes it"
        )
    releases.warn_of_other_releases(topology, release)
    return report_failed(topology, hosts, failed)


def apply_here(topology: Topology, words: list[str], options: Options) -> int:
    """Converge this very machine from this checkout: a bare server without any controller."""
    if os.geteuid() != 0:
        raise UserError("HOST=local converges this very machine and needs root: use sudo")
    name = socket.gethostname()
    if name not in topology.machines:
        if len(topology.machines) > 1:
            raise UserError(
                f"HOST=local: this host is called {name}, which is no machine of topology"
                f" {topology.name} ({', '.join(topology.machines)}): set its name, or TOPOLOGY",
                2,
            )
        name = next(iter(topology.machines))
    machine_pillar.check_files(topology)
    bundle.write_identity(topology, name, build.build_artifact(options))
    for command in (["bootstrap.sh"], ["converge", *words]):
        code = subprocess.run(
            [str(ROOT / "bootstrap" / command[0]), *command[1:]], cwd=ROOT, check=False
        ).returncode
        if code:
            break
    if Path(converge.UNCONFIRMED).exists():
        print(
            "the firewall has changed: run 'sudo firewall-confirm' from a NEW ssh connection to this"
            " machine, or the rules before come back by themselves ('sudo firewall-confirm --status')",
            file=sys.stderr,
        )
    if not code and "test=True" not in words:
        print("\n  curl --cacert /etc/stack/pki/ca.pem https://localhost/")
    return code


def filter_by_formula(
    topology: Topology, hosts: Sequence[str], formulas: str
) -> dict[str, list[str]]:
    """
    Those of ``hosts`` whose roles bring one of ``formulas`` (with commas, as ``state.apply`` takes
    them), each with its own ones as argument. UserError when none has any, or nobody knows one.
    """
    roles = formula_roles()
    wanted = [name.strip() for name in formulas.split(",") if name.strip()]
    for name in wanted:
        if name.split(".")[0] not in roles:
            raise UserError(
                f"SLS={name}: no formula of salt/top.sls, which has {', '.join(roles)}", 2
            )

    def has_formula(host: str, name: str) -> bool:
        role = roles[name.split(".")[0]]
        return role is None or role in topology.machines[host].roles

    chosen = {host: [name for name in wanted if has_formula(host, name)] for host in hosts}
    arguments = {host: [",".join(names)] for host, names in chosen.items() if names}
    if not arguments:
        raise UserError(
            f"SLS={formulas}: nothing for {', '.join(hosts)}, by roles (salt/top.sls)", 2
        )
    return arguments


def report_failed(topology: Topology, hosts: Sequence[str], failed: Mapping[str, int]) -> int:
    """The exit code of all; with several machines also a line on stderr that names who failed."""
    if failed and len(hosts) > 1:
        names = ", ".join(host for host in fleet.order(topology, hosts) if host in failed)
        print(f"{len(failed)} of {len(hosts)} machines failed: {names}", file=sys.stderr)
    return max(failed.values(), default=0)
