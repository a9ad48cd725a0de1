"""
For formulas counter and apps: instances of an application, ``NAME@N.service``: each a folder, ``ROOT/instances/N``, with a link to its release
and its own environment file, so that each can be moved, and moved back, alone.
"""

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "instance"


def __virtual__():
    return __virtualname__


def running(root):
    """Which release each instance is set to: ``{instance: version}``.

    CLI Example:

    .. code-block:: bash

        salt-call instance.running /opt/counter
    """
    parent = os.path.join(root, "instances")
    versions = {}
    names = os.listdir(parent) if os.path.isdir(parent) else []
    for name in sorted((name for name in names if name.isdigit()), key=int):
        link = os.path.join(parent, name, "release")
        if os.path.islink(link):
            versions[name] = os.path.basename(os.readlink(link))
    return versions


def versions_in_use(root):
    """What instances are set to, and what an interrupted roll would take them back to: a set of versions."""
    good = (_good(root, number) for number in running(root))
    return {*running(root).values(), *(known[0] for known in good if known)}


def stage(root, version):
    """
    Let ``ROOT/instances/new/release`` point to ``version``: the instance that is never started
    but with which a unit template is verified, before any real instance is touched. True when
    it did not point there.
    """
    link = os.path.join(_make_folder(root, "new"), "release")
    target = f"../../releases/{version}"
    if os.path.islink(link) and os.readlink(link) == target:
        return False
    __utils__["atomic_file.link"](link, target)
    return True


def fingerprint(root, version, environment, watch_files):
    """
    What an instance runs on, as one hash: its release, its environment and the content of the
    files it loads (its unit, its credentials).
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([root, version, environment], sort_keys=True).encode())
    for path in watch_files:
        digest.update(path.encode())
        sha256 = __salt__["artifact.sha256"]
        digest.update(sha256(path).encode() if os.path.exists(path) else b"-")
    return digest.hexdigest()


def refuse_unusable(where, environment, values):
    """
    Stop the run while it renders, before anything changes, for a value of ``environment`` with braces
    that name none of ``values`` nor of what each instance has of its own (:py:func:`environment`).

    CLI Example:

    .. code-block:: bash

        salt-call instance.refuse_unusable 'pillar a:environment' '{PORT: "{prot}"}' '{}'
    """
    try:
        own_environment(environment, values, "a@1.service", 1, "127.0.0.1", 1)
    except CommandExecutionError as error:
        __salt__["formula.refuse"](f"{where}:{error}")


def own_environment(environment, values, unit, number, address, port):
    """
    ``environment`` with its placeholders replaced for one instance: what ``values`` names, and
    ``{instance}``, ``{port}``, ``{address}``, ``{credentials}``. Raises CommandExecutionError, a line that
    begins with the key.
    """
    known = {
        **(values or {}),
        "instance": number,
        "port": port,
        "address": address,
        "credentials": f"/run/credentials/{unit}",
    }
    own = {}
    for key, value in environment.items():
        try:
            own[key] = str(value).format(**known)
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise CommandExecutionError(
                f"{key}: {value!r}: unknown placeholder ({error}); known: {', '.join(sorted(known))};"
                " braces that are the value's own are doubled: {{ and }}"
            ) from None
        if "\n" in own[key]:
            raise CommandExecutionError(f"{key}: {own[key]!r} spans lines; one is allowed")
    return own


def _folder(root, instance):
    return os.path.join(root, "instances", str(instance))


def _make_folder(root, instance):
    """Its folder, made where it is missing; its account can get to its release."""
    folder = _folder(root, instance)
    __utils__["atomic_file.make_folder"](folder)
    for path in (os.path.dirname(folder), folder):
        __utils__["atomic_file.set_mode"](path, 0o755)
    return folder


def started_with(root, instance):
    """Fingerprint that ``instance`` was last started with, or None."""
    text = _text(root, instance, "started")
    return None if text is None else text.strip()


def assign(root, instance, version, environment):
    """
    Point ``instance`` to ``version`` and write its environment file; for going back by
    :py:func:`restore`, returns what :py:func:`before` says before it.
    """
    previous = before(root, instance)
    _make_folder(root, instance)
    text = environment_text(environment)
    _replace(_folder(root, instance), version, text)
    return previous


def environment_text(environment):
    """``environment`` as systemd's EnvironmentFile= has it."""
    return "".join(f'{key}="{_quoted(value)}"\n' for key, value in sorted(environment.items()))


def before(root, instance):
    """
    What ``instance`` is set to: ``(version, text of the environment file, fingerprint, that of the files
    it used)``, the last two None where they are not known.
    """
    started, good = started_with(root, instance), _good(root, instance)
    if good is not None and started is None:
        # A roll was interrupted half-way: what it tried is nothing to go back to.
        return good
    used = good[3] if good and good[2] == started else None
    text = _text(root, instance, "env")
    return running(root).get(str(instance)), text, started, used


