"""
The machine's identity towards the other machines: a certificate of the topology's own CA.

Given by pillar (``secrets:pki``), or, where the topology is this one machine, made and signed here
by a CA of its own. Nothing is used before it fits together: key, certificate, CA, names and dates.
"""

import datetime
import ipaddress
import itertools
import os
import re
import ssl
import tempfile

from salt.exceptions import CommandExecutionError

__virtualname__ = "pki"

FOLDER = "/etc/stack/pki"
# The name of the secret that is the key of a CA made here.
CA_KEY = "pki-ca"
# Services that read the key join it.
GROUP = "stack-pki"
_PARTS = {"ca": "ca.crt", "certificate": "machine.crt", "key": "machine.key"}
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
    ``uses``, so that a renewal is loaded, and joins the group ``stack-pki`` to read the key.

    CLI Example:

    .. code-block:: bash

        salt-call pki.paths
    """
    names = _APPLICATION if application else _PARTS
    return {part: os.path.join(FOLDER, name) for part, name in names.items()}


def given(application=False):
    """
    What the pillar gives, ``{ca, certificate, key}`` in PEM, or None where it gives nothing; with
    ``application`` ``{certificate, key}`` of the application on this machine. Raises CommandExecutionError, never with a value in it, for a part that is missing, unknown or
    still encrypted.
    """
    found = (__pillar__.get("secrets") or {}).get("pki")
    if found is None:
        return None
    if wrong := misshapen(found):
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


def misshapen(found):
    """Why ``found``, the pillar's ``secrets:pki``, is not all parts as text with the key in its own
    place, and where there is an ``application`` its parts; None when it is. Holds none of it."""
    if not isinstance(found, dict) or set(found) - {"application"} != set(_PARTS):
        return f"needs {', '.join(_PARTS)}, no more and no less (an application's: {', '.join(_APPLICATION)})"
    parts, own = {part: found[part] for part in _PARTS}, found.get("application", {})
    if not isinstance(own, dict) or set(own) not in (set(), set(_APPLICATION)):
        return f"application: needs {', '.join(_APPLICATION)}, no more and no less"
    for part, value in [*parts.items(), *own.items()]:
        if not isinstance(value, str):
            return f"{part}: is not text"
        if part != "key" and (wrong := unfit(value)):
            return f"{part}: {wrong}"
    return None


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


def _pem(of):
    from cryptography.hazmat.primitives import serialization

    return of.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key):
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _builder(subject, issuer, public_key, days):
    from cryptography import x509

    # An hour back: the clocks of two machines differ.
    since = _now() - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer or x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(**used):
    from cryptography import x509

    known = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{one: used.get(one, False) for one in known})


def make_ca(subject, days):
    """A new CA: ``(certificate, key)`` in PEM. Its key signs machines' certificates and no CA."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _builder(subject, None, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(made), _key_pem(key)


def issue(ca, ca_key, name, addresses, days, names=None, client=True):
    """
    A certificate for machine ``name``, signed by the CA (both PEM): ``(certificate, key)`` in PEM.
    For TLS as a server and, unless ``client`` is False, as a client; carries ``names``, by default its
    own and ``localhost``, and the addresses. Never valid for longer than its CA.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    authority = x509.load_pem_x509_certificate(ca.encode())
    signing = serialization.load_pem_private_key(ca_key.encode(), password=None)
    left = (_until(authority) - _now()).days
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    uses += [x509.ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    carried = [x509.DNSName(one) for one in dict.fromkeys(names or [name, "localhost"])]
    carried += [x509.IPAddress(ipaddress.ip_address(one)) for one in dict.fromkeys(addresses)]
    made = (
        _builder(name, authority.subject, key.public_key(), min(days, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(carried), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
        .sign(signing, hashes.SHA256())
    )
    return _pem(made), _key_pem(key)


def _current():
    found = {}
    for part, path in paths().items():
        try:
            with open(path, encoding="utf-8") as file:
                found[part] = file.read()
        except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            found[part] = ""
    return found


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
    wrong = problems({**parts, "ca": given()["ca"]}, name, application=True)
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
        found = problems(now, name, addresses, renew_days)
        if not __salt__["secret.exists"](CA_KEY) and not found:
            found = ["the key of its CA is gone"]
        return found
    wrong = problems(parts, name, addresses)
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
        wrong = problems(parts, name, addresses)
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
            trial, key = issue(now["ca"], ca_key, name, addresses, days)
            parts = {"ca": now["ca"], "certificate": trial, "key": key}
            usable = not problems(parts, name, addresses, renew_days)
        except ValueError:
            usable = False
    if not usable:
        ca, ca_key = make_ca(f"machines of {name}", ca_days)
        __salt__["secret.keep"](CA_KEY, ca_key)
        trial, key = issue(ca, ca_key, name, addresses, days)
        parts = {"ca": ca, "certificate": trial, "key": key}
    return parts
