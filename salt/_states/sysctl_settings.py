"""For formula base: settings of the running kernel: at once, and again whenever something else changed them."""

from salt.exceptions import CommandExecutionError

__virtualname__ = "sysctl_settings"


def __virtual__():
    return __virtualname__


def applied(name, settings):
    """
    The running kernel has these settings. Those that the machine cannot set (a container's host
    owns them, or its kernel has none such) are named in the comment.

    name
        what they are, in words
    settings
        ``{key: {value, why}}``

    .. code-block:: yaml

        kernel settings in effect:
          sysctl_settings.applied:
            - settings:
                net.ipv4.tcp_rfc1337: {value: 1, why: RFC 1337}
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "in effect"}
    try:
        skipped = __salt__["sysctl_settings.plan"](settings)["skipped"]
        changes = __salt__["sysctl_settings.differing"](settings)
        if changes and __opts__["test"]:
            ret["result"] = None
        elif changes:
            # In the order of the data: turning forwarding off sets others back (ip-sysctl).
            for path, change in changes.items():
                __salt__["sysctl_settings.write"](path, change["new"])
            again = __salt__["sysctl_settings.differing"](settings)
            for path, change in again.items():
                __salt__["sysctl_settings.write"](path, change["new"])
            left = __salt__["sysctl_settings.differing"](settings)
            if left:
                return {**ret, "result": False, "comment": f"did not stay: {', '.join(left)}"}
            changes.update(again)
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    ret["changes"] = changes
    if changes:
        ret["comment"] = "would be set" if __opts__["test"] else "set"
    if skipped:
        said = ", ".join(f"{key} ({why})" for key, why in sorted(skipped.items()))
        ret["comment"] += f"; not on this machine: {said}"
    return ret
