"""How rendering grows with the number of application machines: time and size of configuration.

    .venv/bin/python bench/render.py [2 20 200]

Real Salt renders the states, without any machine: every state of the edge, an application
machine, the store and the monitor, with all their files. `controller` is what the controller makes
for one machine (its tree, packed, with its own secrets). Prints a table in Markdown.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

from conftest import RELEASE, ask_salt, prepare  # noqa: E402

from control import local_state, machine_pillar, topology  # noqa: E402

LARGEST = {"edge1": "/etc/haproxy/haproxy.cfg", "store1": "/etc/firewalld/zones/stack.xml"}


def made(apps: int) -> dict[str, Any]:
    def machine(number: int, role: str) -> dict[str, Any]:
        return {"address": f"10.0.{number // 250}.{number % 250 + 2}", "roles": [role], "cpus": 1}

    names = [("edge1", "edge"), ("store1", "store"), ("monitor1", "monitor")]
    names += [(f"app{number}", "app") for number in range(1, apps + 1)]
    return {
        "name": "bench",
        "domain": "counter.test",
        "network": "10.0.0.0/16",
        "machines": {name: machine(n, role) for n, (name, role) in enumerate(names)},
    }


def measure(apps: int, folder: Path) -> list[str]:
    data = made(apps)
    rows = []
    local_state.ROOT = folder / "controller"
    (folder / "bench.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    where = topology.read(folder / "bench.yaml")
    began = time.monotonic()
    for host in where.machines:
        machine_pillar.make_files(where, host, RELEASE)
    per_machine = (time.monotonic() - began) / len(where.machines)
    for host in ("edge1", "app1", "store1", "monitor1"):
        tree = folder / host
        prepare(tree, {"topology": "bench", "name": host, "release": RELEASE})
        (tree / "pillar/topologies/bench.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        began = time.monotonic()
        (answer,) = ask_salt(tree, [["render everything", [], {}]])
        took = time.monotonic() - began
        sizes = {path: len(base64.b64decode(one["data"])) for path, one in answer["files"].items()}
        largest = LARGEST.get(host)
        rows.append(
            f"| {apps} | {host} | {took:.1f} s | {len(answer['low'])} | {sum(sizes.values()):,} |"
            f" {f'{Path(largest).name} {sizes[largest]:,}' if largest else ''} |"
        )
    print(
        f"{apps}: the controller makes a machine's pillar in {per_machine * 1000:.1f} ms",
        file=sys.stderr,
    )
    return rows


def main() -> None:
    print("| app machines | rendered for | time | states | bytes of configuration | of that |")
    print("| --- | --- | --- | --- | --- | --- |")
    for apps in map(int, sys.argv[1:] or (2, 20, 200)):
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(apps, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
