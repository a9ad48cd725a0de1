"""
For formulas counter and apps: the roll: the instances of an application are moved to a release one at a time, and all of them back
when one fails. The work behind the state ``release.rolled``, whose parameters are explained there.
"""

import contextlib
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
        roll = _Roll(root, version, settings)
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


class _Roll:
    """Moves instances forth, one at a time, and all of them back when one fails."""

    def __init__(self, root, version, settings):
        self.root, self.version, self.settings = root, version, settings
        self.watch_files = settings["watch_files"]
        # (step, what was before), in the order of moving.
        self.moved, self.total = [], 0
        # The unit that is worked on, and the story of a roll that was told to stop.
        self.unit, self.stopped = None, ""
        # {unit: this run of it}, for those that have something to go back to.
        self.invocations = {}

    def run(self, steps, run_hooks):
        """None, or what went wrong; then all is back."""
        failure = run_hooks("before")
        if failure:
            # No instance has moved yet.
            self._restore_used_files()
            return f"{failure}; nothing was changed"
        error = self._guarded(self._forward, steps)
        if not error:
            failure = run_hooks("after")
            error = failure and self._back(None, failure)
        return error or self._guarded(self._mark_started, steps)

    def _guarded(self, work, steps):
        # Whatever happens: a full disk, a command that hangs, Ctrl-C of who watches.
        try:
            return work(steps)
        except (KeyboardInterrupt, SystemExit) as stop:
            self.stopped = self._back(None, f"stopped ({type(stop).__name__})")
            raise
        except Exception as error:
            return self._back(self.unit, str(error) or type(error).__name__)

    def _mark_started(self, steps):
        self.unit = None
        for step in steps:
            __salt__["instance.mark_started"](
                self.root, step["number"], step["fingerprint"], self.watch_files
            )

    def _forward(self, steps):
        progress, bake_seconds = __salt__["record.progress"], self.settings["bake_seconds"]
        self.total = len(steps)
        steps = sorted(steps, key=self._serves)
        for step in steps:
            unit, is_first, is_last = step["unit"], not self.moved, step is steps[-1]
            self.unit = unit
            before = __salt__["instance.before"](self.root, step["number"])
            # First: half of it may be written when it fails.
            self.moved.append((step, before))
            __salt__["instance.assign"](
                self.root, step["number"], self.version, step["environment"]
            )
            drains = f"{before[0]} drains, then " if before[0] else ""
            progress(f"{unit}: {drains}{self.version} starts")
            began = time.monotonic()
            failure = self._start(step, self.settings["smoke"])
            if failure:
                return self._back(unit, failure)
            progress(f"{unit}: ready and in rotation after {time.monotonic() - began:.1f} s")
            if before[0] is not None and bake_seconds:
                self.invocations[unit] = __salt__["instance.invocation"](unit)
            if self.invocations and (is_first or is_last):
                failed = self._bake(unit, bake_seconds)
                if failed:
                    return self._back(*failed)
        return None

    def _bake(self, unit, seconds):
        """None, or ``(unit, what is wrong)``: alive is not enough, each must be able to serve at its end."""
        count = len(self.invocations)
        units = unit if count == 1 else f"all {count}"
        __salt__["record.progress"](f"{units}: bake time of {seconds:g} s")
        died = __salt__["instance.bake"](self.invocations, seconds)
        if died:
            return died
        for step, _ in self.moved:
            self.unit = step["unit"]
            if step["unit"] in self.invocations:
                failure = self._wait_ready(step) or self._smoke_test(step, self.settings["smoke"])
                if failure:
                    return step["unit"], f"after its bake time: {failure}"
        return None

    def _wait_ready(self, step, timeout=None):
        """None when it is ready, at once with a ``timeout`` of 0; else what is wrong."""
        timeout = self.settings["timeout"] if timeout is None else timeout
        return __salt__["instance.wait_ready"](
            self.settings["address"], step["port"], self.settings["health"], timeout, step["unit"]
        )

    def _smoke_test(self, step, path):
        """None when the instance answers ``path`` with 2xx, or there is none to ask, else what it says."""
        if not path:
            return None
        return __salt__["instance.smoke_test"](
            self.settings["address"], step["port"], path, self.settings["timeout"]
        )

    def _wait_until_in_rotation(self, step, seconds, timeout):
        command = self.settings["in_rotation"] and self.settings["in_rotation"].format(
            instance=step["number"], address=self.settings["address"], port=step["port"]
        )
        return __salt__["instance.wait_until_in_rotation"](command, seconds, timeout)

    def _serves(self, step):
        """Whether the instance is ready and in rotation at this moment."""
        if __salt__["units.systemctl"]("is-active", step["unit"])[0]:
            return False
        if self._wait_ready(step, 0):
            return False
        return not self._wait_until_in_rotation(step, 0, 0)

    def _start(self, step, smoke=None):
        """Restart, wait until ready, ask ``smoke``, then wait until it is in rotation; None, or what is
        wrong."""
        __salt__["units.systemctl"]("reset-failed", step["unit"])
        code, output = __salt__["units.systemctl"]("restart", step["unit"])
        if code:
            return output.splitlines()[0] if output else f"systemctl restart: exit code {code}"
        failure = self._wait_ready(step) or self._smoke_test(step, smoke)
        if failure:
            return failure
        # An instance that is ready is not yet in rotation: were the next one drained before the
        # load balancer's next check, there would be none for a moment.
        failure = self._wait_until_in_rotation(
            step, self.settings["rotation_seconds"], self.settings["timeout"]
        )
        return f"it is ready, but {failure}" if failure else None

    def _restore_used_files(self):
        """What this run put in place for the instances to load: they go back to what they ran on."""
        if __salt__["file_set.take_back"](self.watch_files):
            __salt__["units.systemctl"]("daemon-reload")

    def _back(self, unit, reason):
        """Put every moved instance back, ``unit`` (the failed one) first; the whole story."""
        what = f"{unit} on {self.version}: {reason}" if unit else f"{self.version}: {reason}"
        __salt__["record.progress"](f"FAILED {what.splitlines()[0]}")
        words = __salt__["units.last_words"](unit, 10) if unit else ""
        if not self.moved:
            after = "nothing was changed"
        elif all(before[0] is None for _, before in self.moved):
            after = "it is the first release, so there is none to go back to"
        else:
            after = self._restore(unit)
        story = f"{what}; {after}"
        if len(self.moved) < self.total:
            story += "; later instances were not touched"
        return f"{story}\nlast words of {unit}:\n{words}" if words else story

    def _restore(self, failed_unit):
        progress = __salt__["record.progress"]
        restored, troubles = [], []
        self._restore_used_files()
        for step, before in sorted(self.moved, key=lambda pair: pair[0]["unit"] != failed_unit):
            unit = step["unit"]
            if before[0] is None:
                # New beside others that go back: there is nothing for it to run.
                __salt__["units.systemctl"]("disable", "--now", unit)
                __salt__["instance.remove"](self.root, step["number"])
                continue
            if troubles and self._wait_ready(step, 0) is None:
                # What did not come up for one will not for the next: better a release that nobody
                # wants than none.
                troubles.append(f"{unit} is left on {self.version}, for it is ready")
                progress(f"{unit}: left on {self.version}, for it is ready")
                continue
            failure = self._restart_on(step, before)
            if failure:
                troubles.append(f"{unit}: {failure}")
                progress(f"{unit}: back on {before[0]}, but {failure}")
                continue
            progress(f"{unit}: back on {before[0]}")
            restored.append(unit)
        old = ", ".join(sorted({before[0] for _, before in self.moved if before[0]}))
        others = [unit for unit in restored if unit != failed_unit]
        text = f"it is back on {old}" if failed_unit in restored else ""
        if others:
            text += f"{', with it ' if text else 'back on ' + old + ': '}{', '.join(others)}"
        return "; ".join(filter(None, [text, *(f"but {trouble}" for trouble in troubles)]))

    def _restart_on(self, step, before):
        """Start an instance on what it had ``before``; None, or what is wrong."""
        try:
            __salt__["instance.restore"](self.root, step["number"], before)
            failure = self._start(step)
        except Exception as error:
            failure = str(error) or type(error).__name__
        if failure:
            return failure
        # As it was, unless its unit or a credential is another one by now: then it is for the next
        # apply to see. So also where there is no room to write it down.
        with contextlib.suppress(OSError):
            if before[3] == __salt__["instance.fingerprint"](
                self.root, None, None, self.watch_files
            ):
                __salt__["instance.mark_started"](
                    self.root, step["number"], before[2], self.watch_files
                )
        return None
