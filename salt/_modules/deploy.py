"""
The act of bringing a release to an application: who asked for it and why, what was good before,
what runs around it, and the record that stays.

Three things are kept apart. The *request* comes from the controller with one run (``STACK_DEPLOY`` in
its environment) and is gone with it. The *history* of the machine is the releases that its
instances came through their probation with, the last one being what every further apply keeps. The *audit log* is every
attempt, whatever came of it.
"""

import contextlib
import grp
import json
import os
import subprocess
import sys
import syslog
import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "deploy"

# NAME.json: the history of an application on this machine.
STATE = "/var/lib/stack/releases"
# NAME-deploys.log: one JSON object per line, for every attempt.
LOGS = "/var/log/stack"
# What the controller asks for: {action, version, who, why, id}.
REQUEST = "STACK_DEPLOY"
# Set by bootstrap/converge, whose output a person watches: when it began, by the monotonic clock.
PROGRESS = "STACK_PROGRESS"
# Entries of the history that are kept; far more than releases are.
_REMEMBERED = 50


def __virtual__():
    return __virtualname__


def request():
    """
    What this run was asked to do: ``{action: deploy|rollback|apply, version, who, why, id, reason}``. A plain
    apply is one without ``version``.

    CLI Example:

    .. code-block:: bash

        salt-call deploy.request
    """
    text = os.environ.get(REQUEST)
    who = os.environ.get("SUDO_USER") or "root"
    asked = {"action": "apply", "version": None, "who": who, "why": "", "id": "", "reason": ""}
    if text:
        try:
            given = json.loads(text)
            asked.update({key: given[key] for key in asked if key in given})
        except (TypeError, ValueError) as error:
            raise CommandExecutionError(f"{REQUEST}: not a JSON object: {error}") from None
    return asked


def say(text):
    """One line of progress, for who watches; nothing where the output is a program's."""
    started = os.environ.get(PROGRESS)
    if not started:
        return
    # Whoever watched may have gone: a roll goes on without them.
    with contextlib.suppress(OSError, ValueError):
        begin = "\r\033[K" if sys.stdout.isatty() else ""
        sys.stdout.write(f"{begin}{'':9}{time.monotonic() - float(started):6.1f}s    {text}\n")
        sys.stdout.flush()


# --- history --------------------------------------------------------------------------------------


def history(name):
    """
    Releases that were rolled whole on this machine, ``[{version, at, who, sha256}]``; the last one is the one
    in use. A rollback takes off what it leaves behind.

    CLI Example:

    .. code-block:: bash

        salt-call deploy.history counter
    """
    try:
        with open(os.path.join(STATE, f"{name}.json"), encoding="utf-8") as file:
            return json.load(file)["history"]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError) as error:
        raise CommandExecutionError(
            f"{STATE}/{name}.json is damaged ({error}): look at {LOGS}/{name}-deploys.log for what was"
            " deployed, move the file away, and deploy that again"
        ) from None


def current(name):
    """The release that this machine keeps until told otherwise; None before the first one.

    CLI Example:

    .. code-block:: bash

        salt-call deploy.current counter
    """
    known = history(name)
    return known[-1]["version"] if known else None


def previous(name):
    """The last good release before the one in use, which ``make rollback`` goes to; None without one.

    CLI Example:

    .. code-block:: bash

        salt-call deploy.previous counter
    """
    known = [entry["version"] for entry in history(name)]
    return next((version for version in reversed(known) if version != known[-1]), None)


def overview(formula="counter"):
    """
    What a formula's application runs, could run and ran here: ``{name, running: {instance: version},
    installed: […], history: […]}``.

    CLI Example:

    .. code-block:: bash

        salt-call deploy.overview
    """
    settings = __salt__["formula.settings"](formula)
    return {
        "name": settings["name"],
        "running": __salt__["release.running"](settings["root"]),
        "installed": __salt__["release.installed"](settings["root"]),
        "history": history(settings["name"]),
    }


