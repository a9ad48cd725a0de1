"""
The firewall: whether firewalld answers on the bus, and what was denied, from the counters beside
its rules (denied.nft), which are there also while it is not.
"""

import json
import subprocess

PING = (
    "busctl", "--timeout=3", "--quiet", "--auto-start=no", "call", "org.fedoraproject.FirewallD1",
    "/org/fedoraproject/FirewallD1", "org.freedesktop.DBus.Peer", "Ping",
)  # fmt: skip
COUNTERS = ("nft", "--json", "list", "counters", "table", "inet", "stack_denied")


def run(words):
    return subprocess.run(words, capture_output=True, text=True, timeout=5, check=False)


def denied(text):
    """``(packets, bytes)`` that arrived and were not accepted, of nft's JSON."""
    found = {
        one["counter"]["name"]: one["counter"]
        for one in json.loads(text)["nftables"]
        if "counter" in one
    }
    # The two are not read in the same instant.
    return tuple(
        max(0, found["arrived"][key] - found["accepted"][key]) for key in ("packets", "bytes")
    )


def read(settings):
    yield "up", int(run(PING).returncode == 0)
    counters = run(COUNTERS)
    if counters.returncode:
        raise RuntimeError(f"nft: {counters.stderr.strip()[:200]}")
    packets, size = denied(counters.stdout)
    yield "denied_packets", packets
    yield "denied_bytes", size
