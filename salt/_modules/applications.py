"""
For formulas apps and counter: the applications of the pillar, each with what holds for it in full: application.yaml of the formula, its
own entry, and what follows from its name.
"""

import copy
import glob
import os
import re
import zlib

import salt.utils.dictupdate
from salt.exceptions import CommandExecutionError

__virtualname__ = "applications"

_UNITS = "/etc/systemd/system"
# The first line of each unit file of an application (files/unit.j2).
_OWNER = re.compile(r"# Managed by Salt \(salt/apps\) for (\S+):")
# Where ports come from that nobody sets: blocks of 64, as many as there may be instances, below the kernel's own.
_FIRST_PORT, _BLOCK, _BLOCKS = 10240, 64, 320
# An instance's own, over which the pillar's environment is laid (webapp/README.md).
_ENVIRONMENT = {
    "SERVING_LISTEN": "{address}:{port}",
    "SERVING_INSTANCE": "{machine}-{instance}",
    "SERVING_DRAIN_SECONDS": "{drain_seconds}",
    "SERVING_FINISH_SECONDS": "{finish_seconds}",
}
_REDIS = {
    "REDIS_URL": "{{store_scheme}}://{name}@{{store}}:{{store_port}}/0",
    "REDIS_PASSWORD_FILE": "{{credentials}}/redis-password",
}
# What is added where Redis is reached by TLS, as for the counter (salt/counter/defaults.yaml).
_OVER_TLS = {
    "environment": {
        "REDIS_CA_FILE": "{credentials}/ca.crt",
        "REDIS_CERTIFICATE_FILE": "{credentials}/app.crt",
        "REDIS_KEY_FILE": "{credentials}/app.key",
    },
    "files": {
        "ca.crt": "/etc/stack/pki/machine-ca.crt",
        "app.crt": "/etc/stack/pki/app.crt",
        "app.key": "/etc/stack/pki/app.key",
    },
}
# Below it, the folders of applications with `state`; systemd makes them (StateDirectory=).
STATE = "/var/lib/apps"


def __virtual__():
    return __virtualname__


def configured():
    """
    All applications of pillar ``apps``, by name, with all their settings. Raises CommandExecutionError for two that
    claim the same name or port, and for one that wants Redis where it has several stores.

    CLI Example:

    .. code-block:: bash

        salt-call applications.configured
    """
    given = __salt__["formula.settings"]("apps")
    found = {name: _complete(name, given[name] or {}) for name in sorted(given)}
    _refuse_clashes(found)
    # It would go on asking the first, which is a replica after a failover.
    stores = len(__salt__["topology.machines"]("store"))
    for name, one in found.items():
        if one["redis"] and stores > 1:
            raise CommandExecutionError(
                f"pillar apps:{name}:redis: the topology has {stores} stores, whose master no application but the counter"
                " can follow so far: take it out, or have one store; nothing was changed"
            )
    return found


def pillar(name):
    """
    Where the pillar has application ``name``: below ``apps``, or the counter's own formula.

    CLI Example:

    .. code-block:: bash

        salt-call applications.pillar notes
    """
    return f"apps:{name}" if name in (__pillar__.get("apps") or {}) else "counter"


def option(name, value=None):
    """
    What is typed for it after ``make deploy``, with a blank before it; nothing for the counter. ``value``: in place of
    its name, as a build wants its folder.

    CLI Example:

    .. code-block:: bash

        salt-call applications.option notes
    """
    return f" APP={value or name}" if name in (__pillar__.get("apps") or {}) else ""


def settings(name):
    """
    All settings of one application, the counter too.

    CLI Example:

    .. code-block:: bash

        salt-call applications.settings counter
    """
    return configured().get(name) or __salt__["formula.settings"]("counter")


def chosen():
    """
    Those that this run is about, by name: all, or the one that a deploy asks for (``record.request``).

    CLI Example:

    .. code-block:: bash

        salt-call applications.chosen
    """
    found, wanted = configured(), __salt__["record.request"]()["name"]
    if not wanted:
        return found
    if wanted not in found:
        raise CommandExecutionError(
            f"pillar apps:{wanted}: {__salt__['schemas.unknown'](wanted, sorted(found))}; nothing was changed"
        )
    return {wanted: found[wanted]}


