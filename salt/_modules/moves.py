"""
For formulas counter and apps: the instances of an application moved to a release, one at a time, and all of them back when one
fails. What a roll is beside that (hooks, commands, the record): ``roll``.
"""

import contextlib
import time

__virtualname__ = "moves"


def __virtual__():
    return __virtualname__


def new(root, version, settings):
    """
    What moves the instances below ``root`` to ``version``: ``run(steps, run_hooks)`` returns None, or what went
    wrong; ``stopped`` is the story of one that was told to stop. ``settings``: see ``roll.run``.
    """
    return _Moves(root, version, settings)


class _Moves:
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
        words = __salt__["release.last_words"](self.root, self.version, unit) if unit else ""
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
