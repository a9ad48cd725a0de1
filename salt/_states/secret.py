"""Secrets that a machine makes for itself; see the execution module of the same name."""

__virtualname__ = "secret"


def __virtual__():
    return __virtualname__


def present(name):
    """
    Secret ``name`` exists; made at random when missing, never changed, never shown.

    .. code-block:: yaml

        redis password of the application:
          secret.present:
            - name: redis-counter
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "is there"}
    if __salt__["secret.exists"](name):
        return ret
    ret["changes"] = {name: "made"}
    if __opts__["test"]:
        return {**ret, "result": None, "comment": "would be made at random"}
    __salt__["secret.make"](name)
    return {**ret, "comment": f"made at random in {__salt__['secret.path'](name)}"}
