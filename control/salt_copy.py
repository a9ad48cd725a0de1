"""
Real Salt without any machine: what it would make of one, of the states as they are here and a pillar of its own. Nothing outside of a
folder given is written but compiled templates, into .cache. Used for what must come from the same files as the machines' own: the cloud's firewalls, the
documentation, hosts that run containers, the unit tests.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .by_path import load_yaml
from .errors import OperationError
from .options import child_environment, python_path, replace_environment
from .paths import ROOT

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# Of the pillar: one machine's own; the last, only its key opens.
_OWN = ("machine.yaml", "machine-secrets.yaml", "secrets.sls")
# Imported in other processes only.
ANSWERS = "control.salt_answers"
# Seconds for what one machine is asked; only so that what hangs ends.
PATIENCE = 600


def prepare(
    target: Path, machine: Mapping[str, object], *, states: Path = ROOT / "salt", **options: object
) -> Path:
    """
    The pillar of a machine in ``target``, and the path of a minion's configuration for it.

    machine
        who it is: ``{topology, name, release}``
    states
        those of the checkout; those of whoever changes some first
    options
        settings of the minion, over the machines' own
    """
    target.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", *_OWN)
    shutil.copytree(ROOT / "pillar", target / "pillar", ignore=ignore)
    (target / "pillar" / "machine.yaml").write_text(yaml.safe_dump(dict(machine)), encoding="utf-8")
    settings = load_yaml("salt/_etc/minion")
    state = target / "state"
    settings |= {
        "id": machine["name"],
        "file_roots": {"base": [str(states)]},
        "pillar_roots": {"base": [str(target / "pillar")]},
        "module_dirs": [str(states)],
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
    configs: Sequence[Path], questions: Sequence[Sequence[Any]], module: str = ANSWERS
) -> list[list[Any]]:
    """
    Answers of real Salt to ``[function, arguments, keywords]`` each, for each of ``configs``, in their order
    (control/salt_answers.py says which functions there are besides Salt's, of which ``module`` may have more).

    Raises OperationError with Salt's own words when it cannot answer.
    """
    # Most commands ask nothing, and need not wait for these.
    import multiprocessing
    from multiprocessing import forkserver

    # A process that has read Salt, which is most of what a question costs, and of which each question gets a copy.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([ANSWERS])
    receiver, sender = processes.Pipe(duplex=False)
    patience = PATIENCE * len(configs)
    answers: object
    with tempfile.NamedTemporaryFile(prefix="salt-says-") as said, receiver:
        words = (module, [str(one) for one in configs], list(questions))
        place = str(configs[0].parents[1])
        process = processes.Process(
            target=_answer, args=(words, place, child_environment(), said.name, sender)
        )
        try:
            with sender:
                # Of some Pythons it has no path of its own, and would read Salt for each question without a word.
                with python_path(ROOT):
                    forkserver.ensure_running()
                process.start()
            if not receiver.poll(patience):
                raise OperationError(f"Salt says nothing for {patience} s")
            answers = json.loads(receiver.recv_bytes())
        except (EOFError, OSError) as error:
            last = said.read().decode(errors="replace").strip()[-4000:]
            answers = {"error": last or f"Salt ended without an answer ({error!r})"}
        finally:
            if process.pid is not None:
                process.join(5)
                if process.is_alive():
                    process.kill()
                    process.join()
    if isinstance(answers, dict):
        raise OperationError(answers["error"])
    assert isinstance(answers, list)
    return answers


def _answer(
    words: tuple[Any, ...], place: str, environment: dict[str, str], said: str, sender: Connection
) -> None:
    """In a process of its own. Whatever Salt prints goes to the file ``said``."""
    os.chdir(place)
    replace_environment(environment)
    with open(said, "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    answers: object
    try:
        answers = importlib.import_module(ANSWERS).answer(*words)
    except Exception as error:
        # Whatever Salt raises is an answer for the other process.
        answers = {"error": " ".join(str(error).split()) or type(error).__name__}
    sender.send_bytes(json.dumps(answers, default=str).encode())
