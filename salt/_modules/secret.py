"""
Secrets of this machine: given by encrypted pillar (``secrets``), or made here at first need; kept
in files that only root reads.

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


def _write(target, value):
    """Whole or not at all, and never readable by anybody else."""
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    handle, staged = tempfile.mkstemp(dir=FOLDER)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(staged, 0o600)
        os.rename(staged, target)
    except BaseException:
        os.unlink(staged)
        raise


def _given(name):
    """The value that the pillar gives for ``name``, or None. Refused while still encrypted."""
    value = (__pillar__.get("secrets") or {}).get(name)
    if value is None:
        return None
    value = str(value).strip()
    if not value or value.startswith("-----BEGIN PGP MESSAGE-----"):
        raise CommandExecutionError(
            f"pillar secrets:{name}: could not be decrypted: is the machine's key in"
            " /etc/salt/gpgkeys and the file's first line #!yaml|gpg?"
        )
    return value


def _read(target):
    try:
        with open(target, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def pending(name):
    """What :py:func:`ensure` would do with ``name``: ``make``, ``replace`` or None.

    CLI Example:

    .. code-block:: bash

        salt-call secret.pending redis-counter
    """
    now, given = _read(path(name)), _given(name)
    if now is None:
        return "make"
    return "replace" if given is not None and given != now else None


def ensure(name, size=32):
    """
    Make sure that secret ``name`` is here: the pillar's value where it gives one, else ``size``
    random bytes as URL-safe text, made once. Returns what was done: ``make``, ``replace``, None.

    A replaced value stays beside the new one (``NAME.previous``) until :py:func:`forget`, so that
    both are accepted while its users are moved.

    CLI Example:

    .. code-block:: bash

        salt-call secret.ensure redis-counter
    """
    todo = pending(name)
    if todo == "replace":
        _write(path(name) + ".previous", _read(path(name)))
    if todo:
        _write(path(name), _given(name) or secrets.token_urlsafe(size))
    return todo


def rotate(name, size=32):
    """
    Give secret ``name`` a new random value; the old one stays valid until :py:func:`forget`. The
    whole rotation is ``make rotate SECRET=name``.

    CLI Example:

    .. code-block:: bash

        salt-call secret.rotate redis-counter
    """
    if not exists(name):
        raise CommandExecutionError(f"there is no secret {name} in {FOLDER}")
    if _given(name) is not None:
        raise CommandExecutionError(
            f"secret {name} is given by the pillar: change it there and apply"
        )
    if not os.path.exists(path(name) + ".previous"):
        _write(path(name) + ".previous", _read(path(name)))
        _write(path(name), secrets.token_urlsafe(size))
    return True


def forget(name):
    """Drop the value that ``name`` had before; True when there was one.

    CLI Example:

    .. code-block:: bash

        salt-call secret.forget redis-counter
    """
    try:
        os.unlink(path(name) + ".previous")
    except FileNotFoundError:
        return False
    return True


def sha256(name):
    """
    SHA-256 of secret ``name`` in hexadecimal, as Redis' ACL wants it (``#…``). A placeholder of
    64 zeros while the secret does not exist, as in a test run on a new machine.

    CLI Example:

    .. code-block:: bash

        salt-call secret.sha256 redis-counter
    """
    return hashes(name)[0]


def hashes(name):
    """
    SHA-256 of every value of ``name`` that is to be accepted: the current one, then the one
    before while a rotation is under way.

    CLI Example:

    .. code-block:: bash

        salt-call secret.hashes redis-counter
    """
    values = [_read(path(name)), _read(path(name) + ".previous")]
    found = [hashlib.sha256(value.encode()).hexdigest() for value in values if value is not None]
    return found or ["0" * 64]
