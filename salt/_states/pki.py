"""The machine's identity towards the others; see the execution module of the same name."""

from salt.exceptions import CommandExecutionError

__virtualname__ = "pki"


def __virtual__():
    return __virtualname__


def present(
    name, machine, addresses=(), days=0, ca_days=0, renew_days=0, own=False, application=False
):
    """
    CA, certificate and key of this machine are there, belong together and last; renewed by an apply
    when fewer than ``renew_days`` are left. The pillar's (``secrets:pki``) where it gives them.

    machine
        its name: the certificate's CN
    addresses
        IP addresses under which others reach it
    days, ca_days
        for how long a certificate and a CA made here are valid
    own
        whether this machine may be its own CA: it is the only one of its topology
    application
        instead: the certificate of the application on this machine, which only the pillar gives
        (``secrets:pki:application``)

    .. code-block:: yaml

        machine certificate:
          pki.present:
            - machine: dev
            - addresses: [192.168.56.10, 127.0.0.1]
            - days: 90
            - ca_days: 3650
            - renew_days: 30
            - own: true
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "valid"}
    try:
        if application:
            why, wanted = ["the pillar gives another"], __salt__["pki.application_files"](machine)
        else:
            why = __salt__["pki.pending"](machine, addresses, renew_days, own)
            if why and __opts__["test"]:
                ret["changes"] = {name: "; ".join(why)}
                return {**ret, "result": None, "comment": "would be put in place"}
            wanted = __salt__["pki.files"](
                machine, addresses, days, ca_days, renew_days, anew=bool(why)
            )
        changes, _ = __salt__["file_set.differences"](wanted)
        if not changes:
            return ret
        if __opts__["test"]:
            return {**ret, "changes": changes, "result": None, "comment": "would be changed"}
        __salt__["file_set.swap"]({path: wanted[path] for path in changes})
    except (CommandExecutionError, OSError) as error:
        return {**ret, "result": False, "comment": f"nothing was changed: {error}"}
    ret["changes"] = changes
    return {**ret, "comment": "; ".join(why) + ": checked and put in place"}
