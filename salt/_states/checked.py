"""
Rule 1 of this project, for every formula: no configuration goes live unchecked.

``checked.files`` renders files to a staging folder, has them checked there by their own program,
and only then swaps them in. ``checked.service`` does the same and then makes the service run on
them: reload where that suffices, restart where not, start when it is down. A configuration that
is refused, by the check or by the service itself, leaves the service running on the good one.

What a service has loaded is remembered, so an apply that was killed between swap and reload is
finished by the next one; no ``watch`` is needed.
"""

import contextlib
import fnmatch
import hashlib
import re
import time
from types import SimpleNamespace

from salt.exceptions import CommandExecutionError

# What `systemctl enable` says of a link to what is started with another unit, which systemd must know at once; what is
# started with a target is read at boot.
_OF_ANOTHER_UNIT = re.compile(r"\.(?!target\.)[a-z]+\.(wants|requires)/")

__virtualname__ = "checked"


def __virtual__():
    return __virtualname__


def _prepare(ret, files, made, context, checks, clean, instance, unit=None, watch_files=()):
    """
    What is to be done, ``{wanted, changes, extra, pending, unchecked}``; None after a refusal.
    ``pending``: the unit has not loaded all of it. ``unchecked``: in a test run, what must come first.
    """
    test = __opts__["test"]
    try:
        wanted = __salt__["checked.render"](files or {}, context, made)
        changes, extra = __salt__["file_set.differences"](wanted, clean or ())
        # Also what an apply that was killed after the swap has left to do.
        pending = unit is not None and (
            __salt__["file_set.digests"]([*wanted, *watch_files]) != __salt__["units.loaded"](unit)
        )
        said = None
        if changes or pending:
            said = __salt__["checked.check"](wanted, checks or (), instance)
    except (CommandExecutionError, OSError) as error:
        ret.update(result=False, comment=f"nothing was changed: {error}")
        return None
    first = _to_come_first() if said is not None and test else []
    if said is not None and not first:
        back = [] if test else __salt__["file_set.take_back"](watch_files)
        also = f" ({', '.join(back)}: back as it was)" if back else ""
        ret.update(
            result=False,
            comment=f"refused by its own check, nothing was changed{also}:\n{said}",
        )
        return None
    return SimpleNamespace(
        wanted=wanted, changes=changes, extra=extra, pending=pending, unchecked=first
    )


def _to_come_first():
    """
    What this state requires and this test run has only said that it would do: the package that
    brings the program that checks, a secret, a certificate.
    """
    required = {pair for one in __low__.get("require", ()) for pair in one.items()}
    names = []
    for tag, result in __running__.items():
        state, name = tag.split("_|-")[0], result.get("__id__")
        met = {(state, name), (state, result.get("name")), ("sls", result.get("__sls__"))}
        if result["result"] is None and met & required:
            names.append(name)
    return names


def _shown(prepared):
    """The changes, as a test run shows them: it says what it could not check."""
    if not prepared.unchecked:
        return prepared.changes
    return {**prepared.changes, "not checked yet": f"first: {', '.join(prepared.unchecked)}"}


