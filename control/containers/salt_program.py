"""
Run beside real Salt (control/salt_copy.py): what the formulas would make of a host that runs containers, from
their own states, settings and templates. `render host` answers

    {files: {path: {data, mode, user, group, secret}}, settings: {formula: …}, roll: {…}, environments: {instance: …},
     secrets: {name: value}, zone: {…}}

with ``data`` in base64. Secrets that are not there are made, in the minion's ``secrets_folder``.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from control import salt_answers

# What is applied of the tree here. The rest of a machine's formulas has its place in containers/host.
SLS = ("redis", "counter", "haproxy", "prometheus", "base.ssh", "base.kernel", "base.journal")
# Of these, files that are about a package's unit or program and not about what the service does.
NOT_HERE = ("/etc/systemd/system/", "/usr/local/sbin/", "/etc/modprobe.d/")
# Programs that hold here too: they ask for redis-cli through redis-admin, which is the host's own.
PROGRAMS = ("/usr/local/sbin/redis-health", "/usr/local/sbin/redis-reload")
# Rows of the table of services, by formula; of `base` those that a host has.
ROWS = {
    "redis": (),
    "counter": (),
    "haproxy": (),
    "prometheus": (),
    "base": ("ssh", "systemd-journald"),
}
_RULES = "/etc/prometheus/rules/"


def render_host(caller: Any, site_folder: str) -> dict[str, Any]:
    if caller.cmd("pillar.get", "apps"):
        raise RuntimeError("pillar apps: hosts that run containers serve the counter alone so far")
    _refuse_unserved(caller.cmd("formula.settings", "haproxy"))
    low = caller.cmd("state.show_low_sls", ",".join(SLS))
    if wrong := [one for one in low if not isinstance(one, dict)]:
        raise RuntimeError("\n".join(map(str, wrong)))
    secrets = {}
    for chunk in low:
        if chunk["state"] == "secret":
            caller.cmd("secret.ensure", chunk["name"])
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
    roll = next(chunk for chunk in low if chunk["state"] == "release" and chunk["fun"] == "rolled")
    environments = {}
    for number in range(1, roll["instances"] + 1):
        environments[number] = caller.cmd(
            "instance.own_environment",
            roll["environment"],
            roll["values"],
            f"{roll['name']}@{number}.service",
            number,
            roll["address"],
            roll["port"] + number - 1,
        )
    for spec in files.values():
        spec["data"] = base64.b64encode(spec["data"]).decode()
    return {
        "files": {
            path: spec
            for path, spec in files.items()
            if path in PROGRAMS
            or (
                not path.startswith(NOT_HERE)
                and (not path.startswith(_RULES) or Path(path).stem in ROWS)
            )
        },
        "status": _status(caller),
        "settings": {
            name: caller.cmd("formula.settings", name)
            for name in ("redis", "counter", "haproxy", "prometheus", "collectd", "base")
        },
        "roll": {key: value for key, value in roll.items() if not key.startswith("_")},
        "environments": environments,
        "secrets": secrets,
        "zone": zone,
        "trusted": caller.cmd("topology.trusted"),
    }


def _refuse_unserved(haproxy: dict[str, Any]) -> None:
    """RuntimeError for what a machine does by programs that such a host has not."""
    refused = {
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


if __name__ == "__main__":
    salt_answers.main(render_host=render_host)
