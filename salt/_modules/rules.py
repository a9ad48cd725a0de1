"""
What must hold between settings (``rules.yaml`` of a formula, and of the tree), each an expression of Jinja, and
what such an expression may ask.
"""

import fnmatch
import functools
import ipaddress
import itertools
import re

from salt.exceptions import CommandExecutionError

__virtualname__ = "rules"


def __virtual__():
    return __virtualname__


@functools.cache
def _rules():
    """The Jinja in which rules are written."""
    import jinja2.sandbox

    rules = jinja2.sandbox.SandboxedEnvironment()
    rules.filters["seconds"] = seconds
    rules.globals = {
        "seconds": seconds,
        "matches": lambda name, patterns: any(fnmatch.fnmatch(name, one) for one in patterns),
        "overlap": overlap,
    }
    return rules


def overlap(networks):
    """
    ``NETWORK and NETWORK``, the first two of a list that have addresses in common; empty when none have.

    CLI Example:

    .. code-block:: bash

        salt-call rules.overlap '[192.0.2.0/24, 192.0.2.7]'
    """
    for one, other in itertools.combinations(networks, 2):
        first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
        if first.version == second.version and first.overlaps(second):
            return f"{one} and {other}"
    return ""


def formulas(rule):
    """Names of the formulas whose settings a rule is about."""
    return _variables(rule["holds"])


@functools.cache
def _variables(expression):
    """What an expression of a rule names beside its functions; read once a process."""
    import jinja2.meta

    words = _rules().parse("{{ " + expression + " }}")
    return frozenset(jinja2.meta.find_undeclared_variables(words)) - set(_rules().globals)


@functools.cache
def _compiled(expression):
    return _rules().compile_expression(expression)


def problem(rule, merged):
    """
    None when ``rule`` holds for the merged settings, ``{formula: settings}``, else the line that refuses.

    rule
        ``{setting: path, holds: Jinja expression, says: what must be}``. Beside the formulas' settings it
        knows ``seconds(duration)``, ``matches(name, patterns)`` and ``overlap(networks)``
    """
    if _compiled(rule["holds"])(**merged):
        return None
    value = merged
    for part in rule["setting"].split(":"):
        value = value[part]
    shown = "" if isinstance(value, (dict, list)) else f"{value!r} "
    says = _rules().from_string(rule["says"]).render(merged)
    return f"pillar {rule['setting']}: {shown}{says}"


def seconds(duration):
    """Seconds of a duration: ``500ms``, ``2s``, ``1m``, ``3h``, ``4d``, ``5w``.

    CLI Example:

    .. code-block:: bash

        salt-call rules.seconds 500ms
    """
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d|w)", str(duration))
    if not found:
        raise CommandExecutionError(f"{duration!r} is no duration: use 500ms, 2s, 1m")
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    return int(found.group(1)) * units[found.group(2)]