def files(name, files=None, checks=None, context=None, clean=None, instance="1", made=None):
    """
    Files that no service has to be told about.

    name
        what they are, in words
    files
        ``{path: {source or contents, mode, user, group, secret}}``
    checks
        commands that must accept them; ``{staged}`` is the folder that holds the new files
    context
        for their templates
    clean
        glob patterns of files to remove when they are not among these
    made
        ``{module.function: {its arguments}}``, functions that give more files (``checked.render``)

    .. code-block:: yaml

        sudo rule of the operators:
          checked.files:
            - files:
                /etc/sudoers.d/operators: {source: salt://base/files/sudoers.j2, mode: '0440'}
            - checks:
                - visudo -c -f {staged}/etc/sudoers.d/operators
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "as they should be"}
    prepared = _prepare(ret, files, made, context, checks, clean, instance)
    if prepared is None:
        return ret
    wanted, changes, extra = prepared.wanted, prepared.changes, prepared.extra
    ret["changes"] = changes
    if not changes:
        return ret
    if __opts__["test"]:
        return {
            **ret,
            "changes": _shown(prepared),
            "result": None,
            "comment": "would be changed",
        }
    try:
        __salt__["file_set.swap"]({p: wanted[p] for p in changes if p in wanted}, extra)
    except (CommandExecutionError, OSError) as error:
        return {**ret, "changes": {}, "result": False, "comment": f"nothing was changed: {error}"}
    __salt__["units.reread"](list(changes))
    return {**ret, "comment": "checked and put in place" if checks else "put in place"}


def service(
    name,
    files=None,
    checks=None,
    context=None,
    clean=None,
    watch_files=None,
    reload=False,
    restart_on=None,
    ready=None,
    ready_timeout=30,
    instance="1",
    pre_command=None,
    part_of=None,
    made=None,
):
    """
    A service that is enabled and runs on exactly these files.

    name
        systemd unit
    files, checks, context, clean, made
        as in ``checked.files``
    watch_files
        paths made by other states that the service loads too, such as the machine's certificate.
        Where the service does not work with them, those that this run has replaced are put back
    reload
        a change can be taken by ``systemctl reload``
    restart_on
        glob patterns of files that a reload cannot take; unit files always are
    ready
        shell command that succeeds once the service does its work; a leading ``salt://…`` is a
        program of the tree
    ready_timeout
        seconds to wait for that
    pre_command
        shell command that runs once the files are accepted and just before anything changes, not
        when nothing does; when it fails nothing is changed. What it says is part of the comment
    part_of
        the unit that starts and stops this one by itself: it is not started while that one is not
        active, and not enabled at boot

    .. code-block:: yaml

        haproxy running:
          checked.service:
            - name: haproxy
            - files:
                /etc/haproxy/haproxy.cfg: {source: salt://haproxy/files/haproxy.cfg.j2}
            - checks:
                - haproxy -c -f {staged}/etc/haproxy/haproxy.cfg
            - reload: true
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "running on this configuration"}
    test = __opts__["test"]
    watch_files = watch_files or ()
    prepared = _prepare(ret, files, made, context, checks, clean, instance, name, watch_files)
    if prepared is None:
        return ret
    wanted, changes, extra = prepared.wanted, prepared.changes, prepared.extra

    def systemctl(*words):
        return __salt__["units.systemctl"](*words)

    if not (changes or prepared.pending) and name in _at_rest():
        return ret

    has_own_start = part_of is None
    may_start = has_own_start or systemctl("is-active", part_of)[0] == 0

    said = ""
    if test or pre_command:
        active = systemctl("is-active", name)[0] == 0
        to_do = bool(changes or prepared.pending or (may_start and not active))
    if test:
        if to_do:
            how = "reloaded" if reload and active else "restarted" if active else "started"
            return {
                **ret,
                "changes": _shown(prepared)
                or {name: "has not loaded its files yet" if active else "not running"},
                "result": None,
                "comment": f"would be {how}",
            }
        if has_own_start and systemctl("is-enabled", name)[0] != 0:
            changes = {f"{name} at boot": "would be enabled"}
            return {**ret, "changes": changes, "result": None, "comment": "would be enabled"}
        return ret
    if pre_command and to_do:
        code, said = __salt__["checked.run"](pre_command)
        if code:
            return {
                **ret,
                "changes": {},
                "result": False,
                "comment": f"nothing was changed: {said}",
            }

    # Until it is told, nobody can say what the service has loaded of these: an apply that is killed
    # between here and the end may or may not have reloaded it, and the next one may want the files
    # back that it was known to run on.
    known = __salt__["units.loaded"](name)
    moving = [path for path in changes if path not in wanted or _other(path, wanted[path])]
    try:
        if moving:
            __salt__["units.mark_loaded"](name, {**known, **dict.fromkeys(moving, "unknown")})
        replaced = __salt__["file_set.swap"]({p: wanted[p] for p in changes if p in wanted}, extra)
    except (CommandExecutionError, OSError) as error:
        with contextlib.suppress(OSError):
            __salt__["units.mark_loaded"](name, known)
        return {**ret, "result": False, "comment": f"nothing was changed: {error}"}

    now = __salt__["file_set.digests"]([*wanted, *watch_files])
    was = __salt__["units.loaded"](name)
    moved = {path for path in {*now, *was} if now.get(path) != was.get(path)}
    units = any(__salt__["units.is_unit_file"](path) for path in moved)
    __salt__["units.reread"](sorted(moved))
    active = systemctl("is-active", name)[0] == 0
    restart = (
        units
        or not reload
        or any(fnmatch.fnmatch(path, glob) for path in moved for glob in restart_on or ())
    )
    action = None
    if not active and not may_start:
        # It loads them when it is started.
        pass
    elif not active:
        action = "start"
        # As somebody left it who wanted it to stay off, for the time being.
        kind = systemctl("is-enabled", name)[1].strip()
        if kind in ("masked", "masked-runtime"):
            systemctl("unmask", *(["--runtime"] if kind == "masked-runtime" else []), name)
        # A unit that failed too often refuses to start until it is told that things changed.
        systemctl("reset-failed", name)
        # Before systemd reads it: it need not read all units once more for that.
        if has_own_start and (wrong := _enable(ret, name, "--no-reload")):
            return wrong
    elif moved:
        action = "restart" if restart else "reload"

    if action:
        failure = _act(name, action, ready, ready_timeout)
        if failure:
            words = __salt__["units.last_words"](name)
            if ret["changes"].get(f"{name} at boot"):
                systemctl("disable", "--no-reload", name)
            taken = __salt__["file_set.take_back"](watch_files)
            if replaced or taken:
                __salt__["file_set.restore"](replaced)
                systemctl("daemon-reload")
                systemctl("reset-failed", name)
                again = _act(
                    name, "restart" if restart or not active else action, ready, ready_timeout
                )
                if not again:
                    __salt__["units.mark_loaded"](name, known)
                after = "the previous configuration is back" + (
                    f", but with it: {again}" if again else " and in use"
                )
            else:
                after = "its configuration had not changed"
            return {
                **ret,
                "changes": {},
                "result": False,
                "comment": f"{action} failed: {failure}; {after}\n{words}",
            }
        __salt__["units.mark_loaded"](name, now)
        ret["changes"] = {
            **changes,
            **ret["changes"],
            name: {"start": "started", "restart": "restarted", "reload": "reloaded"}[action],
        }
        ret["comment"] = "\n".join(
            filter(None, [f"{ret['changes'][name]} on checked configuration", said])
        )
    elif was != now:
        __salt__["units.mark_loaded"](name, now)
    # What was started was enabled before.
    if has_own_start and action != "start" and (wrong := _enable(ret, name)):
        return wrong
    return ret