def restore(root, instance, before):
    """Undo :py:func:`assign`."""
    version, text, *_ = before
    if version is not None:
        _replace(_folder(root, instance), version, text or "")


def _quoted(value):
    value = str(value)
    if "\n" in value:
        raise CommandExecutionError(f"an environment value spans lines: {value!r}")
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _text(root, instance, name):
    return __utils__["atomic_file.read_text"](os.path.join(_folder(root, instance), name))


def _good(root, instance):
    """What ``instance`` last proved itself on, as :py:func:`before` returns it, or None."""
    text = _text(root, instance, "good")
    return None if text is None else tuple([*json.loads(text), None, None][:4])


def _replace(folder, version, text):
    # While these two disagree with what was started, `started` is gone: an interrupted roll
    # is then seen, and finished, by the next one.
    __utils__["atomic_file.remove"](os.path.join(folder, "started"))
    path = os.path.join(folder, "env")
    # Not written again where it is the same: so the way back is open when the disk is full.
    if __utils__["atomic_file.read_text"](path) != text:
        __utils__["atomic_file.write"](path, text, mode=0o644)
    __utils__["atomic_file.link"](os.path.join(folder, "release"), f"../../releases/{version}")


def mark_started(root, instance, value, watch_files=()):
    """
    Remember the fingerprint that ``instance`` now runs on, and what that is, to go back to.
    ``watch_files``: the files that it loaded.
    """
    text = _text(root, instance, "env")
    good = [
        running(root).get(str(instance)),
        text,
        value,
        fingerprint(root, None, None, watch_files),
    ]
    path = os.path.join(_folder(root, instance), "good")
    __utils__["atomic_file.write"](path, json.dumps(good), mode=0o644)
    with open(os.path.join(_folder(root, instance), "started"), "w", encoding="ascii") as file:
        file.write(value)


def wait_ready(address, port, path, seconds, unit=None):
    """
    Wait until ``GET path`` answers 200; None then, else what it answered last. Ends at once
    when ``unit`` is no longer running.
    """
    deadline = time.monotonic() + seconds
    last = "no answer"
    while True:
        try:
            status, body = _get(address, port, path, 2)
            if status == 200:
                return None
            last = f"{path} answers {status} {body.decode(errors='replace').strip()}"
        except (OSError, http.client.HTTPException) as error:
            last = f"{path}: {error}"
        if unit and __salt__["units.systemctl"]("is-failed", unit)[0] == 0:
            return f"{unit} has failed ({last})"
        if time.monotonic() > deadline:
            return f"not ready after {seconds} s: {last}"
        time.sleep(0.1)


def smoke_test(address, port, path, seconds):
    """None when ``GET path`` answers with 2xx, else what it answered instead. A redirect is not followed:
    where it leads is not said to work."""
    try:
        status, _ = _get(address, port, path, seconds)
    except (OSError, http.client.HTTPException) as error:
        return f"GET {path}: {error or type(error).__name__}"
    return None if 200 <= status < 300 else f"GET {path} answers {status}, not 2xx"


def _get(address, port, path, seconds):
    """``(status, first bytes of what an error says)``."""
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(200) if response.status >= 300 else b""
    finally:
        connection.close()


def wait_until_in_rotation(command, seconds, timeout):
    """
    Wait until ``command`` succeeds, or without one for ``seconds``; None then, else what is
    wrong after ``timeout`` seconds.
    """
    if not command:
        time.sleep(seconds)
        return None
    deadline = time.monotonic() + timeout
    while subprocess.run(
        command, shell=True, capture_output=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    ).returncode:
        if time.monotonic() > deadline:
            return f"the load balancer did not take it back within {timeout} s ({command})"
        time.sleep(0.1)
    return None


def remove(root, instance):
    """Forget ``instance``; its unit must be stopped."""
    shutil.rmtree(_folder(root, instance), ignore_errors=True)


def invocation(unit):
    """systemd's id of this run of ``unit``; None while it does not run."""
    shown = __salt__["units.systemctl"]("show", unit, "--property=ActiveState,InvocationID")[1]
    properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return properties.get("InvocationID") if properties.get("ActiveState") == "active" else None


def bake(invocations, seconds):
    """
    Wait ``seconds`` while all units keep running; None then, else ``(unit, what happened to it)`` at once.

    invocations
        ``{unit: what` :py:func:`invocation` `said of it}``
    """
    began = time.monotonic()
    while True:
        for unit, known in invocations.items():
            if invocation(unit) != known:
                after = time.monotonic() - began
                return unit, f"died {after:.1f} s into its bake time"
        if time.monotonic() - began >= seconds:
            return None
        time.sleep(min(0.25, max(0.0, seconds - (time.monotonic() - began))))
