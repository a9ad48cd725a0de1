"""Run inside real Salt, in a process of its own: what a machine would make of the states.

As control/salt_answers.py, with functions of our own: `render everything` is the lowstate, with every configuration file that its
`checked` states would write and every status.yaml.j2 rendered. `render settings` is the same with the
settings of its argument in its pillar.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import salt.client
import salt.config

# Of what states make by a function, what needs nothing of a machine.
MADE = {"maintenance.files"}


def render_everything(caller: salt.client.Caller) -> dict[str, Any]:
    top = caller.cmd("state.show_top")
    low = caller.cmd("state.show_lowstate")
    files: dict[str, dict[str, Any]] = {}
    for chunk in low:
        if not isinstance(chunk, dict) or chunk.get("state") != "checked":
            continue
        made = {name: words for name, words in chunk.get("made", {}).items() if name in MADE}
        rendered = caller.cmd("checked.render", chunk["files"], chunk.get("context"), made)
        for path, spec in rendered.items():
            data = base64.b64encode(spec.pop("data")).decode()
            files[path] = {**spec, "data": data, "id": chunk["__id__"]}
    status = {}
    tree = set(caller.cmd("cp.list_master"))
    for name in top.get("base", []):
        if f"{name}/status.yaml.j2" in tree:
            status[name] = caller.cmd(
                "slsutil.renderer", f"salt://{name}/status.yaml.j2", default_renderer="jinja|yaml"
            )
    found = {"top": top, "low": low, "files": files, "status": status, "tree": sorted(tree)}
    return {**found, "tunnels": caller.cmd("tunnel.servers")}


def without(settings: dict[str, Any], where: str) -> bool:
    """Take a setting, or the nearest one that it is part of, out of the settings; whether it was there."""
    *above, last = where.split(":")
    part: Any = settings
    for key in above:
        part = part.get(key) if isinstance(part, dict) else None
    if isinstance(part, dict) and last in part:
        del part[last]
        return True
    return len(above) > 1 and without(settings, ":".join(above))


def render_settings(asked: salt.client.Caller, settings: dict[str, Any]) -> dict[str, Any]:
    """
    `{settings, rendered}`: the settings are refused together or one by one with their paths, which are
    taken out until the rest is taken; `{error}` for anything else that goes wrong.
    """
    config = asked.opts["conf_file"]
    place = Path(config).parents[1] / "pillar" / "settings.sls"
    error = ""
    for _ in range(20):
        place.write_text(f"#!yaml\n{json.dumps(settings, ensure_ascii=False)}\n", encoding="utf-8")
        caller = salt.client.Caller(mopts=salt.config.minion_config(config))
        low = caller.cmd("state.show_lowstate")
        errors = [one for one in low if not isinstance(one, dict)]
        if not errors:
            return {"settings": settings, "rendered": render_everything(caller)}
        error = "\n".join(map(str, errors))
        named = re.findall(rf"\b((?:{'|'.join(settings)})(?::[A-Za-z0-9_.-]+)+)", error)
        if not [where for where in dict.fromkeys(named) if without(settings, where)]:
            break
    return {"error": error}


FUNCTIONS = {"render everything": render_everything, "render settings": render_settings}
