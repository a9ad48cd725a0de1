"""
What is wrong with certificates and keys, before anything loads them: whether they fit together, for whom they are,
how long they last. :py:mod:`certificates` makes them.

Loaded by Salt (``__utils__``), and by path by the controller (control/certificates.py). No line that is returned
holds any of a key.
"""

import datetime
import ipaddress
import itertools
import os
import re
import ssl
import tempfile

# Parts of a machine's identity, and of its application's, as the pillar's secrets:pki gives them.
_IDENTITY = ("ca", "certificate", "key")
_APPLICATION = ("certificate", "key")


def unfit(pem):
    """
    Why this text must not be put where everybody may read it, as certificates are; None when it may.
    Asked of every PEM that is not a key's own, whoever gives it.
    """
    labels = re.findall(r"-----BEGIN ([^-]*)-----", pem)
    if "PRIVATE KEY" in pem.upper():
        return (
            "holds a private key, and certificates are readable by everybody: take the key out, and"
            " give it as an encrypted secret of its own (docs/secrets.md)"
        )
    # As text that stays in its line, whatever stands in it.
    other = sorted(ascii(one)[1:-1] for one in set(labels) - {"CERTIFICATE", "PGP MESSAGE"})
    return f"holds {', '.join(other)}: allowed: certificates" if other else None


def identity_shape(given):
    """Why ``given``, the pillar's ``secrets:pki``, is not all parts as text with the key in its own
    place, and where there is an ``application`` its parts; None when it is. Holds none of it."""
    if not isinstance(given, dict) or set(given) - {"application"} != set(_IDENTITY):
        return f"needs {', '.join(_IDENTITY)}, no more and no less (an application's: {', '.join(_APPLICATION)})"
    parts, own = {part: given[part] for part in _IDENTITY}, given.get("application", {})
    if not isinstance(own, dict) or set(own) not in (set(), set(_APPLICATION)):
        return f"application: needs {', '.join(_APPLICATION)}, no more and no less"
    for part, value in [*parts.items(), *own.items()]:
        if not isinstance(value, str):
            return f"{part}: is not text"
        if part != "key" and (wrong := unfit(value)):
            return f"{part}: {wrong}"
    return None


def _now():
    return datetime.datetime.now(datetime.UTC)


def _until(certificate):
    # cryptography >= 42 has the aware ones.
    aware = getattr(certificate, "not_valid_after_utc", None)
    return aware or certificate.not_valid_after.replace(tzinfo=datetime.UTC)


def _since(certificate):
    aware = getattr(certificate, "not_valid_before_utc", None)
    return aware or certificate.not_valid_before.replace(tzinfo=datetime.UTC)


def _extension(certificate, kind):
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _certificates(label, pem):
    """
    The certificates of a PEM text, in its order; ValueError, a line that begins with ``label``, where it
    holds anything else or any block is not whole. (Most readers stop at the first block, and the
    program that serves it stumbles over the second.)
    """
    from cryptography import x509

    found = []
    for number, start in enumerate(re.finditer(r"(?m)^-----BEGIN ([^-\n]*)-----", pem), 1):
        kind, where = start[1], f"{label}: block {number}"
        # Not the text itself: it may be a key.
        if kind != "CERTIFICATE":
            raise ValueError(f"{where} is a {kind}: only certificates belong here")
        end = re.compile(r"[^-]*\n-----END CERTIFICATE-----\s*?(\n|$)").match(pem, start.end())
        if end is None:
            raise ValueError(f"{where} is cut off: from its BEGIN line to its END line is needed")
        try:
            found.append(
                x509.load_pem_x509_certificate(end.string[start.start() : end.end()].encode())
            )
        except ValueError:
            raise ValueError(f"{where} is damaged: not readable as a certificate") from None
    if not found:
        raise ValueError(f"{label}: not readable as PEM: no -----BEGIN CERTIFICATE----- in it")
    return found


def _issued_by(child, parent):
    try:
        child.verify_directly_issued_by(parent)
    except Exception:  # the library has several reasons, all of them a no
        return False
    return True


def _dates(label, certificate):
    """A list of what is wrong with when it is valid."""
    if _since(certificate) > _now():
        return [f"{label}: not valid before {_since(certificate):%Y-%m-%d %H:%M} UTC"]
    if _until(certificate) <= _now():
        return [f"{label}: expired on {_until(certificate):%Y-%m-%d %H:%M} UTC"]
    return []


