"""For formula backup: what the backup program is told of this machine; see salt/backup."""

from salt.exceptions import CommandExecutionError

__virtualname__ = "backup"


def __virtual__():
    return __virtualname__


def configuration(settings):
    """
    ``/etc/stack/backup.json``: what of the formula's settings the program reads, the name that this
    machine's backups begin with, TOPOLOGY-MACHINE, whether a key that opens them is known to
    somebody beside the machine, and the folders of other formulas that go into them (``backup.yaml.j2``).

    CLI Example:

    .. code-block:: bash

        salt-call backup.configuration "$(salt-call --out json formula.settings backup)"
    """
    wanted = ("directory", "s3", "recipients", "keep_days", "keep_at_least", "max_age_hours")
    topology, machine = __pillar__["topology"]["name"], __salt__["topology.machine"]()["name"]
    name = machine if machine == topology else f"{topology}-{machine}"
    folders = {}
    for formula, given in __salt__["formula.collect"]("backup.yaml.j2").items():
        for one, said in (given or {}).items():
            if one in folders:
                raise CommandExecutionError(
                    f"{formula}/backup.yaml.j2: {one} is another folder's name too; nothing was changed"
                )
            folders[one] = said
    elsewhere = settings["recipients"] or "backup-identity" in (__pillar__.get("secrets") or {})
    return {
        "name": name,
        "count_key": settings["count_key"],
        "key_elsewhere": bool(elsewhere),
        "folders": folders,
        **{key: settings[key] for key in wanted},
    }
