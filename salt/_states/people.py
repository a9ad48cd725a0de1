"""The people of a machine, exactly as the pillar names them."""

from salt.exceptions import CommandExecutionError

__virtualname__ = "people"


def __virtual__():
    return __virtualname__


def exactly(name, users, protected=None):
    """
    The accounts of ``users`` and no others; see salt/_modules/people.py.

    name
        what they are, in words
    users
        ``{name: {full_name, keys, sudo, shell, state}}``
    protected
        names that are never touched

    .. code-block:: yaml

        user accounts:
          people.exactly:
            - users:
                alice: {full_name: Alice Example, keys: [ssh-ed25519 AAAA…], sudo: true}
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "as the pillar says"}
    try:
        plan = __salt__["people.plan"](users, protected or ())
        changes = {
            **dict.fromkeys(plan["add"], "new"),
            **{
                who: ", ".join(f"{what}: {old!r} to {new!r}" for what, (old, new) in how.items())
                for who, how in plan["change"].items()
            },
            **dict.fromkeys(plan["remove"], "removed"),
        }
        if __opts__["test"]:
            return {**ret, "changes": changes, "result": None if changes else True}
        for who in plan["remove"]:
            archive = __salt__["people.remove"](who)
            changes[who] = f"removed; home archived in {archive}" if archive else "removed"
            ret["changes"][who] = changes[who]
        for who, how in plan["add"].items():
            __salt__["people.add"](who, **how)
            ret["changes"][who] = changes[who]
        for who, how in plan["change"].items():
            __salt__["people.change"](who, **how)
            ret["changes"][who] = changes[who]
    except (CommandExecutionError, OSError) as error:
        return {**ret, "result": False, "comment": str(error)}
    return ret
