"""
For formula base: kernel settings: which of them this machine can set, which differ, and why the others are left.

A container shares its host's kernel: only settings that belong to its own network namespace are
its to change. On a virtual or bare machine everything is set.
"""

import glob
import os

from salt.exceptions import CommandExecutionError

__virtualname__ = "sysctl_settings"

_PROC = "/proc/sys"
# What a network namespace has of its own (kernel documentation, networking/ip-sysctl).
_OWN = ("net.ipv4.", "net.ipv6.")
_CONTAINERS = ("LXC", "Docker", "systemd-nspawn", "container", "Podman", "OpenVZ")


def __virtual__():
    return __virtualname__


def container():
    """Whether this machine shares its kernel with a host.

    CLI Example:

    .. code-block:: bash

        salt-call sysctl_settings.container
    """
    return (
        __grains__.get("virtual") in _CONTAINERS or __grains__.get("virtual_subtype") in _CONTAINERS
    )


def _paths(key):
    """Files of a setting under /proc/sys; ``*`` in a key is every interface."""
    return sorted(glob.glob(os.path.join(_PROC, key.replace(".", "/"))))


def plan(settings):
    """
    ``{set: {key: value}, skipped: {key: reason}, unset: [key]}`` for this machine.

    settings
        ``{key: {value, why}}``; a value of null is left as it is
    """
    found = {"set": {}, "skipped": {}, "unset": []}
    for key, one in settings.items():
        if one["value"] is None:
            found["unset"].append(key)
        elif container() and not key.startswith(_OWN):
            found["skipped"][key] = "the host's, not this container's"
        elif not _paths(key):
            found["skipped"][key] = "this kernel has no such setting"
        else:
            found["set"][key] = str(one["value"])
    return found


def conf(settings):
    """
    Text of a sysctl.d file, each setting under its reason, and what is not set here and why.

    CLI Example:

    .. code-block:: bash

        salt-call sysctl_settings.conf '{net.ipv4.tcp_rfc1337: {value: 1, why: RFC 1337}}'
    """
    parts = plan(settings)
    lines = ["# Managed by Salt (salt/base)."]
    for key, value in parts["set"].items():
        lines += [f"# {settings[key]['why']}", f"{key} = {value}"]
    if parts["skipped"]:
        lines += ["", "# Not set on this machine:"]
        lines += [f"# {key}: {why}" for key, why in sorted(parts["skipped"].items())]
    return "\n".join(lines) + "\n"


def differing(settings):
    """
    What the running kernel has otherwise: ``{path below /proc/sys: {old, new}}``.
    """
    found = {}
    for key, value in plan(settings)["set"].items():
        for path in _paths(key):
            try:
                with open(path, encoding="ascii") as file:
                    now = file.read()
            except OSError as error:
                raise CommandExecutionError(f"{path}: {error.strerror}") from error
            if now.split() != value.split():
                found[os.path.relpath(path, _PROC)] = {"old": " ".join(now.split()), "new": value}
    return found


def write(path, value):
    """Set one, ``path`` below /proc/sys; CommandExecutionError when the kernel refuses."""
    try:
        with open(os.path.join(_PROC, path), "w", encoding="ascii") as file:
            file.write(f"{value}\n")
    except OSError as error:
        raise CommandExecutionError(
            f"the kernel refuses {path.replace('/', '.')} = {value}: {error.strerror}"
        ) from error
