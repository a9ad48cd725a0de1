"""For formulas apps and counter: what is left of applications that have another name by now, or are gone from the pillar."""

__virtualname__ = "applications"


def __virtual__():
    return __virtualname__


def only(name):
    """
    No unit of an application runs but those of the applications that there are: others are stopped, and their ports are free.
    Their releases, records and state folders stay.

    .. code-block:: yaml

        units of former applications absent:
          applications.only: []
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "none"}
    former = __salt__["applications.former_units"]()
    if not former:
        return ret
    if __opts__["test"]:
        changes = dict.fromkeys(former, "would be stopped and removed")
        return {**ret, "result": None, "changes": changes, "comment": ", ".join(former)}
    wrong = __salt__["applications.remove_units"](former)
    if wrong:
        return {**ret, "result": False, "comment": wrong}
    ret["changes"] = dict.fromkeys(former, "stopped and removed")
    return {**ret, "comment": f"{', '.join(former)}; their releases and folders stay"}
