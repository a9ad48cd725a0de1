"""Releases and the rolling of instances; see the execution module of the same name."""

from salt.exceptions import CommandExecutionError

__virtualname__ = "release"


def __virtual__():
    return __virtualname__


def installed(name, root, version, keep=5):
    """
    The artifact ``name-version.tar.gz`` is verified and unpacked under ``root``.

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
        if there:
            return ret
        return {
            **ret,
            "result": None,
            "changes": {name: version},
            "comment": f"{version} would be installed",
        }
    try:
        __salt__["release.install"](name, root, version)
        # Seen by the check of the unit, which comes next.
        offered = __salt__["release.offer"](root, version)
    except (CommandExecutionError, OSError) as error:
        return {**ret, "result": False, "comment": str(error)}
    if not there:
        ret["changes"][name] = f"{version} installed"
        ret["comment"] = f"{version} verified and unpacked"
    elif offered:
        ret["changes"][name] = f"{version} offered to the instances"
    gone = __salt__["release.prune"](root, keep)
    if gone:
        ret["changes"]["removed"] = gone
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
    timeout=30,
    settled=None,
    settle=0,
):
    """
    Every instance runs ``version`` with ``environment``, moved one at a time: an instance is
    stopped (it drains by itself), set, started and waited for before the next one is touched.
    One that does not get ready goes back to what it ran before, the others stay as they are,
    and the state fails with the reason and the instance's last words.

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
    timeout
        seconds an instance may take to get ready
    settled
        command, ``{instance}``, ``{address}`` and ``{port}`` in it replaced, that succeeds once the load balancer uses the
        instance again; waited for, at most ``timeout``, before the next one is touched
    settle
        where no such command can be asked: seconds to leave the load balancer for noticing
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": f"{instances} on {version}"}
    uses = uses or []
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
                return {
                    **ret,
                    "result": False,
                    "comment": f"environment:{key}: {value!r}: unknown placeholder {error};"
                    f" known: {', '.join(sorted(known))}",
                }
            if "\n" in own[key]:
                return {
                    **ret,
                    "result": False,
                    "comment": f"environment:{key}: {own[key]!r} spans lines; one is allowed",
                }
        wanted = __salt__["release.fingerprint"](root, version, own, uses)
        active = __salt__["checked.systemctl"]("is-active", unit)[0] == 0
        enabled = __salt__["checked.systemctl"]("is-enabled", unit)[0] == 0
        moved = __salt__["release.started_with"](root, number) != wanted
        if moved or not active or not enabled:
            plan.append((number, unit, known["port"], own, wanted, moved or not active))
    extra = [number for number in __salt__["release.running"](root) if int(number) > instances]

    if __opts__["test"]:
        if not plan and not extra:
            return ret
        for _, unit, _, _, _, roll in plan:
            ret["changes"][unit] = f"would be rolled to {version}" if roll else "would be enabled"
        for number in extra:
            ret["changes"][f"{name}@{number}.service"] = "would be drained and removed"
        return {**ret, "result": None, "comment": f"would be rolled to {version}"}

    systemctl = __salt__["checked.systemctl"]
    for number, unit, own_port, own, wanted, roll in plan:
        if roll:
            before = __salt__["release.set_instance"](root, number, version, own)
            systemctl("reset-failed", unit)
            said = _start(unit, address, own_port, health, timeout)
            if said:
                words = __salt__["checked.last_words"](unit)
                after = "it is the first release, so there is none to go back to"
                if before[0] is not None:
                    __salt__["release.reset_instance"](root, number, before)
                    systemctl("reset-failed", unit)
                    again = _start(unit, address, own_port, health, timeout)
                    after = f"it is back on {before[0]}" + (f", but: {again}" if again else "")
                return {
                    **ret,
                    "result": False,
                    "comment": f"{unit} on {version}: {said}; {after}; later instances were not touched\n{words}",
                }
            __salt__["release.mark_started"](root, number, wanted)
            ret["changes"][unit] = f"on {version}"
            # An instance that is ready is not yet in use: were the next one drained before the
            # load balancer's next check, there would be none for a moment.
            command = settled and settled.format(instance=number, address=address, port=own_port)
            said = __salt__["release.wait_settled"](command, settle, timeout)
            if said:
                return {
                    **ret,
                    "result": False,
                    "comment": f"{unit} is ready, but {said}; later instances were not touched",
                }
        if systemctl("is-enabled", unit)[0] != 0:
            code, said = systemctl("enable", unit)
            if code:
                return {**ret, "result": False, "comment": f"{unit} cannot be enabled: {said}"}
            ret["changes"].setdefault(unit, "enabled")
    for number in extra:
        unit = f"{name}@{number}.service"
        code, said = systemctl("disable", "--now", unit)
        if code:
            return {**ret, "result": False, "comment": f"{unit} cannot be stopped: {said}"}
        __salt__["release.remove_instance"](root, number)
        ret["changes"][unit] = "drained and removed"
    if ret["changes"]:
        ret["comment"] = f"{len(ret['changes'])} rolled, {instances} on {version}"
    return ret


def _start(unit, address, port, health, timeout):
    """Restart and wait until ready; None, or what went wrong."""
    code, said = __salt__["checked.systemctl"]("restart", unit)
    if code:
        return said.splitlines()[0] if said else f"systemctl restart: exit code {code}"
    return __salt__["release.wait_ready"](address, port, health, timeout, unit)
