"""A new value for a secret that machines have, with no moment in which one is refused."""

from __future__ import annotations

from . import apply, paths, ssh
from .credentials import shared_secrets
from .errors import OperationError, UserError
from .options import Options
from .topology import Topology


def rotate_secret(topology: Topology, name: str, options: Options) -> int:
    """A new value for secret ``name`` on every machine that has it; the exit code of the last apply. Old
    and new are both accepted until everybody uses the new one."""
    holders = [
        host
        for host in topology.machines
        if ssh.run(topology, host, f"test -e /etc/stack/secrets/{name} && echo yes || true").strip()
    ]
    if not holders:
        raise UserError(f"no machine of topology {topology.name} has a secret {name}")
    is_shared = len(topology.machines) > 1 and name in shared_secrets.read_declared(topology)

    def call_on_each(function: str) -> None:
        for host in holders:
            ssh.run(topology, host, f"cd {paths.PLACE} && salt-call secret.{function} {name}")

    if is_shared:
        # Machines get it with their pillar, those that accept it before those that use it.
        shared_secrets.rotate(topology, name)
    else:
        call_on_each("rotate")
    print(f"==> {name}: new value, the old one still valid", flush=True)
    code = apply.apply(topology, options)
    if code:
        raise OperationError(
            f"{name}: both values stay valid; mend the above and run this again", code
        )
    call_on_each("forget")
    if is_shared:
        shared_secrets.delete_previous(topology, name)
    print(f"==> {name}: dropping the old value", flush=True)
    return apply.apply(topology, options)
