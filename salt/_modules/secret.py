"""
Secrets of this machine: made here at first need, kept in files that only root reads.

Nothing here returns a secret to a state's output, a log or a diff; templates ask for a hash or
for the path (systemd's ``LoadCredential=``), not for the value.
"""

import hashlib
import os
import re
import secrets
import tempfile

from salt.exceptions import CommandExecutionError

__virtualname__ = "secret"

FOLDER = "/etc/stack/secrets"


def __virtual__():
    return __virtualname__


def path(name):
    """Path of secret ``name``; it need not exist yet.

    CLI Example:

    .. code-block:: bash

        salt-call secret.path redis-counter
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise CommandExecutionError(f"secret name {name!r}: use a-z, 0-9 and -")
    return os.path.join(FOLDER, name)


def exists(name):
    """Whether secret ``name`` is on this machine.

    CLI Example:

    .. code-block:: bash

        salt-call secret.exists redis-counter
    """
    return os.path.exists(path(name))


def make(name, size=32):
    """
    Make secret ``name`` of ``size`` random bytes, URL-safe text, unless it exists.
    Returns True when it was made. Written whole or not at all.

    CLI Example:

    .. code-block:: bash

        salt-call secret.make redis-counter
    """
    target = path(name)
    if os.path.exists(target):
        return False
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    handle, staged = tempfile.mkstemp(dir=FOLDER)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(size))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staged, 0o600)
        os.rename(staged, target)
    except BaseException:
        os.unlink(staged)
        raise
    return True


def sha256(name):
    """
    SHA-256 of secret ``name`` in hexadecimal, as Redis' ACL wants it (``#…``). A placeholder of
    64 zeros while the secret does not exist, as in a test run on a new machine.

    CLI Example:

    .. code-block:: bash

        salt-call secret.sha256 redis-counter
    """
    if not exists(name):
        return "0" * 64
    with open(path(name), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
