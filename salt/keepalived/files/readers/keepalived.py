"""
The floating address: whether this machine has it, and whether keepalived is there to take it.
"""

import socket
import subprocess


def has(address):
    """Whether it is an address of this machine: any other can't be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def read(settings):
    yield "has_address", int(has(settings["address"]))
    words = ("systemctl", "is-active", "--quiet", "keepalived")
    yield "ready", int(subprocess.run(words, timeout=5, check=False).returncode == 0)