def remember(name, version, sha256=None):
    """
    ``version`` has proven itself on every instance. After a rollback the history ends with it; else
    it is added at the end.
    """
    asked, known = request(), history(name)
    if known and known[-1]["version"] == version:
        return
    entry = {
        "version": version,
        "sha256": sha256,
        "at": _now(),
        "who": asked["who"],
    }
    if asked["action"] == "rollback" and version in [one["version"] for one in known]:
        while known[-1]["version"] != version:
            known.pop()
    if not known or known[-1]["version"] != version:
        known.append(entry)
    text = json.dumps({"name": name, "history": known[-_REMEMBERED:]}, indent=1)
    __salt__["whole.write"](os.path.join(STATE, f"{name}.json"), text, mode=0o644)


# --- audit ----------------------------------------------------------------------------------------


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def record(name, outcome, old, new, **more):
    """
    One line in the audit log and in the journal (identifier ``NAME-deploy``).

    outcome
        ``started``, ``succeeded``, ``unchanged``, ``failed`` or ``refused``
    old, new
        the versions; equal when only settings change
    """
    asked = request()
    entry = {
        "ts": _now(),
        "machine": (__pillar__.get("machine") or {}).get("name", ""),
        "name": name,
        "action": asked["action"],
        "outcome": outcome,
        "from": old,
        "to": new,
        "who": asked["who"],
        "why": asked["why"],
        "id": asked["id"],
        **more,
    }
    line = json.dumps(entry, ensure_ascii=False)
    syslog.openlog(f"{name}-deploy")
    well = outcome in ("started", "succeeded", "unchanged")
    syslog.syslog(syslog.LOG_NOTICE if well else syslog.LOG_WARNING, line)
    syslog.closelog()
    os.makedirs(LOGS, mode=0o755, exist_ok=True)
    path = os.path.join(LOGS, f"{name}-deploys.log")
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        with contextlib.suppress(KeyError, PermissionError):
            os.fchown(handle, -1, grp.getgrnam("adm").gr_gid)
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def refused(name):
    """
    The record of what the controller refused before this machine was touched; ``reason`` comes with
    the request.

    CLI Example:

    .. code-block:: bash

        STACK_DEPLOY='{"action": "deploy", "version": "2", "reason": "…"}' salt-call deploy.refused counter
    """
    asked = request()
    record(name, "refused", current(name), asked["version"], reason=asked["reason"])


# --- hooks ----------------------------------------------------------------------------------------


def hook(hook, environment):
    """
    Run a command of the pillar within its limits; None, or what went wrong.

    hook
        ``{command, timeout, user, memory}``: a shell command, seconds, an account (none: one of its own,
        made for the run), and megabytes. In a transient unit: no new privileges, a read-only system,
        at most 64 tasks.
    environment
        what it is told, ``{NAME: value}``
    """
    limits = {
        "RuntimeMaxSec": hook.get("timeout", 60),
        "MemoryMax": f"{hook.get('memory', 256)}M",
        "TasksMax": 64,
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        **(
            {"User": hook["user"]}
            if hook.get("user")
            else {"DynamicUser": "yes", "ProtectSystem": "strict", "ProtectHome": "yes"}
        ),
    }
    words = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec"]
    words += [f"--property={key}={value}" for key, value in limits.items()]
    words += [f"--setenv={key}={value}" for key, value in environment.items()]
    try:
        done = subprocess.run(
            [*words, "/bin/sh", "-c", hook["command"]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=hook.get("timeout", 60) + 30,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"hook '{hook['command']}': {error}"
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).strip()[-2000:]
    return f"hook '{hook['command']}': exit code {done.returncode}, or over its limits" + (
        f":\n{said}" if said else ""
    )


# --- probation ------------------------------------------------------------------------------------


def life(unit):
    """What tells one run of ``unit`` from the next; None while it does not run."""
    said = __salt__["checked.systemctl"]("show", unit, "--property=ActiveState,InvocationID")[1]
    told = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return told.get("InvocationID") if told.get("ActiveState") == "active" else None


def watch(lives, seconds):
    """
    Wait ``seconds`` while all units live on; None then, else ``(unit, what happened to it)`` at once.

    lives
        ``{unit: what` :py:func:`life` `said of it}``
    """
    began = time.monotonic()
    while True:
        for unit, known in lives.items():
            if life(unit) != known:
                after = time.monotonic() - began
                return unit, f"died {after:.1f} s into its probation"
        if time.monotonic() - began >= seconds:
            return None
        time.sleep(min(0.25, max(0.0, seconds - (time.monotonic() - began))))
