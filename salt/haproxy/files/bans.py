#!/usr/bin/python3
"""
Makes HAProxy refuse whom the firewall shuts out from the site: of a client behind a balancer the firewall sees
the balancer's address alone.

    haproxy-bans SOCKET PORT      SOCKET: HAProxy's administration socket; PORT: of the site

The bans are the kernel's (`nft list table inet fail2ban`): a client is banned from the site when a rule that drops
or rejects packets to its port holds for it. HAProxy's table `banned` is made equal to that at each change that the
kernel tells of (netlink(7), NFNLGRP_NFTABLES), and every ten seconds, as a HAProxy that was restarted has forgotten.
"""

import argparse
import contextlib
import ipaddress
import json
import os
import select
import socket
import subprocess

TABLE = ("list", "table", "inet", "fail2ban")
NETLINK_NETFILTER, NFNLGRP_NFTABLES = 12, 7
SECONDS = 10
# Commands in one line to HAProxy: within its buffer of 16 KiB.
AT_ONCE = 100


def clients(elements):
    """Keys of HAProxy's table for the elements of a set: IPv4 as mapped to IPv6, IPv6 by its network."""
    found = set()
    for one in elements:
        value = one["elem"]["val"] if isinstance(one, dict) and "elem" in one else one
        if isinstance(value, dict) and "prefix" in value:
            value = value["prefix"]["addr"]
        if isinstance(value, str):
            found.add(key(value))
    return found


def key(text):
    address = ipaddress.ip_address(text)
    return ipaddress.IPv6Address(f"::ffff:{address}") if address.version == 4 else address


def is_for(match, port):
    """Whether a rule's match on the packet's port holds for ``port``; True for any other match."""
    if match["left"].get("payload", {}).get("field") != "dport":
        return True
    ports = match["right"]
    return port in (ports["set"] if isinstance(ports, dict) else [ports])


def banned(ruleset, port):
    """Keys of all clients that a ruleset (nft's JSON) shuts out from a TCP port."""
    parts = ruleset["nftables"]
    sets = {
        f"@{one['set']['name']}": clients(one["set"].get("elem", ()))
        for one in parts
        if "set" in one
    }
    found = set()
    for rule in (one["rule"]["expr"] for one in parts if "rule" in one):
        matches = [one["match"] for one in rule if "match" in one]
        # Others' right side may be a list of ports or addresses.
        rights = [one["right"] for one in matches if isinstance(one["right"], str)]
        named = [sets[name] for name in rights if name in sets]
        closes = any("drop" in one or "reject" in one for one in rule)
        if closes and named and all(is_for(one, port) for one in matches):
            found |= set.intersection(*named)
    return found


def read_bans(port):
    """As above, of the machine; none without such a table, as where fail2ban is stopped."""
    done = subprocess.run(["/usr/sbin/nft", "-j", *TABLE], capture_output=True, text=True)
    if done.returncode:
        if "No such file" not in done.stderr:
            raise OSError(f"nft: {done.stderr.strip()}")
        return set()
    return banned(json.loads(done.stdout), port)


def ask(path, command):
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(path)
        admin.sendall(command.encode() + b"\n")
        return admin.makefile(encoding="utf-8").read()


def held(path):
    """Keys of HAProxy's table."""
    words = (word for line in ask(path, "show table banned").splitlines() for word in line.split())
    return {
        ipaddress.IPv6Address(word.removeprefix("key="))
        for word in words
        if word.startswith("key=")
    }


def synchronize(path, wanted):
    have = held(path)
    commands = [f"set table banned key {one}" for one in sorted(wanted - have)]
    commands += [f"clear table banned key {one}" for one in sorted(have - wanted)]
    for start in range(0, len(commands), AT_ONCE):
        ask(path, ";".join(commands[start : start + AT_ONCE]))
    return len(commands)


def tell_systemd(text):
    """sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("socket", help="HAProxy's administration socket")
    parser.add_argument("port", type=int, help="of the site")
    options = parser.parse_args()
    path, port = options.socket, options.port
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as events:
        events.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
        events.setblocking(False)
        while True:
            wanted = read_bans(port)
            # A HAProxy that is not there has forgotten all: it is told when it is back.
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                if changed := synchronize(path, wanted):
                    print(f"{changed} changed, {len(wanted)} banned", flush=True)
            tell_systemd("READY=1")
            select.select([events], [], [], SECONDS)
            # Whatever was told, or lost (ENOBUFS): all is looked at again.
            with contextlib.suppress(OSError):
                while events.recv(65536):
                    pass


if __name__ == "__main__":
    main()
