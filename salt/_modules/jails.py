"""
For formula fail2ban: jails of this machine, from each formula's own ``jail.yaml.j2``; its format is
salt/_schemas/jail.schema.yaml. fail2ban's own check lets ``maxretry = banana`` pass.
"""

import re

from salt.exceptions import CommandExecutionError

__virtualname__ = "jails"


def __virtual__():
    return __virtualname__


def collect(changes=None):
    """
    ``{jail: {enabled, filter, journal, ports, maxretry, findtime, bantime}}`` of this machine.

    changes
        ``{jail: {enabled, maxretry, findtime, bantime}}`` from the pillar

    Raises CommandExecutionError, naming formula and jail, for a name that two formulas use.

    CLI Example:

    .. code-block:: bash

        salt-call jails.collect
    """
    found = {}
    for formula, jails in __salt__["formula.collect"]("jail.yaml.j2").items():
        for name, given in (jails or {}).items():
            if name in found:
                raise CommandExecutionError(
                    f"{formula}/jail.yaml.j2: {name}: another formula has a jail of this name"
                )
            change = (changes or {}).get(name) or {}
            found[name] = {"enabled": True, "filter": name, **given, **change}
    return found


def attacked(jails):
    """
    Jails that note who attacked what, so that a recidivist is shut out from that and nothing else:
    ``{name: {ports: [ports], jails: [names], ignore: [addresses]}}``, one for all jails with the same
    ports. None without the jail ``recidive``.

    CLI Example:

    .. code-block:: bash

        salt-call jails.attacked '{"sshd": {"enabled": true, "ports": [22]}}'
    """
    found = {}
    if not jails.get("recidive", {}).get("enabled"):
        return found
    for name, jail in jails.items():
        if name != "recidive" and jail["enabled"]:
            ports = sorted(set(jail.get("ports", [])))
            kind = "attacked-" + ("-".join(map(str, ports)) or "all")
            noted = found.setdefault(kind, {"ports": ports, "jails": [], "ignore": []})
            noted["jails"].append(name)
            noted["ignore"] += [one for one in jail.get("ignore", []) if one not in noted["ignore"]]
    return found


def filters():
    """
    Filters that this machine's formulas bring: ``{name: salt://FORMULA/files/fail2ban/NAME.conf}``.

    CLI Example:

    .. code-block:: bash

        salt-call jails.filters
    """
    applied = set(__salt__["formula.applied"]())
    found = {}
    for path in __salt__["cp.list_master"]():
        match = re.fullmatch(r"([^/]+)/files/fail2ban/([a-z0-9-]+)\.conf", path)
        if match and match[1] in applied:
            found[match[2]] = f"salt://{path}"
    return found
