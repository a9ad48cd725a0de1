"""`make dashboard`: a tunnel to the monitor's pages, which are on its loopback only."""

from __future__ import annotations

import signal
import socket
import subprocess
import time

from . import lab
from .errors import Refused
from .topology import Topology

# The monitor's own ports, taken here too where they are free.
PORTS = {"Prometheus": 9090, "Alertmanager": 9093}


def free_port(wanted: int) -> int:
    """``wanted`` on this host's loopback, or any that is free."""
    for port in (wanted, 0):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(one.getsockname()[1])
    raise Refused("no TCP port is free on this host")


def command(where: Topology) -> int:
    if not lab.is_up(where):
        raise lab.not_up(where)
    monitors = where.with_role("monitor")
    if not monitors:
        raise Refused(f"topology {where.name} has no machine with role monitor")
    ports = {name: free_port(port) for name, port in PORTS.items()}
    words = ["ssh", "-F", str(lab.ssh_config(where)), "-N"]
    # A connection of its own: the one that is kept open would outlive Ctrl-C, tunnel and all.
    words += ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes"]
    for name, port in ports.items():
        words += ["-L", f"127.0.0.1:{port}:127.0.0.1:{PORTS[name]}"]
    # `kill` and a terminal that is closed end it as Ctrl-C does, tunnel and all.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    tunnel = subprocess.Popen([*words, monitors[0]], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not reached(ports["Prometheus"]):
            if tunnel.poll() is not None or time.monotonic() > deadline:
                raise Refused(f"no tunnel to {monitors[0]} (ssh's words are above)")
            time.sleep(0.1)
        print(f"http://127.0.0.1:{ports['Prometheus']}/consoles/overview.html", flush=True)
        print(f"the tunnel to {monitors[0]} is open until Ctrl-C", flush=True)
        return tunnel.wait()
    except KeyboardInterrupt:
        print("\nthe tunnel is closed")
        return 0
    finally:
        tunnel.terminate()
        tunnel.wait()


def reached(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
