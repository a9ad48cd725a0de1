"""
Real Salt on a copy of the tree, without any machine: what it would make of one. Nothing outside of the copy is
written. Used for what must come from the same files as the machines' own: the cloud's firewalls, the
documentation, the unit tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .errors import OperationError
from .paths import ROOT

# Of the pillar: one machine's own; the last, only its key opens.
_OWN = ("machine.yaml", "machine-secrets.yaml", "secrets.sls")
# Asks in a process of its own, which must not be this one: Salt changes whatever process it is in.
PROGRAM = Path(__file__).with_name("salt_answers.py")
# Seconds for what one machine is asked; only so that what hangs ends.
PATIENCE = 600


def copy_tree(
    target: Path, machine: Mapping[str, object], *, states: Path | None = None, **options: object
) -> Path:
    """
    What a machine gets of the checkout, in ``target``, and the path of a minion's configuration for it.

    machine
        who it is: ``{topology, name, release}``
    states
        the copy made before whose states this machine has too: asked in one process, they share what Salt
        has made of them
    options
        settings of the minion, over the machines' own
    """
    target.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", *_OWN)
    shutil.copytree(ROOT / "pillar", target / "pillar", ignore=ignore)
    if states is None:
        states = target
        shutil.copytree(ROOT / "salt", target / "salt", ignore=ignore)
    shutil.copy(ROOT / "Saltfile", target)
    (target / "pillar" / "machine.yaml").write_text(yaml.safe_dump(dict(machine)), encoding="utf-8")
    settings = yaml.safe_load((ROOT / "salt" / "_etc" / "minion").read_text(encoding="utf-8"))
    state = target / "state"
    settings |= {
        "id": machine["name"],
        "file_roots": {"base": [str(states / "salt")]},
        "pillar_roots": {"base": [str(target / "pillar")]},
        "module_dirs": [str(states / "salt")],
        "cachedir": str(state / "cache"),
        "pki_dir": str(state / "pki"),
        "sock_dir": str(state / "sock"),
        "pidfile": str(state / "pid"),
        "log_file": str(state / "log"),
        **options,
    }
    config = target / "etc" / "minion"
    config.parent.mkdir()
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return config


def ask(
    configs: Sequence[Path], questions: Sequence[Sequence[Any]], program: Path = PROGRAM
) -> list[list[Any]]:
    """
    Answers of real Salt to ``[function, arguments, keywords]`` each, for each of ``configs``, in their order
    (control/salt_answers.py says which functions there are besides Salt's).

    Raises OperationError with Salt's own words when it cannot answer.
    """
    done = subprocess.run(
        [sys.executable, str(program), *map(str, configs)],
        input=json.dumps(list(questions)),
        cwd=configs[0].parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE * len(configs),
    )
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        answers = {"error": done.stderr.strip()[-4000:] or f"exit code {done.returncode}"}
    if isinstance(answers, dict):
        raise OperationError(answers["error"])
    assert isinstance(answers, list)
    return answers
