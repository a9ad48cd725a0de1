"""
For formula counter: releases and the rolling of instances; see the execution modules ``release`` (what is on the disk)
and ``deploy`` (who asked for it, what was good before, the record).
"""

import contextlib
import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "release"


def __virtual__():
    return __virtualname__


def installed(name, root, version, source=None, sha256=None, signers=None):
    """
    The artifact ``name-version.tar.gz`` is verified and unpacked under ``root``, and all of it is as it was
    unpacked.

    source, sha256
        URL to fetch it from where the controller did not bring it, and its hash
    signers
        public keys, one of which must have signed it

    .. code-block:: yaml

        counter release:
          release.installed:
            - name: counter
            - root: /opt/counter
            - version: 0.1.0-g0123456789ab
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{version} is installed"}
    there = version in __salt__["release.installed"](root)
    if __opts__["test"]:
        refused = signers and __salt__["release.refusal"](name, root, version, source, signers)
        if refused:
            return {**ret, "result": False, "comment": refused}
        wrong = __salt__["release.damage"](root, version) if there else []
        if there and not wrong:
            return ret
        return {
            **ret,
            "result": None,
            "changes": {name: "; ".join(wrong[:3]) or version},
            "comment": f"{version} would be {'mended' if there else 'installed'}",
        }
    try:
        done = __salt__["release.install"](name, root, version, source, sha256, signers)
        # Seen by the check of the unit, which comes next.
        __salt__["release.offer"](root, version)
    except (CommandExecutionError, OSError) as error:
        __salt__["deploy.record"](
            name, "refused", __salt__["deploy.current"](name), version, reason=str(error)
        )
        return {**ret, "result": False, "comment": str(error)}
    if not there:
        ret["changes"][name] = f"{version} installed"
        ret["comment"] = f"{version} verified and unpacked"
    elif done:
        ret["changes"][name] = f"{version} was not as it was installed: mended"
        ret["comment"] = ret["changes"][name]
    return ret


def rolled(
    name,
    root,
    version,
    instances,
    address,
    port,
    environment,
    values=None,
    uses=None,
    health="/readyz",
    smoke=None,
    timeout=30,
    settled=None,
    settle=0,
    probation=0,
    hooks=None,
    keep=5,
):
    """
    Every instance runs ``version`` with ``environment``, moved one at a time: an instance is
    stopped (it drains by itself), set, started and waited for before the next one is touched. The
    first one must also live through the whole probation before the second is touched; all must
    before the roll counts. Those that do not serve come first, such as one that a killed roll left in
    the middle of its restart: never is the last one that serves taken out.

    One that does not get ready, or dies in its probation, goes back to what it ran before, and so do
    those that were moved before it; the state fails with the reason and the instance's last words.
    Killed at any moment, the next run begins again with what had proven itself before.

    name
        unit name without the instance: ``counter`` for ``counter@1.service``
    instances
        how many; instance ``N`` listens on port ``port + N - 1``
    environment
        its settings; ``{instance}``, ``{port}``, ``{address}``, ``{credentials}`` and what
        ``values`` names are replaced
    values
        more placeholders of the environment, ``{name: value}``
    uses
        paths of files it loads at start (unit, credentials): a change of theirs rolls too
    health
        path that answers 200 when the instance can serve
    smoke
        path of the application's own choice that must answer GET with 2xx too, once when the instance is
        ready and again after its probation: ready is not the same as working. Not asked in a rollback
    timeout
        seconds an instance may take to get ready
    settled
        command, ``{instance}``, ``{address}`` and ``{port}`` in it replaced, that succeeds once the load balancer uses the
        instance again; waited for, at most ``timeout``, before the next one is touched
    settle
        where no such command can be asked: seconds to leave the load balancer for noticing
    probation
        seconds that an instance must live after it was ready. None for one that has nothing to go
        back to, and none in a rollback, which goes to what has proven itself
    hooks
        ``{before: […], after: […]}``, commands as ``deploy.hook`` takes them, run around a change of
        the release (not of settings alone): before the first instance is touched, and after the
        last one's probation. One that fails stops the roll, or takes it back; in a rollback it is
        only reported, for nothing may keep anybody on the bad release.
    keep
        releases that stay installed beside the ones in use and the one that a rollback goes to
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{instances} on {version}"}
    plan, wrong = _plan(name, root, version, instances, address, port, environment, values, uses)
    if wrong:
        return {**ret, "result": False, "comment": wrong}
    extra = [number for number in __salt__["release.running"](root) if int(number) > instances]
    moves = [one for one in plan if one["roll"]]

    if __opts__["test"]:
        if not plan and not extra:
            return ret
        for one in plan:
            what = f"would be rolled to {version}" if one["roll"] else "would be enabled"
            ret["changes"][one["unit"]] = what
        for number in extra:
            ret["changes"][f"{name}@{number}.service"] = "would be drained and removed"
        return {**ret, "result": None, "comment": f"would be rolled to {version}"}

    systemctl = __salt__["checked.systemctl"]
    began, unheeded = time.monotonic(), []
    action = __salt__["deploy.request"]()["action"]
    if action == "rollback":
        # It goes to what has proven itself; every second of the bad one counts.
        probation, smoke = 0, None
    old = __salt__["deploy.current"](name)
    if old is None and moves:
        # Of before there was a history: what all instances are set to is good.
        before = set(__salt__["release.running"](root).values())
        if len(before) == 1:
            old = before.pop()
            __salt__["deploy.remember"](name, old, __salt__["release.stored_sha256"](root, old))
    if moves:
        __salt__["deploy.record"](name, "started", old, version)
        roll = _Roll(root, version, address, health, timeout, settled, settle, probation, uses)
        roll.smoke = smoke
        told = {"NAME": name, "VERSION": version, "FROM": old or "", "ROOT": root}
        around = hooks if hooks and old != version else {}

        def hooked(when):
            failed = _hooks(around.get(when), told, when)
            if failed and action == "rollback":
                unheeded.append(failed)
                __salt__["deploy.say"](f"{failed.splitlines()[0]}; the rollback goes on")
                return None
            return failed

        def fail(reason):
            seconds = round(time.monotonic() - began, 1)
            __salt__["deploy.record"](name, "failed", old, version, seconds=seconds, reason=reason)

        try:
            said = hooked("before")
            if said:
                # No instance has moved yet.
                roll.take_back()
                said = f"{said}; nothing was changed"
            else:
                said = roll.forward(moves)
            if not said:
                failed = hooked("after")
                said = failed and roll.back(None, failed)
            if not said:
                said = roll.keep(moves)
        except (KeyboardInterrupt, SystemExit) as stop:
            fail(roll.stopped or f"stopped ({type(stop).__name__}) in a hook")
            raise
        if said:
            fail(said)
            _prune(name, root, keep)
            return {**ret, "result": False, "comment": said}
        for one in moves:
            ret["changes"][one["unit"]] = f"on {version}"
    for one in plan:
        if systemctl("is-enabled", one["unit"])[0] != 0:
            code, said = systemctl("enable", one["unit"])
            if code:
                comment = f"{one['unit']} cannot be enabled: {said}"
                return {**ret, "result": False, "comment": comment}
            ret["changes"].setdefault(one["unit"], "enabled")
    __salt__["deploy.remember"](name, version, __salt__["release.stored_sha256"](root, version))
    if moves:
        seconds = round(time.monotonic() - began, 1)
        __salt__["deploy.record"](
            name,
            "succeeded",
            old,
            version,
            seconds=seconds,
            sha256=__salt__["release.stored_sha256"](root, version),
            **({"reason": "; ".join(unheeded)} if unheeded else {}),
        )
    elif action != "apply":
        __salt__["deploy.record"](name, "unchanged", old, version)
    for number in extra:
        unit = f"{name}@{number}.service"
        code, said = systemctl("disable", "--now", unit)
        if code:
            return {**ret, "result": False, "comment": f"{unit} cannot be stopped: {said}"}
        __salt__["release.remove_instance"](root, number)
        ret["changes"][unit] = "drained and removed"
    gone = _prune(name, root, keep)
    if gone:
        ret["changes"]["removed"] = gone
    if moves or extra:
        ret["comment"] = f"{len(moves) + len(extra)} rolled, {instances} on {version}"
    ret["comment"] = "; ".join([ret["comment"], *unheeded])
    return ret


