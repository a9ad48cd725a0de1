"""
What is measured on this machine and what Prometheus scrapes in the topology, from each formula's
own ``metrics.yaml.j2``; its format is salt/_schemas/metrics.schema.yaml.
"""

import salt.utils.yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "metrics"

_FILE = "metrics.yaml.j2"
_KINDS = {"gauge": "GAUGE:U:U", "counter": "DERIVE:0:U"}
# What files/stack.py of formula collectd says of every reader.
_HOST = {"ok": "gauge", "ok_time": "gauge", "took": "gauge", "known": "gauge"}
# Names that collectd's own types.db has already, of the same kind.
_SHIPPED = {"blocked_clients", "commands", "count"}


def __virtual__():
    return __virtualname__


def _complete(given):
    """``given`` with every key there."""
    maps = ("plugins", "readers", "certificates")
    lists = ("units", "scrape", "log_metrics", "required_series")
    empty = {**{key: {} for key in maps}, **{key: [] for key in lists}}
    return {**empty, **(given or {})}


def collect():
    """
    ``{formula: {plugins, readers, units, certificates, scrape, log_metrics, required_series}}`` of this
    machine.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.collect
    """
    if "metrics.collected" not in __context__:
        if __context__.get("metrics.collecting"):
            raise CommandExecutionError(f"a {_FILE} asks for what all of them say: without end")
        __context__["metrics.collecting"] = True
        try:
            __context__["metrics.collected"] = {
                name: _complete(given) for name, given in __salt__["formula.collect"](_FILE).items()
            }
        finally:
            __context__["metrics.collecting"] = False
    return __context__["metrics.collected"]


def plugins():
    """
    collectd's own plugins of this machine: ``{plugin: [text of each formula's block]}``.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.plugins
    """
    found = {}
    for one in collect().values():
        for name, text in one["plugins"].items():
            found.setdefault(name, [])
            if text:
                found[name].append(text.strip("\n"))
    return found


def readers():
    """
    Own readers of this machine: ``{reader: {source, settings, metrics, credentials}}``.
    The readers ``unit`` and ``certificate`` get what all formulas say under ``units`` and
    ``certificates``.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.readers
    """
    found = {}
    gathered = {
        "unit": {unit: name for name, one in collect().items() for unit in one["units"]},
        "certificate": {
            name: path for one in collect().values() for name, path in one["certificates"].items()
        },
    }
    for formula, one in collect().items():
        for name, given in one["readers"].items():
            if name in found:
                raise CommandExecutionError(
                    f"{formula}/{_FILE}: readers:{name}: another formula has a reader of this name"
                )
            found[name] = {
                "source": f"salt://{formula}/files/readers/{name}.py",
                "credentials": {},
                **given,
                "settings": {**given.get("settings", {})},
            }
            if name in gathered:
                found[name]["settings"][name] = gathered[name]
    return found


def secrets():
    """
    Secrets that the readers of this machine need, each once.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.secrets
    """
    return sorted({name for one in readers().values() for name in one["credentials"].values()})


def types():
    """
    Lines of a collectd types.db for the metrics of all readers: every name once.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.types
    """
    kinds = {**_HOST, **{one["metric"]: "gauge" for one in log_metrics()}}
    for reader, given in readers().items():
        for name, kind in given["metrics"].items():
            if kinds.setdefault(name, kind) != kind:
                raise CommandExecutionError(
                    f"reader {reader}: {name} is a {kind} here and a {kinds[name]} elsewhere"
                )
    return [
        f"{name} value:{_KINDS[kind]}"
        for name, kind in sorted(kinds.items())
        if name not in _SHIPPED
    ]


def formulas(machine):
    """
    Formulas that ``machine`` (``{roles: […]}``) of the topology gets, in the order of top.sls.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.formulas '{roles: [edge]}'
    """
    if "metrics.top" not in __context__:
        path = __salt__["tree.file"]("salt://top.sls")
        with open(path, encoding="utf-8") as file:
            __context__["metrics.top"] = salt.utils.yaml.safe_load(file)["base"]
    found = []
    for target, wanted in __context__["metrics.top"].items():
        # What is not for a role is for every machine.
        role = target.removeprefix("machine:roles:")
        if role == target or role in machine["roles"]:
            found += [one for one in wanted if isinstance(one, str) and one not in found]
    return found


def targets():
    """
    What Prometheus scrapes: ``[{job, path, keep, targets: [{machine, address, tls}]}]``, from every
    machine of the topology. This machine is reached by loopback, others at ``remote_port`` of their
    private address, with TLS and a certificate both ways.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.targets
    """
    own = __salt__["topology.machine"]()["name"]
    jobs = {}
    for machine in __salt__["topology.machines"]():
        for formula in formulas(machine):
            for one in _of(formula)["scrape"]:
                job = jobs.setdefault(
                    one["job"],
                    {
                        "job": one["job"],
                        "path": one.get("path", "/metrics"),
                        "keep": one.get("keep"),
                        "targets": [],
                    },
                )
                here = machine["name"] == own
                job["targets"].append(
                    {
                        "machine": machine["name"],
                        "address": f"127.0.0.1:{one['port']}"
                        if here
                        else f"{machine['address']}:{one['remote_port']}",
                        "tls": not here,
                    }
                )
    return list(jobs.values())


def measured(machine):
    """
    Plugins and readers of collectd that machine ``machine`` (its name) has something to say by: its
    series are ``collectd_NAME`` and ``collectd_NAME_…``. ``lines`` is this machine's alone, where the central
    logs are.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.measured app1
    """
    (found,) = [one for one in __salt__["topology.machines"]() if one["name"] == machine]
    own = machine == __salt__["topology.machine"]()["name"]
    names = {"reader", *(["lines"] if own else [])}
    for formula in formulas(found):
        names |= {*_of(formula)["plugins"], *_of(formula)["readers"]}
    return sorted(names)


def series(machines):
    """
    Regular expression of ``MACHINE;SERIES`` for what each of ``machines`` (names) may say; see
    :py:func:`measured`.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.series '[app1, app2]'
    """
    return "|".join(f"{name};collectd_({'|'.join(measured(name))})(_.+)?" for name in machines)


def _of(formula):
    """What a formula says, which need not be one of this machine's."""
    if formula in collect():
        return collect()[formula]
    key = f"metrics.of.{formula}"
    if key not in __context__:
        __context__[key] = _complete(__salt__["tree.said"](formula, _FILE))
    return __context__[key]


def log_metrics():
    """
    What is measured in the lines of the central logs, ``[{machine, log, metric, number,
    percentiles}]``, from every machine of the topology; empty but on the monitor, where they are.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.log_metrics
    """
    if "monitor" not in __salt__["topology.machine"]()["roles"]:
        return []
    return [
        {"machine": machine["name"], **one}
        for machine in __salt__["topology.machines"]()
        for formula in formulas(machine)
        for one in _of(formula)["log_metrics"]
    ]


def in_topology(filename):
    """
    ``{formula: salt://…}`` of all formulas of all machines of the topology that have ``filename``.

    CLI Example:

    .. code-block:: bash

        salt-call metrics.in_topology alerts.yaml
    """
    found = {}
    tree = set(__salt__["cp.list_master"]())
    for machine in __salt__["topology.machines"]():
        for formula in formulas(machine):
            if f"{formula}/{filename}" in tree:
                found[formula] = f"salt://{formula}/{filename}"
    return found
