"""
What the formulas of a machine let in, asked on the controller: for a firewall that stands before
the machines (a cloud's), from the same files as the one on them (``salt/*/firewall.yaml.j2``).

    python -m control.openings TREE TOPOLOGY MACHINE…     TREE: a folder with `salt` and `pillar`

Prints JSON: for each machine a list of openings as salt/firewalld/README.md describes them. Needs
Salt, so it runs in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .errors import Refused
from .topology import ROOT

# Files of the pillar that are one machine's own; the last, only its key opens.
_OWN = ("machine.yaml", "machine-secrets.yaml", "secrets.sls")


def of(topology_file: Path, name: str, machines: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Openings of machines of the topology in ``topology_file``, whose name is ``name``."""
    with tempfile.TemporaryDirectory(prefix="openings-") as folder:
        tree = Path(folder)
        (tree / "salt").symlink_to(ROOT / "salt")
        shutil.copytree(
            ROOT / "pillar", tree / "pillar", ignore=shutil.ignore_patterns("__pycache__", *_OWN)
        )
        shutil.copyfile(topology_file, tree / "pillar" / "topologies" / f"{name}.yaml")
        done = subprocess.run(
            [sys.executable, "-m", "control.openings", str(tree), name, *machines],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    if "error" in answer:
        raise Refused(f"{name}: what its machines let in could not be rendered: {answer['error']}")
    return dict(answer)


def _ask(tree: Path, name: str, machine: str) -> list[dict[str, Any]]:
    import salt.client
    import salt.config

    (tree / "pillar" / "machine.yaml").write_text(
        yaml.safe_dump({"topology": name, "name": machine, "release": None}), encoding="utf-8"
    )
    options = salt.config.minion_config(str(ROOT / "salt" / "_etc" / "minion"))
    state = tree / "state"
    options.update(
        id="controller",
        file_roots={"base": [str(tree / "salt")]},
        pillar_roots={"base": [str(tree / "pillar")]},
        module_dirs=[str(tree / "salt")],
        cachedir=str(state / "cache"),
        pki_dir=str(state / "pki"),
        sock_dir=str(state / "sock"),
        log_file=str(state / "log"),
        grains_cache=False,
        # The machines', not this computer's.
        grains={"os": "Debian", "os_family": "Debian", "oscodename": "trixie"},
    )
    caller = salt.client.Caller(mopts=options)
    said = caller.cmd("formula.collect", "firewall.yaml.j2")
    settings = caller.cmd("formula.settings", "firewalld")
    for formula, instead in settings["replace"].items():
        said[formula] = instead
    found = [one for listed in said.values() for one in listed or ()]
    return [*found, *(settings["openings"] or ())]


def main() -> int:
    answer: object
    try:
        tree, name, *machines = sys.argv[1:]
        sys.path.insert(0, str(ROOT / "bootstrap"))
        import file_clients

        file_clients.share()
        answer = {one: _ask(Path(tree), name, one) for one in machines}
    except Exception as error:
        # Whatever Salt raises is an answer for the other process.
        answer = {"error": " ".join(str(error).split())}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
