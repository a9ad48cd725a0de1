"""
Run beside real Salt (control/salt_copy.py): what the formulas would make of a host that runs containers, from
their own states, settings and templates. `render host` answers

    {files: {path: {data, mode, user, group, secret}}, settings: {formula: …}, applications: [{name, …, environments: {instance: …}}],
     secrets: {name: value}, zone: {…}}

with ``data`` in base64. Secrets that are not there are made, in the minion's ``secrets_folder``.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

# What is applied of the tree here. The rest of a machine's formulas has its place in containers/host.
SLS = (
    "redis",
    "counter",
    "apps",
    "haproxy",
    "prometheus",
    "backup",
    "base.ssh",
    "base.kernel",
    "base.journal",
)
# Of these, files that are about a package's unit or program and not about what the service does.
NOT_HERE = ("/etc/systemd/system/", "/usr/local/sbin/", "/etc/modprobe.d/")
# Programs that hold here too: they ask for redis-cli through redis-admin, which is the host's own.
PROGRAMS = (
    "/usr/local/sbin/redis-health",
    "/usr/local/sbin/redis-reload",
    "/etc/systemd/system/stack-backup.timer",
)
# Rows of the table of services, by formula; of `base` those that a host has.
ROWS = {
    "redis": (),
    "counter": (),
    "haproxy": (),
    "prometheus": (),
    "backup": (),
    "base": ("ssh", "systemd-journald"),
}
_RULES = "/etc/prometheus/rules/"


def render_host(caller: Any, site_folder: str) -> dict[str, Any]:
    _refuse_unserved(caller.cmd("formula.settings", "haproxy"))
    low = caller.cmd("state.show_low_sls", ",".join(SLS))
    if wrong := [one for one in low if not isinstance(one, dict)]:
        raise RuntimeError("\n".join(map(str, wrong)))
    secrets = {}
    for chunk in low:
        if chunk["state"] == "secret":
            kind = caller.cmd("formula.secret_kind", chunk["name"])
            caller.cmd("secret.ensure", chunk["name"], kind=kind)
            secrets[chunk["name"]] = caller.cmd("secret.value", chunk["name"])
    files: dict[str, dict[str, Any]] = {}
    for chunk in low:
        if chunk["state"] == "checked":
            made = {
                function: {**words, **({"folder": site_folder} if "folder" in words else {})}
                for function, words in chunk.get("made", {}).items()
            }
            files |= caller.cmd("checked.render", chunk["files"], chunk.get("context"), made)
    zone = caller.cmd("firewall.zone")
    guard = {"/etc/firewalld/guard.nft": {"source": "salt://firewalld/files/guard.nft.j2"}}
    files |= caller.cmd("checked.render", guard, {"zone": zone})
    rolls = [chunk for chunk in low if chunk["state"] == "release" and chunk["fun"] == "rolled"]
    proxies = {one["name"]: one["proxy"] for one in caller.cmd("backends.served")["applications"]}
    applications = [
        _application(caller, roll, proxies) for roll in sorted(rolls, key=lambda one: one["name"])
    ]
    # The container takes the store alone: it may not enter what other accounts have (docs/containers.md).
    backup = files["/etc/stack/backup.json"]
    backup["data"] = json.dumps({**json.loads(backup["data"]), "folders": {}}).encode()
    for spec in files.values():
        spec["data"] = base64.b64encode(spec["data"]).decode()
    return {
        "files": {
            path: spec
            for path, spec in files.items()
            if path in PROGRAMS
            or (
                not path.startswith(NOT_HERE)
                and (not path.startswith(_RULES) or Path(path).stem in (*ROWS, "apps"))
            )
        },
        "status": _status(caller),
        "settings": {
            name: caller.cmd("formula.settings", name)
            for name in ("redis", "counter", "haproxy", "prometheus", "backup", "collectd", "base")
        },
        "applications": applications,
        "secrets": secrets,
        "zone": zone,
        "trusted": caller.cmd("topology.trusted"),
    }


def _application(caller: Any, roll: dict[str, Any], proxies: dict[str, str]) -> dict[str, Any]:
    """What a host is to know of an application, from its roll on a machine and its settings."""
    name = roll["name"]
    settings = caller.cmd("applications.settings", name)
    _refuse_settings(settings)
    watchdog = settings.get("watchdog_seconds")
    return {
        "name": name,
        "is_counter": "pillar" not in settings,
        "proxy": proxies[name],
        "root": roll["root"],
        "instances": roll["instances"],
        "port": roll["port"],
        "alive": settings["health"]["alive"],
        "ready": roll["health"],
        "smoke": roll["smoke"],
        "bake_seconds": roll["bake_seconds"],
        "keep": roll["keep"],
        "watchdog": 15 if watchdog is None else watchdog,
        "watchdog_is_given": watchdog is not None,
        "state_folder": settings.get("state_folder") or "",
        **{
            key: settings[key]
            for key in ("ready_seconds", "drain_seconds", "finish_seconds", "credentials")
        },
        "environments": {
            number: caller.cmd(
                "instance.own_environment",
                roll["environment"],
                roll["values"],
                f"{name}@{number}.service",
                number,
                roll["address"],
                roll["port"] + number - 1,
            )
            for number in range(1, roll["instances"] + 1)
        },
    }


def _refuse_settings(settings: dict[str, Any]) -> None:
    """RuntimeError for what of an application's settings a host of containers cannot do."""
    where = settings.get("pillar") or settings["name"]
    refused = {
        "hooks": (any(settings["hooks"].values()), "run no hooks: take them out"),
        "version": (settings["version"], "run what 'make deploy' brings: take it out"),
        "release": (
            any(settings["release"].values()),
            "get their images from the controller, which checks signatures itself: take it out",
        ),
        "exec": (
            settings["exec"] != f"bin/{settings['name']}",
            "start the program that the artifact names: take it out",
        ),
    }
    for key, (given, why) in refused.items():
        if given:
            raise RuntimeError(
                f"pillar {where}:{key}: hosts that run containers {why} (docs/containers.md); nothing was changed"
            )


def _refuse_unserved(haproxy: dict[str, Any]) -> None:
    """RuntimeError for what a machine does by programs or openings that such a host has not."""
    refused = {
        "http3": (haproxy["http3"], "open no UDP port: take it out"),
        "acme:directory": (
            haproxy["acme"]["directory"],
            "order no certificate so far: give one in haproxy:tls, or take it out",
        ),
        "trusted_proxies": (
            any(haproxy["trusted_proxies"].values()),
            "ban by the address of a connection, which would be the balancer's: take it out",
        ),
    }
    for key, (given, why) in refused.items():
        if given:
            raise RuntimeError(
                f"pillar haproxy:{key}: hosts that run containers {why} (docs/containers.md); nothing was changed"
            )


def _status(caller: Any) -> dict[str, Any]:
    """``{formula: {unit: what its status.yaml.j2 says, and the metric by which it is known to be measured}}``."""
    collected = caller.cmd("formula.collect", "status.yaml.j2")
    measured = caller.cmd("metrics.collect")
    return {
        formula: {
            unit: {**ask, "metric": next(iter(measured[formula]["required_series"]), None)}
            for unit, ask in collected[formula].items()
            if not units or unit in units
        }
        for formula, units in ROWS.items()
    }


FUNCTIONS = {"render host": render_host}
