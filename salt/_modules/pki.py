"""
The machine's identity towards the other machines: a certificate of the topology's own CA.

Given by pillar (``secrets:pki``), or, where the topology is this one machine, made and signed here
by a CA of its own. Nothing is used before it fits together: key, certificate, CA, names and dates.
"""

import os

from salt.exceptions import CommandExecutionError

__virtualname__ = "pki"

FOLDER = "/etc/stack/pki"
# The name of the secret that is the key of a CA made here.
CA_KEY = "pki-ca"
# Services that read the key join it.
GROUP = "stack-pki"
_PARTS = {"ca": "machine-ca.crt", "certificate": "machine.crt", "key": "machine.key"}
# Of the application on the machine, which is no machine: root's, who hands them to its processes.
_APPLICATION = {"certificate": "app.crt", "key": "app.key"}


def __virtual__():
    return __virtualname__


def application(machine):
    """
    The name of the application on a machine: only the store lets it in. No machine can have it.

    CLI Example:

    .. code-block:: bash

        salt-call pki.application app1
    """
    return f"app.{machine}"


def paths(application=False):
    """
    Where the parts are: ``{ca, certificate, key}``; with ``application`` those of the application on this
    machine, ``{certificate, key}``. A service that uses them names them in its
    ``watch_files``, so that a renewal is loaded, and joins the group ``stack-pki`` to read the key.

    CLI Example:

    .. code-block:: bash

        salt-call pki.paths
    """
    names = _APPLICATION if application else _PARTS
    return {part: os.path.join(FOLDER, name) for part, name in names.items()}


def given(application=False):
    """
    What the pillar gives, ``{ca, certificate, key}`` in PEM, or None where it gives nothing; with
    ``application`` ``{certificate, key}`` of the application on this machine. Raises CommandExecutionError, never
    with a value in it, for a part that is missing, unknown or still encrypted.
    """
    found = (__pillar__.get("secrets") or {}).get("pki")
    if found is None:
        return None
    if wrong := __utils__["certificate_checks.identity_shape"](found):
        raise CommandExecutionError(f"pillar secrets:pki: {wrong}")
    where = "secrets:pki"
    if application:
        found, where = found.get("application"), f"{where}:application"
        if found is None:
            return None
    found = {part: value for part, value in found.items() if part != "application"}
    for part, value in found.items():
        if "PGP MESSAGE" in value or not value.strip():
            raise CommandExecutionError(
                f"pillar {where}:{part}: could not be decrypted: is the machine's key in"
                " /etc/salt/gpgkeys and the file's first line #!yaml|gpg?"
            )
    return {part: value.strip() + "\n" for part, value in found.items()}


def _current():
    identity = {part: _read(path) for part, path in paths().items()}
    # Where an older version has put it, so that who trusts it goes on doing so.
    identity["ca"] = identity["ca"] or _read(os.path.join(FOLDER, "ca.crt"))
    return identity


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return ""


def application_files(machine):
    """
    The certificate and key of the application on ``machine``, as ``file_set.swap`` takes them. Raises
    CommandExecutionError where the pillar gives none, or one that is not the application's alone.
    """
    name, parts = application(machine), given(application=True)
    if parts is None:
        raise CommandExecutionError(
            f"the pillar must give the application a certificate of its own: secrets:pki:application with"
            f" {', '.join(_APPLICATION)} of {name}, for clients alone (salt/pki/README.md)"
        )
    wrong = __utils__["certificate_checks.problems"](
        {**parts, "ca": given()["ca"]}, name, application=True
    )
    if wrong:
        raise CommandExecutionError("pillar secrets:pki:application: " + "; ".join(wrong))
    return {
        paths(application=True)[part]: {
            "data": text.encode(),
            "mode": 0o600 if part == "key" else 0o644,
            "user": "root",
            "group": "root",
            "secret": part == "key",
        }
        for part, text in parts.items()
    }


def pending(name, addresses, renew_days, own=True):
    """
    Why the identity must be put in place anew: a list of lines, empty when it is fit for use.
    Raises CommandExecutionError for a pillar's that cannot be used; what is there stays.

    own
        whether this machine may make its own CA: it is the only one of its topology

    CLI Example:

    .. code-block:: bash

        salt-call pki.pending dev '[127.0.0.1]' 30
    """
    parts, now = given(), _current()
    if parts is None:
        if not own:
            raise CommandExecutionError(
                "several machines share a CA, which the pillar must give: secrets:pki with"
                f" {', '.join(_PARTS)} of {name} (salt/pki/README.md)"
            )
        if not all(now.values()):
            return ["none is there yet"]
        found = __utils__["certificate_checks.problems"](now, name, addresses, renew_days)
        if not __salt__["secret.exists"](CA_KEY) and not found:
            found = ["the key of its CA is gone"]
        return found
    wrong = __utils__["certificate_checks.problems"](parts, name, addresses)
    if wrong:
        raise CommandExecutionError("pillar secrets:pki: " + "; ".join(wrong))
    return [] if parts == now else ["the pillar gives another"]


def files(name, addresses, days, ca_days, renew_days, anew=True):
    """
    The identity as it is to be, as ``file_set.swap`` takes it: made here or given, or with ``anew``
    False the one that is there. The own CA is kept as long as it is valid, so that who trusts it
    goes on doing so.
    """
    parts = _current()
    if anew:
        parts = given() or _make(name, addresses, days, ca_days, renew_days)
        wrong = __utils__["certificate_checks.problems"](parts, name, addresses)
        if wrong:
            raise CommandExecutionError("; ".join(wrong))
    return {
        paths()[part]: {
            "data": text.encode(),
            "mode": 0o640 if part == "key" else 0o644,
            "user": "root",
            "group": GROUP if part == "key" else "root",
            "secret": part == "key",
        }
        for part, text in parts.items()
    }


def _ca_key():
    try:
        with open(__salt__["secret.path"](CA_KEY), encoding="ascii") as file:
            return file.read()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _make(name, addresses, days, ca_days, renew_days):
    now, ca_key = _current(), _ca_key()
    usable = bool(ca_key and now["ca"])
    if usable:
        try:
            # Tried by using it: whether key and certificate belong together, and for how long.
            trial, key = __utils__["certificates.issue"](now["ca"], ca_key, name, addresses, days)
            parts = {"ca": now["ca"], "certificate": trial, "key": key}
            usable = not __utils__["certificate_checks.problems"](
                parts, name, addresses, renew_days
            )
        except ValueError:
            usable = False
    if not usable:
        ca, ca_key = __utils__["certificates.make_ca"](f"machines of {name}", ca_days)
        __salt__["secret.keep"](CA_KEY, ca_key)
        trial, key = __utils__["certificates.issue"](ca, ca_key, name, addresses, days)
        parts = {"ca": ca, "certificate": trial, "key": key}
    return parts
