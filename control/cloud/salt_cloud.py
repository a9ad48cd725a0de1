"""salt-cloud, which makes the droplets: the map that it is given, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from .. import local_state
from ..errors import OperationError
from ..paths import ROOT
from ..topology import Topology
from . import account, container_hosts
from .plan import Plan, Wanted


def make_map(topology: Topology, todo: list[Wanted]) -> dict[str, Any]:
    """The salt-cloud map of these machines. They are converged afterwards, so nothing is deployed."""
    result: dict[str, Any] = {}
    for wanted in todo:
        own: dict[str, Any] = {
            "tags": list(wanted.tags),
            "deploy": False,
        }
        if topology.has_containers:
            own["userdata_file"] = str(container_hosts.user_data_file(topology, wanted.machine))
        else:
            # Its name in the topology, whatever the droplet's is in the account.
            own["userdata"] = f"#cloud-config\nhostname: {wanted.machine}\n"
        if len(topology.machines) > 1:
            own["vpc"] = account.network_name(topology)
        result.setdefault(wanted.profile, []).append({wanted.name: own})
    return result


def make_droplets(topology: Topology, todo: Plan) -> None:
    """Run the map. salt-cloud exits with 0 whatever a machine of a map met: its answer is read."""
    folder = local_state.folder(topology)
    folder.mkdir(parents=True, exist_ok=True)
    path, answer = folder / "cloud.map", folder / "cloud.answer.json"
    path.write_text(
        "# Made from the topology by `make cloud-up`; do not edit.\n"
        + yaml.safe_dump(make_map(topology, todo.create), sort_keys=False),
        encoding="utf-8",
    )
    answer.unlink(missing_ok=True)
    line = [str(Path(sys.executable).parent / "salt-cloud"), "-y", "-P", "-m", str(path)]
    code = wait_for_salt_cloud([*line, "--out=json", f"--out-file={answer}"])
    try:
        answers = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        answers = {}
    errors = {wanted.name: read_error(answers.get(wanted.name)) for wanted in todo.create}
    errors = {name: error for name, error in errors.items() if error}
    if code or errors:
        from saltext.digitalocean.utils.digitalocean.api import ApiError

        reasons = "; ".join(f"{name}: {why}" for name, why in errors.items())
        if not answers:
            reasons = f"salt-cloud ended with {code} and no answer (see above)"
        reasons = reasons or f"salt-cloud ended with {code} (see above)"
        # The account knows what there is, whatever salt-cloud said or could no longer say.
        names = {wanted.name for wanted in todo.create}
        try:
            made = sorted(
                wanted["name"]
                for wanted in account.wait_until_list_stable(account.connect(), topology)
                if wanted["name"] in names
            )
            rest = f" (made, and paid: {', '.join(made)}: run it again)" if made else ""
        except ApiError as error:
            rest = f" (what was made, and is paid, could not be asked: {error}: 'make cloud-plan')"
        raise OperationError(f"{reasons}{rest}")


def wait_for_salt_cloud(line: list[str]) -> int:
    """
    The exit code of salt-cloud. Ctrl-C is passed on, and it then removes what is made by halves: that is waited for, but
    not for ever. Salt's pool of workers was seen to wait for each other when one had ended; a second Ctrl-C ends it.
    """
    interrupts: list[float] = []
    # Counted from before the start: a KeyboardInterrupt in the middle of Popen would leave salt-cloud to itself.
    previous = signal.signal(signal.SIGINT, lambda *_: interrupts.append(time.monotonic()))
    passed_on = 0
    try:
        # A group of its own: to end it is to end its workers.
        with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.DEVNULL, process_group=0) as process:
            while process.poll() is None:
                if passed_on < len(interrupts):
                    if not passed_on:
                        print("interrupted: salt-cloud removes what is half-made", file=sys.stderr)
                    passed_on += 1
                    _send(process, signal.SIGINT)
                elif interrupts and time.monotonic() > interrupts[0] + account.PATIENCE:
                    print("salt-cloud does not end: ending it", file=sys.stderr)
                    _send(process, signal.SIGKILL)
                time.sleep(0.1)
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupts:
        raise KeyboardInterrupt
    return process.returncode


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def read_error(answer: Any) -> str:
    """What went wrong with one machine of a map; empty when nothing did."""
    if not isinstance(answer, dict) or not answer:
        return "no answer of salt-cloud"
    return str(answer.get("Error") or "")
