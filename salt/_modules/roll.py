"""
For formulas counter and apps: the roll: the instances of an application are moved to a release one at a time, and all of them back
when one fails. The work behind the state ``release.rolled``, whose parameters are explained there.
"""

import time

__virtualname__ = "roll"


def __virtual__():
    return __virtualname__


def plan(name, root, version, instances, address, port, environment, values, watch_files):
    """
    What is not as it should be: ``[{number, unit, port, environment, fingerprint, restart}]``. An instance
    without ``restart`` is only to be enabled. Raises CommandExecutionError for an unusable environment.
    """
    steps = []
    for number in range(1, instances + 1):
        unit, own_port = f"{name}@{number}.service", port + number - 1
        own = __salt__["instance.own_environment"](
            environment, values, unit, number, address, own_port
        )
        fingerprint = __salt__["instance.fingerprint"](root, version, own, watch_files)
        is_active = __salt__["units.systemctl"]("is-active", unit)[0] == 0
        is_enabled = __salt__["units.systemctl"]("is-enabled", unit)[0] == 0
        has_changed = __salt__["instance.started_with"](root, number) != fingerprint
        if has_changed or not is_active or not is_enabled:
            steps.append(
                {
                    "number": number,
                    "unit": unit,
                    "port": own_port,
                    "environment": own,
                    "fingerprint": fingerprint,
                    "restart": has_changed or not is_active,
                }
            )
    return steps


def preview(name, version, steps, surplus):
    """``{unit: what would be done}``; see :py:func:`run`."""
    return {
        **{
            step["unit"]: f"would be rolled to {version}" if step["restart"] else "would be enabled"
            for step in steps
        },
        **{f"{name}@{number}.service": "would be drained and removed" for number in surplus},
    }


def run(name, root, version, steps, surplus, settings):
    """
    Move the instances of :py:func:`plan`, remove those of the numbers ``surplus``, and keep the record of it.
    Returns ``(changes, warnings, error)``: ``{unit: what was done}``, hooks that failed in a rollback, and
    None or why it failed.

    settings
        ``{address, health, smoke, timeout, in_rotation, rotation_seconds, bake_seconds, watch_files, hooks, keep}``
    """
    changes, warnings, command_changes = {}, [], {}
    to_roll = [step for step in steps if step["restart"]]
    action = __salt__["record.request"]()["action"]
    if action == "rollback":
        # It goes to what has proven itself; every second of the bad one counts.
        settings = {**settings, "bake_seconds": 0, "smoke": None}
    previous = _current(name, root, bool(to_roll))
    began = time.monotonic()

    def record(outcome, **more):
        __salt__["record.write"](name, outcome, previous, version, **more)

    def seconds():
        return round(time.monotonic() - began, 1)

    if to_roll:
        record("started")
        roll = __salt__["moves.new"](root, version, settings)
        hooks = settings["hooks"] if previous != version else {}
        variables = {"NAME": name, "VERSION": version, "FROM": previous or "", "ROOT": root}

        def run_hooks(when):
            failure = _run_hooks(hooks.get(when), variables, when)
            if not failure and when == "before" and previous != version and action != "rollback":
                failure = _run_release_command(name, root, version, settings["commands"])
            if not failure and when == "after":
                done, failure = __salt__["commands.start"](
                    name, root, version, *settings["commands"]
                )
                command_changes.update(done)
            if failure and action == "rollback":
                # Nothing may keep anybody on the bad release.
                warnings.append(failure)
                __salt__["record.progress"](f"{failure.splitlines()[0]}; the rollback goes on")
                return None
            return failure

        try:
            error = roll.run(to_roll, run_hooks)
        except (KeyboardInterrupt, SystemExit) as stop:
            reason = roll.stopped or f"stopped ({type(stop).__name__}) in a hook"
            record("failed", seconds=seconds(), reason=reason)
            raise
        if error:
            record("failed", seconds=seconds(), reason=error)
            _prune(name, root, settings["keep"])
            return {}, warnings, error
        changes = {step["unit"]: f"on {version}" for step in to_roll}
    else:
        command_changes, error = __salt__["commands.start"](
            name, root, version, *settings["commands"]
        )
        if error:
            return command_changes, warnings, error
    changes |= command_changes
    error = _enable([step["unit"] for step in steps], changes)
    if error:
        return changes, warnings, error
    sha256 = __salt__["release.stored_sha256"](root, version)
    __salt__["record.remember"](name, version, sha256)
    if to_roll:
        reason = {"reason": "; ".join(warnings)} if warnings else {}
        record("succeeded", seconds=seconds(), sha256=sha256, **reason)
    elif action != "apply":
        record("unchanged")
    error = _remove(name, root, surplus, changes)
    if not error and (pruned := _prune(name, root, settings["keep"])):
        changes["removed"] = pruned
    return changes, warnings, error


def _run_release_command(name, root, version, commands):
    """None, or what went wrong."""
    units, environment, values = commands
    if units:
        __salt__["commands.assign"](root, units, environment, values)
    return __salt__["commands.release"](name, root, version, units)


def _current(name, root, is_moving):
    """The release that was good until now."""
    current = __salt__["record.current"](name)
    if current is None and is_moving:
        # Of before there was a history: what all instances are set to is good.
        running = set(__salt__["instance.running"](root).values())
        if len(running) == 1:
            current = running.pop()
            sha256 = __salt__["release.stored_sha256"](root, current)
            __salt__["record.remember"](name, current, sha256)
    return current


def _enable(units, changes):
    """None, or why one cannot be enabled."""
    for unit in units:
        if __salt__["units.systemctl"]("is-enabled", unit)[0] != 0:
            code, output = __salt__["units.systemctl"]("enable", unit)
            if code:
                return f"{unit} cannot be enabled: {output}"
            changes.setdefault(unit, "enabled")
    return None


def _remove(name, root, numbers, changes):
    """Drain and remove instances; None, or why one cannot be stopped."""
    for number in numbers:
        unit = f"{name}@{number}.service"
        code, output = __salt__["units.systemctl"]("disable", "--now", unit)
        if code:
            return f"{unit} cannot be stopped: {output}"
        __salt__["instance.remove"](root, number)
        changes[unit] = "drained and removed"
    return None


def _prune(name, root, keep):
    """At the end of a roll, whatever came of it, so that the next apply finds nothing to remove."""
    previous = __salt__["record.previous"](name)
    proven = [entry["version"] for entry in __salt__["record.history"](name)]
    return __salt__["release.prune"](root, keep, [previous] if previous else [], proven)


def _run_hooks(hooks, variables, when):
    """Run them in order; None, or what the first one that failed said."""
    for hook in hooks or []:
        __salt__["record.progress"](f"hook {when}: {hook['command']}")
        failure = __salt__["hooks.run"](hook, {**variables, "WHEN": when})
        if failure:
            return failure
    return None
