"""Run inside real Salt, in a process of its own: what a machine would make of a copied tree.

    python in_salt.py MINION_CONFIG < questions.json > answers.json

`questions`: a list of `[function, arguments, keywords]`; the answers come in the same order.
The function `render everything` is ours: the lowstate, with every configuration file that its
`checked` states would write and every status.yaml.j2 rendered.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import salt.client
import salt.config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bootstrap"))

import file_clients


def render_everything(caller: salt.client.Caller) -> dict[str, Any]:
    top = caller.cmd("state.show_top")
    low = caller.cmd("state.show_lowstate")
    files: dict[str, dict[str, Any]] = {}
    for chunk in low:
        if not isinstance(chunk, dict) or chunk.get("state") != "checked":
            continue
        rendered = caller.cmd("checked.render", chunk["files"], chunk.get("context"))
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


def main() -> None:
    file_clients.share()
    options = salt.config.minion_config(sys.argv[1])
    caller = salt.client.Caller(mopts=options)
    questions = json.load(sys.stdin)
    answers: list[Any] = []
    # Whatever Salt prints must not get between the answers.
    with contextlib.redirect_stdout(sys.stderr):
        for function, arguments, keywords in questions:
            if function == "render everything":
                answers.append(render_everything(caller))
            else:
                answers.append(caller.cmd(function, *arguments, **keywords))
    json.dump(answers, sys.stdout, default=str)


if __name__ == "__main__":
    main()
