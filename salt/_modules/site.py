"""
For formula haproxy: the certificate that clients of the site see, as files for ``checked.service``,
which has them checked together with the configuration that names them.
"""

import os

from salt.exceptions import CommandExecutionError

__virtualname__ = "site"

# The CA of a site's certificate that is made here, and what clients verify a given one by.
FOLDER = "/etc/stack/pki"
# Days for which each is valid, and fewer than which are renewed.
_DAYS, _RENEW = 90, 30
_CA_DAYS, _CA_RENEW = 3650, 365
# Where an authority may be tried.
_STAGING = {
    "https://acme-v02.api.letsencrypt.org/directory": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


def __virtual__():
    return __virtualname__


def order(settings):
    """
    What files/acme.py is told: the formula's settings of it, the names that the certificate is to carry, and
    ``leader``, ``{name, address}`` of the edge that orders for all, None on that one itself. Without any names in the
    settings they are the topology's domain and the applications' hosts.

    CLI Example:

    .. code-block:: bash

        salt-call site.order "$(salt-call --out json formula.settings haproxy)"
    """
    acme = settings["acme"]
    edges = __salt__["topology.machines"]("edge")
    first = edges[0] if edges else __salt__["topology.machine"]()
    leads = first["name"] == __salt__["topology.machine"]()["name"]
    hosts = [
        host
        for application in __salt__["backends.served"]()["applications"]
        for host in application["hosts"]
    ]
    names = acme["names"] or [__salt__["topology.domain"](), *hosts]
    wanted = ("directory", "email", "renew_days")
    return {
        "names": list(dict.fromkeys(names)),
        "live": os.path.join(settings["tls"]["directory"], "site.pem"),
        "socket": settings["admin"]["socket"],
        **{one: acme[one] for one in wanted},
        # Who only fetches it proves nothing to anybody.
        "challenge": acme["challenge"] if leads else None,
        "leader": None if leads else {key: first[key] for key in ("name", "address")},
        "followers": leads and len(edges) > 1,
        "https_port": settings["frontend"]["https_port"],
        "staging": acme["staging"] or _STAGING.get(acme["directory"]),
    }


def files(folder, domain, names, addresses, certificate=None, key=None, ordered=()):
    """
    ``{path: {data, mode, user, group, secret}}`` of certificate and key in ``folder``, and of what a client
    needs to verify it: the pillar's where it gives one, else the one that several edges share, else signed
    by a small CA of this machine's own.
    What is there already and fit is kept. CommandExecutionError, a line that says what is wrong, for a
    given one that could not be served.

    domain
        CN of one that is made here
    names, addresses
        under which clients come: its subjectAltName
    certificate, key
        PEM text, and the name of the secret that is its key
    ordered
        names of a certificate that a public authority gives (files/acme.py): where one is served for any of them,
        or for ``domain``, it is kept until it ends or the next one, with a new name, has come
    """
    if certificate:
        return _given(folder, certificate, key)
    shared = (__pillar__.get("secrets") or {}).get("site")
    found = (
        _shared(folder, shared, names, addresses)
        if shared
        else _made(folder, domain, names, addresses)
    )
    pair = [_read(os.path.join(folder, f"site.pem{end}")) for end in ("", ".key")]
    if ordered and _is_public(*pair, {domain, *ordered}):
        found |= _pair(folder, *pair)
        found[os.path.join(_public_folder(), "site.pem")] = _file(pair[0])
    return found


def _file(text, mode=0o644, group="root", secret=False):
    return {"data": text.encode(), "mode": mode, "user": "root", "group": group, "secret": secret}


def _pair(folder, certificate, key):
    return {
        os.path.join(folder, "site.pem"): _file(certificate),
        # HAProxy finds it beside the certificate by this name.
        os.path.join(folder, "site.pem.key"): _file(key, 0o640, "haproxy", secret=True),
    }


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _public_folder():
    """As secrets_folder of secret.py."""
    return __opts__.get("site_folder", FOLDER)


def _given(folder, certificate, key):
    certificate = certificate.strip() + "\n"
    text = __salt__["secret.value"](key).strip() + "\n"
    wrong = __utils__["certificate_checks.pair_problems"](certificate, text)
    if wrong:
        raise CommandExecutionError(
            f"pillar haproxy:tls with secret {key}: {'; '.join(wrong)} (salt/haproxy/README.md)"
        )
    # For clients, in place of ca.pem, which may still be there and is not this certificate's.
    return {
        **_pair(folder, certificate, text),
        os.path.join(_public_folder(), "site.pem"): _file(certificate),
    }


def _shared(folder, parts, names, addresses):
    """What the controller has made for all edges alike, as they can't make it one by one."""
    certificate, key, ca = (parts[name].strip() + "\n" for name in ("certificate", "key", "ca"))
    wrong = __utils__["certificate_checks.pair_problems"](certificate + ca, key)
    if not wrong and not __utils__["certificate_checks.carries"](certificate, names, addresses):
        wrong = [f"is not for {', '.join([*names, *addresses])}"]
    if wrong:
        raise CommandExecutionError(f"pillar secrets:site: {'; '.join(wrong)}")
    return {**_pair(folder, certificate, key), os.path.join(_public_folder(), "ca.pem"): _file(ca)}


def _made(folder, domain, names, addresses):
    paths = {part: os.path.join(_public_folder(), f"ca.{part}") for part in ("pem", "key")}
    ca, ca_key = _read(paths["pem"]), _read(paths["key"])
    if (
        __utils__["certificate_checks.pair_problems"](ca, ca_key)
        or __utils__["certificates.days_left"](ca) < _CA_RENEW
    ):
        # A CN has at most 64 characters (X.520).
        ca, ca_key = __utils__["certificates.make_ca"](f"{domain[:61]} CA", _CA_DAYS)
    pair = [_read(os.path.join(folder, f"site.pem{end}")) for end in ("", ".key")]
    if not _is_usable(*pair, ca, names, addresses):
        pair = __utils__["certificates.issue"](
            ca, ca_key, domain[:64], addresses, _DAYS, names=names, usages=["server"]
        )
    return {
        **_pair(folder, *pair),
        paths["pem"]: _file(ca),
        paths["key"]: _file(ca_key, 0o600, secret=True),
    }


def _is_public(certificate, key, names):
    if __utils__["certificate_checks.pair_problems"](certificate, key):
        return False
    carried = __utils__["certificate_checks.carried"](certificate)
    # One that is made here, whichever CA signed it, carries addresses too.
    return carried is not None and bool(carried[0] & names) and not carried[1]


def _is_usable(certificate, key, ca, names, addresses):
    # With its CA, as a program would be given both: whether that signed it is said there.
    return (
        not __utils__["certificate_checks.pair_problems"](certificate + ca, key)
        and __utils__["certificates.days_left"](certificate) >= _RENEW
        and __utils__["certificate_checks.carries"](certificate, names, addresses)
    )
