"""
How the services of this machine are: for ``make status`` and for the end of ``make up``.

Each formula says in its own ``status.yaml.j2`` what there is to ask; this module knows no service. What asks
(:py:func:`answers`) needs nothing of Salt: bootstrap/status does it without.
"""

import concurrent.futures
import contextlib
import os
import re
import shlex
import subprocess

__virtualname__ = "report"

# Most characters of what a service says of itself.
WIDTH = 100
# systemd's "Failed to execute …" (systemd.journal-fields, sd-messages.h: SD_MESSAGE_SPAWN_FAILED).
SPAWN_FAILED = "641257651c1b4ec9a8624d7a40a9e1e7"


def __virtual__():
    return __virtualname__


def _run(command):
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        # Whatever a service says of itself.
        errors="backslashreplace",
        timeout=10,
        stdin=subprocess.DEVNULL,
        check=False,
        # As the checks before a state (checked.py): never through a proxy.
        env={**os.environ, "no_proxy": "*", "NO_PROXY": "*"},
    )
    return done.returncode, (done.stdout + done.stderr).strip()


PROPERTIES = "Id,LoadState,ActiveState,SubState,NRestarts,ControlGroup,Result,ExecMainStatus"


def _properties(units):
    """What systemd says of each of them, all asked at once: it answers in their order."""
    _, said = _run(f"systemctl show -p {PROPERTIES} -- {shlex.join(units)}")
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in said.split("\n\n")
    ]
    return blocks if len(blocks) == len(units) else [{} for _ in units]


def _last(text):
    """Its last line, clipped; what is not to be printed, as its escape."""
    line = (text.splitlines() or [""])[-1].strip()[:WIDTH]
    return __utils__["printable.escape"](line)


def _why_down(state):
    """Why a unit does not run: `down` when somebody stopped it, else systemd's reason and the last words
    of its processes, or of systemd when it could not execute them."""
    if state.get("LoadState", "loaded") != "loaded":
        return f"unit {state['LoadState']}"
    result = state.get("Result", "success")
    if result == "success":
        # While systemd tries again, the result of the last try is forgotten.
        if state.get("ActiveState") != "activating":
            return "down"
        result = "starting"
    unit = shlex.quote(state["Id"])
    # Only root's words may stand for the unit: UNIT= is anybody's to send.
    _, words = _run(
        f"journalctl -q -n 1 -o cat _SYSTEMD_UNIT={unit}"
        f" + UNIT={unit} MESSAGE_ID={SPAWN_FAILED} _UID=0"
    )
    if (status := state.get("ExecMainStatus", "0")) != "0":
        result += f" {status}"
    return f"{result}: {_last(words)}" if words else result


def _memory(group):
    """Proportional set size of all processes of a control group, MiB. Not the group's own
    accounting: a container may have none."""
    total = 0
    try:
        for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"):
            try:
                with open(f"{base}{group}/cgroup.procs", encoding="ascii") as file:
                    pids = file.read().split()
                break
            except OSError:
                continue
        else:
            return None
        for pid in pids:
            try:
                with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                    found = re.search(r"^Pss:\s+(\d+)", file.read(), re.M)
                total += int(found.group(1)) if found else 0
            except OSError:
                continue
    except ValueError:
        return None
    return round(total / 1024, 1)


def _one(state, name, unit, ask, metric, logs):
    """One row of :py:func:`services`; ``state``: what systemd says of the unit."""
    active = f"{state.get('ActiveState', '?')}"
    health = "ok"
    try:
        if active != "active":
            health = _why_down(state)
        elif "health" in ask:
            code, said = _run(ask["health"])
            if code:
                health = _last(said or f"exit {code}: {ask['health']}")
    except subprocess.TimeoutExpired:
        health = "no answer in 10 s"
    try:
        version = _run(ask["version"])[1] if "version" in ask else ""
    except subprocess.TimeoutExpired:
        version = "?"
    note = ""
    if "note" in ask and health == "ok":
        with contextlib.suppress(subprocess.TimeoutExpired):
            note = _last(_run(ask["note"])[1])
    return {
        "service": name,
        "unit": unit,
        "state": active,
        "version": version.splitlines()[0] if version else "",
        "port": str(ask.get("port", "")),
        "health": health,
        "note": note,
        "memory": _memory(state.get("ControlGroup", "")) if active == "active" else None,
        "restarts": int(state.get("NRestarts") or 0),
        "metric": metric,
        "logs": logs,
        "well": active == "active" and health == "ok",
    }


def answers(questions):
    """Rows of :py:func:`services` for what :py:func:`questions` gave."""
    try:
        states = _properties([unit for _, unit, *_ in questions]) if questions else []
    except subprocess.TimeoutExpired:
        states = [{} for _ in questions]
    # Each waits for other programs most of the time.
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda state, words: _one(state, *words), states, questions))


def services():
    """
    Every service of this machine: ``[{service, unit, state, version, port, health, note, memory,
    restarts, metric, logs, well}]``; ``memory`` in MiB, ``health`` is ``ok`` or what went wrong, ``note`` what it is at the moment,
    ``metric`` the one by which the monitor knows that the service is measured, ``logs`` the names of
    its central logs.

    CLI Example:

    .. code-block:: bash

        salt-call report.services
    """
    return answers(questions())


def questions():
    """
    What there is to ask: ``[[service, unit, {version, health, note, port}, metric, logs]]``, each as in
    :py:func:`services`. It follows from the tree, the installed packages and the records of deploys alone: by these
    bootstrap/status knows whether what it keeps is still true.

    CLI Example:

    .. code-block:: bash

        salt-call report.questions
    """
    measured = __salt__["metrics.collect"]()
    logs = __salt__["formula.collect"]("logs.yaml.j2")
    return [
        [
            name,
            unit,
            ask,
            next(iter(measured.get(name, {}).get("required_series", [])), None),
            sorted(logs.get(name) or {}),
        ]
        for name, units in __salt__["formula.collect"]("status.yaml.j2").items()
        for unit, ask in units.items()
    ]
