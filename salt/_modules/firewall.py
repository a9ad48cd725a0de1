"""
For formula firewalld: what this machine lets in: every formula's own ``firewall.yaml.j2``, laid over by the pillar.

Called while states render, so a set of openings that would close SSH stops the run before its first
state. The format of an opening is salt/_schemas/firewall.schema.yaml.
"""

import contextlib
import ipaddress
import json
import pwd
import re
import subprocess

from salt.exceptions import CommandExecutionError

__virtualname__ = "firewall"

# Whether ufw filters (ufw(8)); units of the others that load rules of their own at boot.
_UFW = "/etc/ufw/ufw.conf"
_OTHERS = tuple(
    f"{name}.service"
    for name in (
        *("nftables", "netfilter-persistent", "iptables", "ip6tables", "ferm", "shorewall"),
        *("shorewall6", "arno-iptables-firewall", "apf-firewall", "firehol"),
    )
)


def __virtual__():
    return __virtualname__


def _refuse(reason):
    raise CommandExecutionError(f"refused: the firewall: {reason}; nothing was changed")


def _sources(given):
    """``any`` as None, else the addresses and networks that may come in; maybe none."""
    if given == "any":
        return None
    if given == "balancer":
        balancer = __salt__["topology.balancer"]() or {"from": ()}
        return [str(ipaddress.ip_network(one)) for one in balancer["from"]]
    if "network" in given:
        return [str(ipaddress.ip_network(given["network"]))]
    own = __salt__["topology.machine"]()["name"]
    # A machine reaches itself over loopback, which is never closed.
    machines = __salt__["topology.machines"](given["role"])
    return [one["address"] for one in machines if one["name"] != own]