def _plan(name, root, version, instances, address, port, environment, values, uses):
    """``([{number, unit, port, environment, wanted, roll}], None)`` of what is not as it should be,
    or ``([], what is wrong with the environment)``."""
    plan = []
    for number in range(1, instances + 1):
        unit = f"{name}@{number}.service"
        known = {
            **(values or {}),
            "instance": number,
            "port": port + number - 1,
            "address": address,
            "credentials": f"/run/credentials/{unit}",
        }
        own = {}
        for key, value in environment.items():
            try:
                own[key] = str(value).format(**known)
            except (AttributeError, IndexError, KeyError, ValueError) as error:
                return [], (
                    f"environment:{key}: {value!r}: unknown placeholder {error};"
                    f" known: {', '.join(sorted(known))}"
                )
            if "\n" in own[key]:
                return [], f"environment:{key}: {own[key]!r} spans lines; one is allowed"
        wanted = __salt__["release.fingerprint"](root, version, own, uses or [])
        active = __salt__["checked.systemctl"]("is-active", unit)[0] == 0
        enabled = __salt__["checked.systemctl"]("is-enabled", unit)[0] == 0
        moved = __salt__["release.started_with"](root, number) != wanted
        if moved or not active or not enabled:
            plan.append(
                {
                    "number": number,
                    "unit": unit,
                    "port": known["port"],
                    "environment": own,
                    "wanted": wanted,
                    "roll": moved or not active,
                }
            )
    return plan, None


