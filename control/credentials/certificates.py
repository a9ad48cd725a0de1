"""
Certificates of machines, and the authority that signs them: made and checked as the machines make and check theirs,
by the same modules (salt/_utils), which are loaded by path.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..by_path import load_module

# A command that writes a PEM file without a key that somebody has put among its certificates.
WITHOUT_KEYS = "sed '/-BEGIN [A-Z ]*PRIVATE KEY-/,/-END [A-Z ]*PRIVATE KEY-/d'"


def make_ca(subject: str, days: int) -> tuple[str, str]:
    """A CA that signs machines and no other CA: ``(certificate, key)`` in PEM."""
    certificate, key = load_module("salt/_utils/certificates.py").make_ca(subject, days)
    return certificate, key


def application(machine: str) -> str:
    """The name of the application on a machine (salt/_modules/pki.py)."""
    return f"app.{machine}"


def issue(
    ca: str, ca_key: str, name: str, addresses: Sequence[str], days: int, client: bool = False
) -> tuple[str, str]:
    """
    A certificate and key for machine ``name`` (PEM), for TLS as server and as client; it carries
    the name, ``localhost`` and the addresses, and ends with its CA at the latest. ``client``: for TLS as
    a client alone, with no name but its own.
    """
    usages = ["client"] if client else ["server", "client"]
    certificate, key = load_module("salt/_utils/certificates.py").issue(
        ca, ca_key, name, addresses, days, usages=usages
    )
    return certificate, key


def belongs(certificate: str, key: str) -> bool:
    """Whether the key is the certificate's own, and the certificate is valid."""
    return not load_module("salt/_utils/certificate_checks.py").pair_problems(certificate, key)


def fits(
    certificate: str,
    key: str,
    ca: str,
    name: str,
    addresses: Sequence[str],
    days: int,
    client: bool = False,
) -> bool:
    """Whether it is machine ``name``'s at these addresses, by this CA, for ``days`` more at least; with
    ``client`` an application's, which is a client alone."""
    parts = {"ca": ca, "certificate": certificate, "key": key}
    return not load_module("salt/_utils/certificate_checks.py").problems(
        parts, name, addresses, days, application=client
    )


def issue_site(
    ca: str, ca_key: str, domain: str, names: Sequence[str], addresses: Sequence[str], days: int
) -> tuple[str, str]:
    """A certificate and key (PEM) that clients of ``domain`` see, with these names and addresses."""
    certificate, key = load_module("salt/_utils/certificates.py").issue(
        ca, ca_key, domain[:64], addresses, days, names=names, usages=["server"]
    )
    return certificate, key


def fits_site(
    certificate: str,
    key: str,
    ca: str,
    names: Sequence[str],
    addresses: Sequence[str],
    days: int,
) -> bool:
    """Whether it is the site's, by this CA, with these names and addresses and no others, for ``days`` more."""
    checks = load_module("salt/_utils/certificate_checks.py")
    left = load_module("salt/_utils/certificates.py").days_left
    return (
        not checks.pair_problems(certificate + ca, key)
        and left(certificate) >= days
        and checks.carries(certificate, names, addresses)
    )