def _sshd_ports():
    """TCP ports on which this machine's sshd is configured to listen now; empty if unknown."""
    try:
        done = subprocess.run(
            ["/usr/sbin/sshd", "-T"],
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return set()
    words = [line.split() for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {int(line[1]) for line in words if line[:1] == ["port"] and len(line) == 2}


def openings():
    """
    Everything this machine lets in: ``[{formula, port, protocol, sources}]``; ``sources`` is None
    for everybody, else a list of addresses and networks; ``port`` is 0 for a protocol that has none.

    Raises CommandExecutionError for a set that would close SSH.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.openings
    """
    settings = __salt__["formula.settings"]("firewalld")
    listed = {
        name: given or [] for name, given in __salt__["formula.collect"]("firewall.yaml.j2").items()
    }
    kept = [one for entries in listed.values() for one in entries if one.get("always_open")]
    for name, instead in settings["replace"].items():
        if name not in listed:
            near = __salt__["schemas.nearest"](name, list(listed))
            _refuse(
                f"pillar firewalld:replace:{name}: opens nothing; {near}known: {', '.join(listed)}"
            )
        listed[name] = instead
    listed["pillar"] = settings["openings"]
    found = [
        {
            "formula": name,
            # Of a protocol without ports, 0.
            "port": one.get("port", 0),
            "protocol": one["protocol"],
            "sources": _sources(one["from"]),
        }
        for name, entries in listed.items()
        for one in entries
    ]
    found = [one for one in found if one["sources"] is None or one["sources"]]
    _never_lock_out(found, kept)
    return found


def _never_lock_out(found, kept):
    """Refuse a set that leaves the way in of the people who run this machine closed to all."""
    opened = {(one["protocol"], one["port"]) for one in found}
    if not kept:
        _refuse(
            "no formula says which port is never to be closed (always_open: true), so ssh might be"
        )
    for one in kept:
        if (one["protocol"], one["port"]) not in opened:
            _refuse(f"{one['protocol']} {one['port']} (ssh) would be closed to everybody")
    listening = _sshd_ports()
    if listening and not any(("tcp", port) in opened for port in listening):
        ports = ", ".join(map(str, sorted(listening)))
        _refuse(f"sshd listens on tcp {ports}, which would be closed to everybody")


def others():
    """
    What decides beside firewalld what comes in, now or from the next boot on: ``{name: how to end
    it}``; as a rule nothing.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.others
    """
    # Debian's ufw.service is enabled and active also where ufw filters nothing.
    found = {"ufw": "ufw disable"} if _enabled_ufw() else {}
    said = _output("systemctl", "show", "-p", "Id,ActiveState,UnitFileState", *_OTHERS)
    for block in said.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if unit.get("ActiveState") == "active" or unit.get("UnitFileState") == "enabled":
            name = unit["Id"].removesuffix(".service")
            found[name] = f"systemctl disable --now {name}"
    # Rules that nobody's unit has loaded, but a script of the network's, say.
    return found or dict.fromkeys(_closed_chains(), "take them out of what loads them, and reboot")


def _enabled_ufw():
    try:
        with open(_UFW, encoding="utf-8") as file:
            return bool(re.search(r"(?mi)^\s*ENABLED\s*=\s*[\"']?yes", file.read()))
    except OSError:
        return False


def _closed_chains():
    """Chains of others that drop what comes in unless they let it in themselves."""
    listed = _output("nft", "-j", "list", "chains")
    if listed:
        chains = [one["chain"] for one in json.loads(listed)["nftables"] if "chain" in one]
        return [
            f"nft's table {one['family']} {one['table']}"
            for one in chains
            if one.get("hook") == "input"
            and one.get("policy") == "drop"
            and not one["table"].startswith(("firewalld", "stack_"))
        ]
    programs = ("iptables", "ip6tables")
    return [
        f"{one} -P INPUT DROP"
        for one in programs
        if _output(one, "-S", "INPUT").startswith("-P INPUT DROP")
    ]


def _output(*words):
    """What a program says on stdout; nothing when it is not here or fails."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def refuse_others():
    """
    Raises CommandExecutionError while another firewall is active: what ours opens, the other would
    keep closed, and nobody would reach the site.
    """
    found = others()
    if found:
        _refuse(
            f"{', '.join(found)} would close on this machine what firewalld opens: note which of its"
            " openings you need (pillar firewalld:openings; ssh and the site are there already), end"
            f" it ({' && '.join(dict.fromkeys(found.values()))}), then apply again"
        )


def zone():
    """
    The openings as a zone has them, sorted, each once: ``{ports: [{port, protocol}], rules:
    [{family, address, port, protocol}]}``; ``port`` is 0 for a protocol that has none.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.zone
    """
    found = openings()
    ports = {(one["port"], one["protocol"]) for one in found if one["sources"] is None}
    rules = {
        (f"ipv{ipaddress.ip_network(source).version}", source, one["port"], one["protocol"])
        for one in found
        for source in one["sources"] or ()
        if (one["port"], one["protocol"]) not in ports
    }
    return {
        "ports": [{"port": port, "protocol": protocol} for port, protocol in sorted(ports)],
        "rules": [
            dict(zip(("family", "address", "port", "protocol"), rule, strict=True))
            for rule in sorted(rules)
        ],
    }


def loopback():
    """
    TCP ports on loopback that only some accounts may connect to, from each formula's own
    ``loopback.yaml.j2``: ``[{port, uids}]``, sorted. Root's is always among them; an account that this
    machine has not got is left out.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.loopback
    """
    found = {}
    for given in __salt__["formula.collect"]("loopback.yaml.j2").values():
        for one in given or []:
            found.setdefault(one["port"], {0}).update(_uids(one["accounts"]))
    return [{"port": port, "uids": sorted(uids)} for port, uids in sorted(found.items())]


def _uids(accounts):
    for name in accounts:
        with contextlib.suppress(KeyError):
            yield pwd.getpwnam(name).pw_uid


def own_kernel_log():
    """
    Whether what the kernel logs of this machine's packets can be read on this machine: not in a
    container, whose kernel is the host's (nf_log_all_netns is 0).

    CLI Example:

    .. code-block:: bash

        salt-call firewall.own_kernel_log
    """
    kinds = {str(__grains__.get(key, "")).lower() for key in ("virtual", "virtual_subtype")}
    return not kinds & {"container", "lxc", "docker", "podman", "systemd-nspawn", "kubernetes"}
