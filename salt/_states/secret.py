"""Secrets that a machine makes for itself; see the execution module of the same name."""

import subprocess

from salt.exceptions import CommandExecutionError

__virtualname__ = "secret"


def __virtual__():
    return __virtualname__


def present(name, kind=None):
    """
    Secret ``name`` exists: the pillar's (``secrets:NAME``) where it gives one, else made once where a
    formula declares that it can be (``formula.secret_kind``, or ``kind``, as ``secret.ensure`` takes it).
    Never shown.

    .. code-block:: yaml

        redis password of the application:
          secret.present:
            - name: redis-counter
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "is there"}
    words = {
        "make": "made",
        "replace": "replaced by the pillar's",
        "repair": "made anew: it was broken",
    }
    try:
        kind = kind or __salt__["formula.secret_kind"](name)
        todo = __salt__["secret.pending"](name, kind)
        if todo is None:
            return ret
        ret["changes"] = {name: words[todo]}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": f"would be {words[todo]}"}
        __salt__["secret.ensure"](name, kind=kind)
    except (CommandExecutionError, OSError, subprocess.SubprocessError) as error:
        return {**ret, "changes": {}, "result": False, "comment": str(error)}
    return {**ret, "comment": f"{words[todo]} in {__salt__['secret.path'](name)}"}
