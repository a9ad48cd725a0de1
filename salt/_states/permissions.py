"""For formula base: files and folders that are open no wider than given."""

__virtualname__ = "permissions"


def __virtual__():
    return __virtualname__


def max_mode(name, paths):
    """
    Take away what is more than the given mode; what is not there is left alone.

    name
        what they are, in words
    paths
        ``{path: octal mode as a string}``

    .. code-block:: yaml

        schedules are root's business:
          permissions.max_mode:
            - paths: {/etc/crontab: '0600'}
    """
    changes = __salt__["permissions.excess"](paths)
    if changes and not __opts__["test"]:
        for path, change in changes.items():
            __salt__["permissions.restrict"](path, change["new"])
    result = None if changes and __opts__["test"] else True
    return {"name": name, "changes": changes, "result": result, "comment": "no wider than needed"}