def has_release(name):
    """
    Whether there is anything to run for application ``name``: pinned, asked for, brought before, or given with the tree. Until then
    its units do not exist.

    CLI Example:

    .. code-block:: bash

        salt-call applications.has_release notes
    """
    machine = __pillar__.get("machine") or {}
    wanted = __salt__["record.request"]()
    return bool(
        configured()[name]["version"]
        or (wanted["name"] == name and (wanted["version"] or wanted["action"] == "rollback"))
        or __salt__["record.current"](name)
        or (machine.get("releases") or {}).get(name)
    )


def _complete(name, given):
    base = copy.deepcopy(dict(__salt__["tree.said"]("apps", "application.yaml")))
    one = salt.utils.dictupdate.update(base, copy.deepcopy(dict(given)))
    port = _FIRST_PORT + zlib.crc32(name.encode()) % _BLOCKS * _BLOCK
    one["name"], one["root"], one["user"] = name, f"/opt/apps/{name}", f"app-{name}"
    one["exec"] = one["exec"] or f"bin/{name}"
    one["port"] = one["port"] or port
    one["tunnel_port"] = one["tunnel_port"] or one["port"]
    one["pillar"], one["over_tls"] = f"apps:{name}", copy.deepcopy(_OVER_TLS)
    one["state_folder"] = f"{STATE}/{name}" if one["state"] else ""
    environment = dict(_ENVIRONMENT)
    credentials = dict(one["secrets"])
    if one["redis"]:
        environment |= {key: value.format(name=name) for key, value in _REDIS.items()}
        credentials["redis-password"] = f"redis-{name}"
    environment |= {f"{key}_FILE": f"{{credentials}}/{key}" for key in one["secrets"]}
    one["environment"] = {**environment, **one["environment"]}
    one["credentials"] = credentials
    return one


def _refuse_clashes(found):
    hosts, ports = {}, {}
    for name, one in found.items():
        for host in one["hosts"]:
            if other := hosts.get(host):
                raise CommandExecutionError(
                    f"pillar apps:{name}:hosts: {host} is {other}'s already; nothing was changed"
                )
            hosts[host] = name
        # As many as there may be: another machine's cores are not known here.
        block = range(one["port"], one["port"] + (one["instances"] or _BLOCK))
        for other, taken in ports.items():
            if block[0] <= taken[-1] and taken[0] <= block[-1]:
                raise CommandExecutionError(
                    f"pillar apps:{name}:port: {block[0]} to {block[-1]} are {other}'s too ({taken[0]} to"
                    f" {taken[-1]}): give one of them a port; nothing was changed"
                )
        ports[name] = block


def owner(path):
    """
    The application that unit file ``path`` is of; None for another's, and for one that is not there.

    CLI Example:

    .. code-block:: bash

        salt-call applications.owner /etc/systemd/system/counter@.service
    """
    found = _OWNER.match(__utils__["atomic_file.read_text"](path) or "")
    return found and found.group(1)


def former_units():
    """
    Unit files of applications that are no longer there, or are called otherwise by now: ``[shop@.service, …]``.

    CLI Example:

    .. code-block:: bash

        salt-call applications.former_units
    """
    names = {*configured(), __salt__["formula.settings"]("counter")["name"]}
    found = []
    for path in sorted(glob.glob(f"{_UNITS}/*.service") + glob.glob(f"{_UNITS}/*.timer")):
        # A masked one is a link.
        of = None if os.path.islink(path) else owner(path)
        if of and of not in names:
            found.append(os.path.basename(path))
    return found


def remove_units(files):
    """
    Stop and remove what :py:func:`former_units` names; None, or why it cannot be.

    CLI Example:

    .. code-block:: bash

        salt-call applications.remove_units '[shop@.service]'
    """
    systemctl, stopped = __salt__["units.systemctl"], []
    # Timers first: they would start what is stopped.
    for file in sorted(files, key=lambda file: not file.endswith(".timer")):
        pattern = file.replace("@.", "@*.")
        listed = systemctl("list-units", "--all", "--plain", "--no-legend", pattern)[1].splitlines()
        units = {line.split()[0] for line in listed if line.split()}
        for link in glob.glob(f"{_UNITS}/*.wants/{pattern}"):
            units.add(os.path.basename(link))
        for unit in sorted(units):
            code, output = systemctl("disable", "--now", unit)
            if code:
                return f"{unit} cannot be stopped: {output}"
            stopped.append(unit)
        __utils__["atomic_file.remove"](f"{_UNITS}/{file}")
    systemctl("daemon-reload")
    for unit in stopped:
        # systemd remembers that it failed, without any file of it. One that has not is no unit any more.
        systemctl("reset-failed", unit)
    return None