def _public(of):
    from cryptography.hazmat.primitives import serialization

    return of.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def pair_problems(certificate, key):
    """
    Why a program would refuse ``certificate`` (PEM: a server's or machine's own, then who issued it, each
    the one before) with ``key``, one line each; an empty list when it would not. No line holds any of
    the key.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        chain = _certificates("certificate", certificate)
    except ValueError as error:
        return [str(error)]
    try:
        public = _public(
            serialization.load_pem_private_key(key.encode(), password=None).public_key()
        )
    except (ValueError, TypeError):
        # Not the library's own words, which may quote what it could not read.
        return ["key: not readable as unencrypted PEM"]
    holders = [number for number, one in enumerate(chain, 1) if _public(one.public_key()) == public]
    if not holders:
        return ["key: is not the certificate's"]
    if holders[0] != 1:
        return [f"certificate: the key's own is block {holders[0]} and must be the first"]
    for number, (child, parent) in enumerate(itertools.pairwise(chain), 1):
        if not _issued_by(child, parent):
            return [
                f"certificate: block {number + 1} has not issued block {number}: each must be"
                " followed by its issuer"
            ]
    found = []
    for number, one in enumerate(chain, 1):
        found += _dates("certificate" if number == 1 else f"certificate: block {number}", one)
    return found or _openssl(certificate, key)


def _openssl(certificate, key):
    """What OpenSSL, which serves it, has against a pair that is well otherwise: a key that is too
    short, a hash that is too weak."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pair.pem")
        with open(
            path, "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)
        ) as file:
            file.write(f"{key.strip()}\n{certificate.strip()}\n")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).replace("_", " ").lower()
            return [f"certificate: OpenSSL refuses it: {reason}"]
    return []


def problems(parts, name, addresses=(), renew_days=0, application=False):
    """
    What is wrong with ``{ca, certificate, key}`` (PEM) as the identity of machine ``name``, one
    line each; an empty list when it is fit for use. No line holds any of the key.

    addresses
        IP addresses that the certificate must carry beside the name
    renew_days
        fewer days than this left count as wrong
    application
        ``name`` is an application's, which must not pass for a machine: a client, of no other name
    """
    from cryptography import x509

    for part in ("ca", "certificate"):
        if wrong := unfit(parts[part]):
            return [f"{part}: {wrong}"]
    try:
        ca = _certificates("ca", parts["ca"])[0]
    except ValueError as error:
        return [str(error)]
    found = pair_problems(parts["certificate"], parts["key"])
    if found:
        return found
    chain = _certificates("certificate", parts["certificate"])
    own = chain[0]
    basic = _extension(ca, x509.BasicConstraints)
    if basic is None or not basic.ca:
        found.append("ca: is no CA's certificate (basicConstraints CA:TRUE)")
    if not _issued_by(chain[-1], ca):
        found.append("certificate: is not issued by the ca")
    found += _dates("ca", ca)
    for label, one in (("ca", ca), ("certificate", own)):
        left = _until(one) - _now()
        if datetime.timedelta() < left < datetime.timedelta(days=renew_days):
            found.append(f"{label}: expires in {left.days} days")
    common = own.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if [one.value for one in common] != [name]:
        found.append(f"certificate: its CN is not {name}")
    alternative = _extension(own, x509.SubjectAlternativeName)
    names = alternative.get_values_for_type(x509.DNSName) if alternative else []
    if name not in names:
        found.append(f"certificate: {name} is not among its subjectAltName")
    carried = alternative.get_values_for_type(x509.IPAddress) if alternative else []
    for address in addresses:
        if ipaddress.ip_address(address) not in carried:
            found.append(f"certificate: {address} is not among its subjectAltName")
    usage = _extension(own, x509.ExtendedKeyUsage)
    if application:
        if names != [name] or carried:
            found.append(f"certificate: carries more in its subjectAltName than {name}")
        if usage is None or list(usage) != [x509.ExtendedKeyUsageOID.CLIENT_AUTH]:
            found.append("certificate: is not for clients alone (extendedKeyUsage)")
        return found or _openssl(f"{parts['certificate'].strip()}\n{parts['ca']}", parts["key"])
    for oid, what in (
        (x509.ExtendedKeyUsageOID.SERVER_AUTH, "servers"),
        (x509.ExtendedKeyUsageOID.CLIENT_AUTH, "clients"),
    ):
        if usage is not None and oid not in usage:
            found.append(f"certificate: is not for {what} (extendedKeyUsage)")
    return found or _openssl(f"{parts['certificate'].strip()}\n{parts['ca']}", parts["key"])


def carried(pem):
    """The DNS names and the IP addresses of a certificate's subjectAltName, as two sets; None without any."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem.encode())
    alternative = _extension(certificate, x509.SubjectAlternativeName)
    if alternative is None:
        return None
    return (
        set(alternative.get_values_for_type(x509.DNSName)),
        set(alternative.get_values_for_type(x509.IPAddress)),
    )


def carries(pem, names, addresses):
    """Whether a certificate's subjectAltName has these DNS names and IP addresses and no others."""
    return carried(pem) == (set(names), {ipaddress.ip_address(ip) for ip in addresses})
