"""
Secrets of this machine: given by the pillar (``secrets``), or made here at first need; kept
in files that only root reads.

Nothing here returns a secret to a state's output, a log or a diff; templates ask for a hash or
for the path (systemd's ``LoadCredential=``), not for the value.
"""

import hashlib
import os
import re
import secrets
import subprocess

from salt.exceptions import CommandExecutionError

__virtualname__ = "secret"

FOLDER = "/etc/stack/secrets"
# Text of one line, without what no terminal, file or protocol takes for part of a password.
_TEXT = re.compile(r"(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+(?<!\s)")
# Made here, by token_urlsafe.
_RANDOM = re.compile(r"[A-Za-z0-9_-]{43}")
_AGE = re.compile(r"(?m)^AGE-SECRET-KEY-1[A-Z0-9]+\s*$")
_KEY = re.compile(
    r"-----BEGIN ((?:[A-Z]+ )?PRIVATE KEY)-----\s[A-Za-z0-9+/=\s]+-----END \1-----(?:\s|$)"
)
_ENCRYPTED = "-----BEGIN PGP MESSAGE-----"


def __virtual__():
    return __virtualname__


def problem(value, kind="text"):
    """
    Why a ``value`` of the pillar cannot be a secret of this kind, in words that hold none of it; None
    when it can, and for one that is still encrypted, which stops the apply of its own service alone.

    kind
        ``text``: one line, as passwords and tokens are. ``key``: a private key in PEM, without a
        passphrase. ``age``: an identity of age(1). ``pki``: the parts that salt/pki takes
    """
    if kind == "pki":
        return __utils__["certificate_checks.identity_shape"](value)
    if not isinstance(value, str):
        kinds = {type(None): "empty", dict: "a mapping", list: "a list"}
        if type(value) in kinds:
            return f"is {kinds[type(value)]}, not text"
        return "is a number or a boolean to YAML, which has changed it by now: quote it"
    value = value.strip("\r\n")
    if not value.strip() or value.startswith(_ENCRYPTED):
        return None
    if kind == "key":
        found = _KEY.findall(value)
        if len(found) == 1 and "ENCRYPTED" not in value:
            return None
        return "needs one private key in PEM, whole and without a passphrase"
    if kind == "age":
        return (
            None if _AGE.search(value) else "needs an identity of age(1), as age-keygen writes it"
        )
    if _TEXT.fullmatch(value):
        return None
    return "needs text of one line, without control characters and spaces around it"


def _broken(value):
    """Whether no secret of any kind looks like this: nobody who needs it can use it."""
    return not value.strip() or all(problem(value, kind) for kind in ("text", "key", "age"))


def path(name):
    """Path of secret ``name``; it need not exist yet.

    CLI Example:

    .. code-block:: bash

        salt-call secret.path redis-counter
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise CommandExecutionError(f"secret name {name!r}: use a-z, 0-9 and -")
    # Set where the controller renders for a host that runs no Salt (control/containers).
    return os.path.join(__opts__.get("secrets_folder", FOLDER), name)


def exists(name):
    """Whether secret ``name`` is on this machine.

    CLI Example:

    .. code-block:: bash

        salt-call secret.exists redis-counter
    """
    return os.path.exists(path(name))


def _write(target, value):
    """Whole or not at all, and never readable by anybody else."""
    before = __utils__["atomic_file.write"](target, value, folder_mode=0o700)
    __salt__["file_set.remember"]({target: before})


def _given(name):
    """The value that the pillar gives for ``name``, or None. Refused while still encrypted."""
    value = (__pillar__.get("secrets") or {}).get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise CommandExecutionError(f"pillar secrets:{name}: {problem(value)}")
    value = value.strip("\r\n")
    if not value.strip() or value.startswith(_ENCRYPTED):
        raise CommandExecutionError(
            f"pillar secrets:{name}: could not be decrypted: is the machine's key in"
            " /etc/salt/gpgkeys and the file's first line #!yaml|gpg?"
        )
    return value


def _read(target):
    try:
        # Whatever bytes are there: what is no text is broken, and no reason to stop.
        with open(target, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _made(kind, size):
    if kind == "age":
        # An identity of age(1), with its public half in a comment.
        return subprocess.run(
            ["age-keygen"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    return secrets.token_urlsafe(size)


def pending(name, kind="random"):
    """
    What :py:func:`ensure` would do with ``name``: ``make``, ``replace``, ``repair`` (one that is broken,
    of a kind that can be made anew) or None. ``kind`` as there.

    CLI Example:

    .. code-block:: bash

        salt-call secret.pending redis-counter
    """
    now, given = _read(path(name)), _given(name)
    if now is None and given is None and kind == "given":
        raise CommandExecutionError(
            f"pillar secrets:{name}: is missing, and no machine can make it up: 'make secret"
            f" SECRET={name}' gives it (docs/secrets.md), or put it into {path(name)}"
        )
    if now is None:
        return "make"
    if given is None and _broken(now):
        if kind == "random":
            return "repair"
        raise CommandExecutionError(
            f"{path(name)}: no secret looks like this: give it in encrypted pillar (docs/secrets.md),"
            " or put the right one there"
        )
    return "replace" if given is not None and given != now else None


def ensure(name, size=32, kind="random"):
    """
    Make sure that secret ``name`` is here: the pillar's value where it gives one, else what ``kind``
    says, made once. Returns what was done: ``make``, ``replace``, ``repair``, None.

    kind
        ``random``: ``size`` random bytes as URL-safe text. ``age``: an identity of age(1). ``given``:
        it cannot be made, so without a value that is an error

    A replaced value stays beside the new one (``NAME.previous``) until :py:func:`forget`, so that
    both are accepted while its users are moved. A broken one does not: nobody uses it, and what stands
    there is what they go on with.

    CLI Example:

    .. code-block:: bash

        salt-call secret.ensure redis-counter
    """
    todo = pending(name, kind)
    if todo == "replace":
        _keep_previous(name)
    if todo:
        _write(path(name), _given(name) or _made(kind, size))
    return todo


def value(name):
    """
    The value that ``name`` is to have: the pillar's where it gives one, else the one that is here. For
    modules that make a service's file of it; a state or a template never gets it.
    """
    found = _given(name)
    found = _read(path(name)) if found is None else found
    if found is None:
        raise CommandExecutionError(
            f"secret {name} is neither in pillar secrets:{name} nor in {path(name)}"
        )
    return found


def _keep_previous(name):
    now = _read(path(name))
    if not _broken(now):
        _write(path(name) + ".previous", now)


def keep(name, value):
    """Put ``value``, made by another module (a CA's key), under ``name`` in place of what is there."""
    _write(path(name), value)


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
            f"secret {name} is given by the pillar: change it there ('make secret SECRET={name}', or its"
            " encrypted file) and apply"
        )
    now, before = _read(path(name)), _read(path(name) + ".previous")
    if not _broken(now) and problem(now):
        raise CommandExecutionError(
            f"secret {name} is a key with a form of its own, not random text: it is replaced where it"
            " was made (its formula's README.md says how)"
        )
    # Of a rotation that was killed, the second half is done: its new value stays. One that was given,
    # or is broken, is no such value, whatever it has replaced.
    if before is None or before == now or not _RANDOM.fullmatch(now):
        _keep_previous(name)
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
    found = [
        hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
        for value in values
        if value is not None
    ]
    return found or ["0" * 64]
