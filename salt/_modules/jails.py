"""
For formula fail2ban: jails of this machine, from each formula's own ``jail.yaml.j2``; the format is in
salt/fail2ban/README.md. fail2ban's own check lets ``maxretry = banana`` pass: values are
checked here.
"""

import re

from salt.exceptions import CommandExecutionError

__virtualname__ = "jails"

# Every port and protocol, where a jail does not say what its bans close.
_OPTIONAL = {"closes"}
_DURATION = re.compile(r"[1-9][0-9]{0,5}[smhdw]")
_RULES = {
    "enabled": lambda value: isinstance(value, bool),
    "filter": lambda value: (
        isinstance(value, str) and re.fullmatch(r"[a-z0-9-]+(\[[a-z]+=[a-z]+\])?", value)
    ),
    "journal": lambda value: (
        isinstance(value, list)
        and value
        and all(
            isinstance(one, str) and re.fullmatch(r"[A-Z_]+=[^\s+]+( [A-Z_]+=[^\s+]+)*", one)
            for one in value
        )
    ),
    "closes": lambda value: (
        isinstance(value, list)
        and value
        and all(type(one) is int and 0 < one < 65536 for one in value)
    ),
    "maxretry": lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    "findtime": lambda value: isinstance(value, str) and _DURATION.fullmatch(value),
    "bantime": lambda value: isinstance(value, str) and _DURATION.fullmatch(value),
}


def __virtual__():
    return __virtualname__


def collect(changes=None):
    """
    ``{jail: {enabled, filter, journal, closes, maxretry, findtime, bantime}}`` of this machine.

    changes
        ``{jail: {enabled, maxretry, findtime, bantime}}`` from the pillar

    Raises CommandExecutionError, naming formula, jail and key, for what is wrong or missing, a
    name that two formulas use.

    CLI Example:

    .. code-block:: bash

        salt-call jails.collect
    """
    found = {}
    for formula, jails in __salt__["formula.collect"]("jail.yaml.j2").items():
        for name, given in (jails or {}).items():
            where = f"{formula}/jail.yaml.j2: {name}"
            if name in found:
                raise CommandExecutionError(f"{where}: another formula has a jail of this name")
            # nft bounds a set's name, of which this is a part.
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
                raise CommandExecutionError(f"{where}: allowed: a-z, 0-9 and -, at most 20")
            jail = {"enabled": True, "filter": name, **given, **((changes or {}).get(name) or {})}
            for key in sorted({*_RULES, *jail}):
                if key not in _RULES:
                    raise CommandExecutionError(
                        f"{where}: unknown key {key}; known: {', '.join(_RULES)}"
                    )
                if key in _OPTIONAL and key not in jail:
                    continue
                if key not in jail or not _RULES[key](jail[key]):
                    raise CommandExecutionError(f"{where}: {key}: {jail.get(key)!r} is not right")
            found[name] = jail
    return found


def attacked(jails):
    """
    Jails that note who attacked what, so that a recidivist is shut out from that and nothing else:
    ``{name: {closes: [ports], jails: [names]}}``, one for all jails that close the same ports. None
    without the jail ``recidive``.

    CLI Example:

    .. code-block:: bash

        salt-call jails.attacked '{"sshd": {"enabled": true, "closes": [22]}}'
    """
    found = {}
    if not jails.get("recidive", {}).get("enabled"):
        return found
    for name, jail in jails.items():
        if name != "recidive" and jail["enabled"]:
            ports = sorted(set(jail.get("closes", [])))
            kind = "attacked-" + ("-".join(map(str, ports)) or "all")
            found.setdefault(kind, {"closes": ports, "jails": []})["jails"].append(name)
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
