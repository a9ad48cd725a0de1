"""
Several edges under one address. A floating one (salt/keepalived): who has it, who could take it, and moving it on
purpose. A balancer's, which uses every edge that is ready (salt/haproxy).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import ssh
from .errors import ControlError, OperationError, UserError
from .topology import Topology

_STATE = "/usr/local/sbin/floating-address state"
_READY = "/usr/local/sbin/edge-ready"


def shares_address(topology: Topology) -> bool:
    return topology.floating_address is not None


def ask(topology: Topology, edge: str) -> tuple[bool, str]:
    """Whether an edge serves, or has the address or could take it, and what it says of itself."""
    command = _READY if topology.balancer else _STATE
    try:
        said = ssh.run(topology, edge, f"{command} 2>/dev/null || true").strip()
    except ControlError:
        return False, "unreachable"
    return said.startswith(("has ", "stands by ", "ready")), said or "not converged yet"


def has_address(topology: Topology, edge: str) -> bool:
    return ask(topology, edge)[1] == f"has {topology.floating_address}"


def standby_first(topology: Topology, hosts: Iterable[str]) -> list[str]:
    """``hosts`` in their order, but the edge that has the address last: what breaks an edge is then seen on one
    that serves nobody."""
    chosen = list(hosts)
    if not shares_address(topology) or len(set(topology.with_role("edge")) & set(chosen)) < 2:
        return chosen
    return sorted(
        chosen,
        key=lambda host: "edge" in topology.machines[host].roles and has_address(topology, host),
    )


def reason_to_wait(topology: Topology, group: Sequence[str]) -> str:
    """
    Why these machines must stay as they are: an edge among them serves, and no other could meanwhile. Empty
    where there is no such reason; an edge that is broken is nobody's loss.
    """
    if not topology.entrance:
        return ""
    edges = topology.with_role("edge")
    concerned = [edge for edge in edges if edge in group]
    if not concerned or not any(ask(topology, edge)[0] for edge in concerned):
        return ""
    answers = {edge: ask(topology, edge) for edge in edges if edge not in group}
    if any(is_fit for is_fit, _ in answers.values()):
        return ""
    others = "; ".join(f"{edge}: {said}" for edge, (_, said) in answers.items())
    return f"no other edge could serve meanwhile ({others}): mend that first, or FORCE=1"


def fail_over(topology: Topology) -> str:
    """Move the address to another edge, without a lost request; what came of it, in words."""
    if topology.balancer:
        raise UserError(
            f"topology {topology.name} has a balancer, which uses every edge that is ready: 'systemctl stop haproxy' on"
            " one takes it out without a lost request"
        )
    if not shares_address(topology):
        raise UserError(
            f"topology {topology.name} has no floating_address, so there is no other edge to move it to"
        )
    edges = topology.with_role("edge")
    answers = {edge: ask(topology, edge) for edge in edges}
    owner = f"has {topology.floating_address}"
    owners = [edge for edge, (_, said) in answers.items() if said == owner]
    said = "; ".join(f"{edge}: {text}" for edge, (_, text) in answers.items())
    if len(owners) != 1:
        raise OperationError(f"not one edge has {topology.floating_address} ({said})")
    if not any(is_fit for edge, (is_fit, _) in answers.items() if edge not in owners):
        raise UserError(f"no other edge could take {topology.floating_address} ({said})")
    answer = ssh.run(topology, owners[0], "/usr/local/sbin/floating-address handover").strip()
    taken = [edge for edge in edges if edge not in owners and has_address(topology, edge)]
    if not taken:
        raise OperationError(f"{owners[0]}: {answer}, but no other edge has it: see 'make status'")
    cut = "".join(f" ({line})" for line in answer.splitlines() if line.startswith("cut "))
    return f"{topology.floating_address}: {owners[0]} -> {taken[0]}{cut}"
