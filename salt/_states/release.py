"""
For formulas counter and apps: releases and the rolling of instances; see the execution modules ``release`` (what is on the
disk), ``roll`` (how instances are moved) and ``record`` (who asked for it, what was good before).
"""

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
    is_installed = version in __salt__["release.installed"](root)
    if __opts__["test"]:
        refused = signers and __salt__["release.refusal"](name, root, version, source, signers)
        if refused:
            return {**ret, "result": False, "comment": refused}
        damaged = __salt__["release.damage"](root, version) if is_installed else []
        if is_installed and not damaged:
            return ret
        return {
            **ret,
            "result": None,
            "changes": {name: "; ".join(damaged[:3]) or version},
            "comment": f"{version} would be {'mended' if is_installed else 'installed'}",
        }
    try:
        has_changed = __salt__["release.install"](name, root, version, source, sha256, signers)
        # Seen by the check of the unit, which comes next.
        __salt__["instance.stage"](root, version)
        __salt__["commands.stage"](root, version)
    except (CommandExecutionError, OSError) as error:
        current = __salt__["record.current"](name)
        __salt__["record.write"](name, "refused", current, version, reason=str(error))
        return {**ret, "result": False, "comment": str(error)}
    if not is_installed:
        ret["changes"][name] = f"{version} installed"
        ret["comment"] = f"{version} verified and unpacked"
    elif has_changed:
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
    watch_files=None,
    health="/readyz",
    smoke=None,
    timeout=30,
    in_rotation=None,
    rotation_seconds=0,
    bake_seconds=0,
    hooks=None,
    commands=None,
    keep=5,
):
    """
    Every instance runs ``version`` with ``environment``, moved one at a time: an instance is
    stopped (it drains by itself), set, started and waited for before the next one is touched. The
    first one must also live through the whole bake time before the second is touched; all must
    before the roll counts. Those that do not serve come first, such as one that a killed roll left in
    the middle of its restart: never is the last one that serves taken out.

    One that does not get ready, or dies in its bake time, goes back to what it ran before, and so do
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
    watch_files
        paths of files it loads at start (unit, credentials): a change of theirs rolls too
    health
        path that answers 200 when the instance can serve
    smoke
        path of the application's own choice that must answer GET with 2xx too, once when the instance is
        ready and again after its bake time: ready is not the same as working. Not asked in a rollback
    timeout
        seconds an instance may take to get ready
    in_rotation
        command, ``{instance}``, ``{address}`` and ``{port}`` in it replaced, that succeeds once the instance is in
        rotation again; waited for, at most ``timeout``, before the next one is touched
    rotation_seconds
        where no such command can be asked: seconds to leave the load balancer for noticing
    bake_seconds
        seconds that an instance must live after it was ready. None for one that has nothing to go
        back to, and none in a rollback, which goes to what has proven itself
    hooks
        ``{before: […], after: […]}``, commands as ``hooks.run`` takes them, run around a change of
        the release (not of settings alone): before the first instance is touched, and after the
        last one's bake time. One that fails stops the roll, or takes it back; in a rollback it is
        only reported, for nothing may keep anybody on the bad release.
    commands
        units of the application's other commands, as ``commands.plan`` gives them: the release command is run before
        the first instance is touched, processes and timers follow when all instances have proven the release. One that fails takes
        it back
    keep
        releases that stay installed beside the ones in use and the one that a rollback goes to
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{instances} on {version}"}
    watch_files, where = watch_files or [], (instances, address, port)
    try:
        steps = __salt__["roll.plan"](name, root, version, *where, environment, values, watch_files)
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": f"environment:{error}"}
    running = __salt__["instance.running"](root)
    surplus = [number for number in running if int(number) > instances]

    if __opts__["test"]:
        changes = __salt__["roll.preview"](name, version, steps, surplus)
        changes |= __salt__["commands.pending"](
            name, root, version, commands or {}, environment, values
        )
        would = {"result": None, "comment": f"would be rolled to {version}"} if changes else {}
        return {**ret, "changes": changes, **would}

    settings = {"address": address, "health": health, "smoke": smoke, "timeout": timeout}
    settings |= {"in_rotation": in_rotation, "rotation_seconds": rotation_seconds}
    settings |= {
        "bake_seconds": bake_seconds,
        "watch_files": watch_files,
        "hooks": hooks or {},
        "commands": (commands or {}, environment, values),
        "keep": keep,
    }
    ret["changes"], warnings, error = __salt__["roll.run"](
        name, root, version, steps, surplus, settings
    )
    if error:
        return {**ret, "result": False, "comment": error}
    count = sum(step["restart"] for step in steps) + len(surplus)
    if count:
        ret["comment"] = f"{count} rolled, {instances} on {version}"
    return {**ret, "comment": "; ".join([ret["comment"], *warnings])}
