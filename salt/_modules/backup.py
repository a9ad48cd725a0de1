"""For formula backup: what the backup program is told of this machine; see salt/backup."""

__virtualname__ = "backup"


def __virtual__():
    return __virtualname__


def configuration(settings):
    """
    ``/etc/stack/backup.json``: what of the formula's settings the program reads, the name that this
    machine's backups begin with, TOPOLOGY-MACHINE, and whether a key that opens them is known to
    somebody beside the machine.

    CLI Example:

    .. code-block:: bash

        salt-call backup.configuration "$(salt-call --out json formula.settings backup)"
    """
    wanted = ("directory", "s3", "recipients", "keep_days", "keep_at_least", "max_age_hours")
    topology, machine = __pillar__["topology"]["name"], __salt__["topology.machine"]()["name"]
    name = machine if machine == topology else f"{topology}-{machine}"
    elsewhere = settings["recipients"] or "backup-identity" in (__pillar__.get("secrets") or {})
    return {
        "name": name,
        "count_key": settings["count_key"],
        "key_elsewhere": bool(elsewhere),
        **{key: settings[key] for key in wanted},
    }
