"""Run inside real Salt, in a process of its own: what one machine says of itself, as JSON.

    python ask.py MINION_CONFIG FORMULA…

Answers `{applied, openings, metrics, logs, settings}`: the formulas of its roles, what each lets in
(firewall.yaml.j2 as it was written, sources by role), measures (metrics.yaml.j2) and calls its own
in the journal (logs.yaml.j2), and the settings of the formulas named.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import salt.client
import salt.config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bootstrap"))

import file_clients

OFF_BY_DEFAULT = {"filebeat": {"output": {"kind": "logstash", "hosts": ["logs.example:5044"]}}}


def main() -> None:
    # Whatever Salt prints must not get into the answer.
    file_clients.share()
    with contextlib.redirect_stdout(sys.stderr):
        caller = salt.client.Caller(mopts=salt.config.minion_config(sys.argv[1]))
        applied = caller.cmd("formula.applied")
        answer: dict[str, Any] = {
            "applied": applied,
            "openings": caller.cmd("formula.collect", "firewall.yaml.j2"),
            "logs": caller.cmd("formula.collect", "logs.yaml.j2"),
            "settings": {
                name: caller.cmd("formula.settings", name)
                for name in sys.argv[2:]
                if name in applied
            },
        }
        # What measures only where the pillar turns it on.
        caller.sminion.functions.pack["__pillar__"].update(OFF_BY_DEFAULT)
        answer["metrics"] = caller.cmd("formula.collect", "metrics.yaml.j2")
    json.dump(answer, sys.stdout, default=str)


if __name__ == "__main__":
    main()
