"""For formula base: permissions of files that packages made, taken back to what they need."""

import os
import stat

__virtualname__ = "permissions"


def __virtual__():
    return __virtualname__


def excess(paths):
    """
    What is open wider than it may be: ``{path: {old, new}}`` of octal modes. A path that is not
    there is none of ours; a bit that is missing is left missing.

    CLI Example:

    .. code-block:: bash

        salt-call permissions.excess '{/etc/crontab: "0600"}'
    """
    found = {}
    for path, most in paths.items():
        try:
            now = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(now.st_mode):
            continue
        mode = stat.S_IMODE(now.st_mode)
        if mode & ~int(most, 8):
            found[path] = {"old": f"{mode:04o}", "new": f"{mode & int(most, 8):04o}"}
    return found


def restrict(path, mode):
    """Set the mode, an octal string."""
    os.chmod(path, int(mode, 8))
