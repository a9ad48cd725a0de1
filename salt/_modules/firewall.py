"""
For formula firewalld: what this machine lets in: every formula's own ``firewall.yaml.j2``, laid over by the pillar.

Called while states render, so a set of openings that is wrong, or that would close SSH, stops the
run before its first state. The format of an opening is described in salt/firewalld/README.md.
"""

import contextlib
import ipaddress
import json
import pwd
import re
import subprocess

from salt.exceptions import CommandExecutionError

__virtualname__ = "firewall"

_KEYS = {"port", "protocol", "from", "keep"}
_PROTOCOLS = ("tcp", "udp")
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


def _sources(given, where):
    """``any`` as None, else the addresses and networks that may come in; maybe none."""
    if given == "any":
        return None
    if isinstance(given, dict) and set(given) == {"role"}:
        role, roles = given["role"], __salt__["topology.roles"]()
        if role not in roles:
            _refuse(f"{where}: unknown role {role}; {__utils__['suggest.hint'](role, roles)}")
        own = __salt__["topology.machine"]()["name"]
        # A machine reaches itself over loopback, which is never closed.
        return [one["address"] for one in __salt__["topology.machines"](role) if one["name"] != own]
    if isinstance(given, dict) and set(given) == {"network"}:
        try:
            network = ipaddress.ip_network(given["network"])
        except ValueError as error:
            _refuse(f"{where}: {error}")
        if network.prefixlen == 0:
            _refuse(f"{where}: {network} is everybody: say 'from: any'")
        return [str(network)]
    return _refuse(f"{where}: from: {given!r}: use any, {{role: NAME}} or {{network: CIDR}}")


def _opening(given, where):
    """One opening, validated: ``{port, protocol, sources, keep}``."""
    if not isinstance(given, dict):
        _refuse(f"{where}: {given!r}: needs port, protocol and from")
    for key in sorted(set(given) - _KEYS):
        _refuse(f"{where}: unknown key {key}; {__utils__['suggest.hint'](key, sorted(_KEYS))}")
    for key in ("port", "protocol", "from"):
        if key not in given:
            _refuse(f"{where}: no {key}")
    port, protocol = given["port"], given["protocol"]
    if type(port) is not int or not 1 <= port <= 65535:
        _refuse(f"{where}: port {port!r}: use a number, 1..65535")
    if protocol not in _PROTOCOLS:
        _refuse(f"{where}: protocol {protocol!r}: use {' or '.join(_PROTOCOLS)}")
    return {
        "port": port,
        "protocol": protocol,
        "sources": _sources(given["from"], f"{where}: {protocol} {port}"),
        "keep": bool(given.get("keep")),
    }


def _listed(given, where):
    # Salt makes an empty map of a file that says nothing.
    if not given:
        return []
    if not isinstance(given, list):
        _refuse(f"{where}: needs a list of openings")
    return [_opening(one, where) for one in given]


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
    for everybody, else a list of addresses and networks.

    Raises CommandExecutionError for an opening that is wrong, and for a set that would close SSH.

    CLI Example:

    .. code-block:: bash

        salt-call firewall.openings
    """
    settings = __salt__["formula.settings"]("firewalld")
    said = {
        name: _listed(given, f"{name}/firewall.yaml.j2")
        for name, given in __salt__["formula.collect"]("firewall.yaml.j2").items()
    }
    kept = [one for listed in said.values() for one in listed if one["keep"]]
    for name, given in settings["replace"].items():
        if name not in said:
            _refuse(
                f"pillar firewalld:replace:{name}: opens nothing; {__utils__['suggest.hint'](name, list(said))}"
            )
        said[name] = _listed(given, f"pillar firewalld:replace:{name}")
    said["pillar"] = _listed(settings["openings"], "pillar firewalld:openings")
    found = [
        {"formula": name, **{key: one[key] for key in ("port", "protocol", "sources")}}
        for name, listed in said.items()
        for one in listed
        if one["sources"] is None or one["sources"]
    ]
    _never_lock_out(found, kept)
    return found


def _never_lock_out(found, kept):
    """Refuse a set that leaves the way in of the people who run this machine closed to all."""
    opened = {(one["protocol"], one["port"]) for one in found}
    if not kept:
        _refuse("no formula says which port is never to be closed (keep: true), so ssh might be")
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
    [{family, address, port, protocol}]}``.

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
    for formula, given in __salt__["formula.collect"]("loopback.yaml.j2").items():
        for one in given or []:
            where = f"{formula}/loopback.yaml.j2"
            if not isinstance(one, dict) or set(one) != {"port", "accounts"}:
                _refuse(f"{where}: {one!r}: needs port and accounts")
            if type(one["port"]) is not int or not 1 <= one["port"] <= 65535:
                _refuse(f"{where}: port {one['port']!r}: use a number, 1..65535")
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