def _enable(ret, name, *options):
    """None, or the state's answer that it cannot be; in its changes, that it was not."""
    systemctl = __salt__["units.systemctl"]
    if systemctl("is-enabled", name)[0] != 0:
        code, said = systemctl("enable", *options, name)
        if code:
            return {**ret, "result": False, "comment": f"cannot be enabled: {said}"}
        if options and _OF_ANOTHER_UNIT.search(said):
            systemctl("daemon-reload")
        ret["changes"] = {**ret["changes"], f"{name} at boot": "enabled"}
    return None


def _at_rest():
    """The services of this run that run and are enabled; none once the run has changed anything, which
    may have stopped one."""
    if any(result.get("changes") for result in __running__.values()):
        return ()
    if "checked.at_rest" not in __context__:
        names = [
            one["name"]
            for one in __lowstate__ or ()
            if (one["state"], one["fun"]) == ("checked", "service")
        ]
        __context__["checked.at_rest"] = __salt__["units.at_rest"](names) if names else []
    return __context__["checked.at_rest"]


def _other(path, spec):
    """Whether the file has other content than it is to have, not only another owner or mode."""
    return __salt__["file_set.digests"]([path])[path] != hashlib.sha256(spec["data"]).hexdigest()


def _act(name, action, ready, timeout):
    """Do it and wait until the service works; None, or what went wrong."""
    code, said = __salt__["units.systemctl"](action, name)
    if code:
        return said or f"systemctl {action} {name}: exit code {code}"
    deadline = time.monotonic() + timeout
    while True:
        code, state = __salt__["units.systemctl"]("is-active", name)
        if code and state != "reloading":
            return f"it is {state} right after"
        if ready is None:
            return None
        said = __salt__["checked.ready"](ready)
        if said is None:
            return None
        if time.monotonic() > deadline:
            return f"not ready after {timeout} s: {said}"
        time.sleep(0.2)