def _prune(name, root, keep):
    """At the end of a roll, whatever came of it, so that the next apply finds nothing to remove."""
    back = __salt__["deploy.previous"](name)
    good = [entry["version"] for entry in __salt__["deploy.history"](name)]
    return __salt__["release.prune"](root, keep, [back] if back else [], good)


def _hooks(hooks, told, when):
    """Run them in order; None, or what the first one that failed said."""
    for hook in hooks or []:
        __salt__["deploy.say"](f"hook {when}: {hook['command']}")
        said = __salt__["deploy.hook"](hook, {**told, "WHEN": when})
        if said:
            return said
    return None


class _Roll:
    """Moves instances forth, one at a time, and all of them back when one fails."""

    def __init__(self, root, version, address, health, timeout, settled, settle, probation, uses):
        self.root, self.version, self.address = root, version, address
        self.health, self.timeout = health, timeout
        self.settled, self.settle, self.probation = settled, settle, probation
        self.uses, self.smoke = uses or [], None
        # (move, what was before), in the order of moving.
        self.moved, self.total = [], 0
        # The unit that is worked on, and the story of a roll that was told to stop.
        self.at, self.stopped = None, ""
        # {unit: this run of it}, for those that have something to go back to.
        self.lives = {}

    def forward(self, moves):
        """None, or what went wrong; then all is back."""
        return self._or_back(self._forward, moves)

    def keep(self, moves):
        """Write down that the moved ones have proven themselves; None, or as :py:meth:`forward`."""
        return self._or_back(self._keep, moves)

    def _or_back(self, work, moves):
        # Whatever happens: a full disk, a command that hangs, Ctrl-C of who watches.
        try:
            return work(moves)
        except (KeyboardInterrupt, SystemExit) as stop:
            self.stopped = self.back(None, f"stopped ({type(stop).__name__})")
            raise
        except Exception as error:
            return self.back(self.at, str(error) or type(error).__name__)

    def _keep(self, moves):
        self.at = None
        for one in moves:
            __salt__["release.mark_started"](self.root, one["number"], one["wanted"], self.uses)

    def _forward(self, moves):
        say = __salt__["deploy.say"]
        self.total = len(moves)
        moves = sorted(moves, key=self.serves)
        for one in moves:
            unit, first = one["unit"], not self.moved
            self.at = unit
            before = __salt__["release.before"](self.root, one["number"])
            # First: half of it may be written when it fails.
            self.moved.append((one, before))
            __salt__["release.set_instance"](
                self.root, one["number"], self.version, one["environment"]
            )
            say(f"{unit}: {before[0] or 'nothing'} drains, then {self.version} starts")
            began = time.monotonic()
            said = self.start(one, self.smoke)
            if said:
                return self.back(unit, said)
            say(f"{unit}: ready and in use after {time.monotonic() - began:.1f} s")
            if before[0] is not None and self.probation:
                self.lives[unit] = __salt__["deploy.life"](unit)
            last = one is moves[-1]
            if self.lives and (first or last):
                whom = unit if len(self.lives) == 1 else f"all {len(self.lives)}"
                say(f"{whom}: on probation for {self.probation:g} s")
                died = __salt__["deploy.watch"](self.lives, self.probation)
                if died:
                    return self.back(*died)
                said = self.failing()
                if said:
                    return self.back(*said)
        return None

    def failing(self):
        """Alive is not enough: each must be able to serve, now that its probation is over. None, or
        ``(unit, what it answers)``."""
        for one, _ in self.moved:
            self.at = one["unit"]
            if one["unit"] in self.lives:
                said = __salt__["release.wait_ready"](
                    self.address, one["port"], self.health, self.timeout, one["unit"]
                ) or self.ask(one, self.smoke)
                if said:
                    return one["unit"], f"after its probation: {said}"
        return None

    def ask(self, one, path):
        """None when the instance answers ``path`` with 2xx, or there is none to ask, else what it says."""
        if not path:
            return None
        return __salt__["release.ask"](self.address, one["port"], path, self.timeout)

    def take_back(self):
        """What this run put in place for the instances to load: they go back to what they ran on."""
        if __salt__["checked.take_back"](self.uses):
            __salt__["checked.systemctl"]("daemon-reload")

    def command(self, one):
        """What asks the load balancer whether it uses the instance; None where nothing can."""
        return self.settled and self.settled.format(
            instance=one["number"], address=self.address, port=one["port"]
        )

    def serves(self, one):
        """Whether the instance is ready and used by the load balancer at this moment."""
        if __salt__["checked.systemctl"]("is-active", one["unit"])[0]:
            return False
        if __salt__["release.wait_ready"](self.address, one["port"], self.health, 0, one["unit"]):
            return False
        return not __salt__["release.wait_settled"](self.command(one), 0, 0)

    def start(self, one, smoke=None):
        """Restart, wait until ready, ask ``smoke``, then wait until the load balancer uses it; None, or
        what is wrong."""
        __salt__["checked.systemctl"]("reset-failed", one["unit"])
        code, said = __salt__["checked.systemctl"]("restart", one["unit"])
        if code:
            return said.splitlines()[0] if said else f"systemctl restart: exit code {code}"
        said = __salt__["release.wait_ready"](
            self.address, one["port"], self.health, self.timeout, one["unit"]
        ) or self.ask(one, smoke)
        if said:
            return said
        # An instance that is ready is not yet in use: were the next one drained before the
        # load balancer's next check, there would be none for a moment.
        said = __salt__["release.wait_settled"](self.command(one), self.settle, self.timeout)
        return f"it is ready, but {said}" if said else None

    def back(self, unit, reason):
        """Put every moved instance back, ``unit`` (the failed one) first; the whole story."""
        say = __salt__["deploy.say"]
        what = f"{unit} on {self.version}: {reason}" if unit else f"{self.version}: {reason}"
        say(f"FAILED {what.splitlines()[0]}")
        words = __salt__["checked.last_words"](unit, 10) if unit else ""
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

    def _ready(self, one):
        said = __salt__["release.wait_ready"](
            self.address, one["port"], self.health, 0, one["unit"]
        )
        return said is None

    def _restore(self, failed):
        say = __salt__["deploy.say"]
        done, troubles = [], []
        self.take_back()
        for one, before in sorted(self.moved, key=lambda pair: pair[0]["unit"] != failed):
            unit = one["unit"]
            if before[0] is None:
                # New beside others that go back: there is nothing for it to run.
                __salt__["checked.systemctl"]("disable", "--now", unit)
                __salt__["release.remove_instance"](self.root, one["number"])
                continue
            if troubles and self._ready(one):
                # What did not come up for one will not for the next: better a release that nobody
                # wants than none.
                troubles.append(f"{unit} is left on {self.version}, for it is ready")
                say(f"{unit}: left on {self.version}, for it is ready")
                continue
            try:
                __salt__["release.reset_instance"](self.root, one["number"], before)
                again = self.start(one)
            except Exception as error:
                again = str(error) or type(error).__name__
            if again:
                troubles.append(f"{unit}: {again}")
                say(f"{unit}: back on {before[0]}, but {again}")
                continue
            # As it was, unless its unit or a credential is another one by now: then it is for the
            # next apply to see.
            # So also where there is no room to write it down.
            with contextlib.suppress(OSError):
                if before[3] == __salt__["release.fingerprint"](self.root, None, None, self.uses):
                    __salt__["release.mark_started"](self.root, one["number"], before[2], self.uses)
            say(f"{unit}: back on {before[0]}")
            done.append(unit)
        old = ", ".join(sorted({before[0] for _, before in self.moved if before[0]}))
        others = [unit for unit in done if unit != failed]
        text = f"it is back on {old}" if failed in done else ""
        if others:
            text += f"{', with it ' if text else 'back on ' + old + ': '}{', '.join(others)}"
        return "; ".join(filter(None, [text, *(f"but {one}" for one in troubles)]))
