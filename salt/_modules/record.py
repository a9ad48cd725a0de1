"""
For formulas counter and apps: the record of deploys: who asked for a release and why, what was good before, and what came of it.

Three things are kept apart. The *request* comes from the controller with one run (``STACK_DEPLOY`` in
its environment) and is gone with it. The *history* of the machine is the releases that its
instances came through their bake time with, the last one being what every further apply keeps. The *audit log* is every
attempt, whatever came of it.
"""

import contextlib
import grp
import json
import os
import sys
import syslog
import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "record"

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
    What this run was asked to do: ``{action: deploy|rollback|apply, name, version, who, why, id, reason}``,
    ``name`` being the application's. A plain apply is one without ``version``.

    CLI Example:

    .. code-block:: bash

        salt-call record.request
    """
    text = os.environ.get(REQUEST)
    who = os.environ.get("SUDO_USER") or "root"
    wanted = {"action": "apply", "name": "", "version": None, "who": who}
    wanted |= {"why": "", "id": "", "reason": ""}
    if text:
        try:
            given = json.loads(text)
            wanted.update({key: given[key] for key in wanted if key in given})
        except (TypeError, ValueError) as error:
            raise CommandExecutionError(f"{REQUEST}: not a JSON object: {error}") from None
    return wanted


def progress(text):
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

        salt-call record.history counter
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

        salt-call record.current counter
    """
    known = history(name)
    return known[-1]["version"] if known else None


def previous(name):
    """The last good release before the one in use, which ``make rollback`` goes to; None without one.

    CLI Example:

    .. code-block:: bash

        salt-call record.previous counter
    """
    known = [entry["version"] for entry in history(name)]
    return next((version for version in reversed(known) if version != known[-1]), None)


def remember(name, version, sha256=None):
    """
    ``version`` has proven itself on every instance. After a rollback the history ends with it; else
    it is added at the end.
    """
    wanted, known = request(), history(name)
    if known and known[-1]["version"] == version:
        return
    entry = {
        "version": version,
        "sha256": sha256,
        "at": _now(),
        "who": wanted["who"],
    }
    if wanted["action"] == "rollback" and version in [entry["version"] for entry in known]:
        while known[-1]["version"] != version:
            known.pop()
    if not known or known[-1]["version"] != version:
        known.append(entry)
    text = json.dumps({"name": name, "history": known[-_REMEMBERED:]}, indent=1)
    __utils__["atomic_file.write"](os.path.join(STATE, f"{name}.json"), text, mode=0o644)


# --- audit ----------------------------------------------------------------------------------------


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(name, outcome, old, new, **more):
    """
    One line in the audit log and in the journal (identifier ``NAME-deploy``).

    outcome
        ``started``, ``succeeded``, ``unchanged``, ``failed`` or ``refused``
    old, new
        the versions; equal when only settings change
    """
    wanted = request()
    entry = {
        "ts": _now(),
        "machine": (__pillar__.get("machine") or {}).get("name", ""),
        "name": name,
        "action": wanted["action"],
        "outcome": outcome,
        "from": old,
        "to": new,
        "who": wanted["who"],
        "why": wanted["why"],
        "id": wanted["id"],
        **more,
    }
    line = json.dumps(entry, ensure_ascii=False)
    syslog.openlog(f"{name}-deploy")
    is_good = outcome in ("started", "succeeded", "unchanged")
    syslog.syslog(syslog.LOG_NOTICE if is_good else syslog.LOG_WARNING, line)
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

        STACK_DEPLOY='{"action": "deploy", "version": "2", "reason": "…"}' salt-call record.refused counter
    """
    wanted = request()
    write(name, "refused", current(name), wanted["version"], reason=wanted["reason"])
