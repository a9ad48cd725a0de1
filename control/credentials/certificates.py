"""
Certificates of machines, and the small CA that signs them. Every machine checks for itself what it
is given (salt/_modules/pki.py), so this makes and renews and does not judge.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A command that writes a PEM file without a key that somebody has put among its certificates.
WITHOUT_KEYS = "sed '/-BEGIN [A-Z ]*PRIVATE KEY-/,/-END [A-Z ]*PRIVATE KEY-/d'"


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: str, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    # An hour back: the clocks of two machines differ.
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*used: str) -> x509.KeyUsage:
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
    return x509.KeyUsage(**{one: one in used for one in known})


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[str, str]:
    return (
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


def _private(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")
    return key


def make_ca(subject: str, days: int) -> tuple[str, str]:
    """A CA that signs machines and no other CA: ``(certificate, key)`` in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _builder(subject, _name(subject), key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(made, key)


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
    authority, signing = x509.load_pem_x509_certificate(ca.encode()), _private(ca_key)
    left = authority.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if not client:
        names.append(x509.DNSName("localhost"))
        uses.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in dict.fromkeys(addresses)]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    made = (
        _builder(name, authority.subject, key.public_key(), min(days, left.days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(signing, hashes.SHA256())
    )
    return _pem(made, key)


def belongs(certificate: str, key: str) -> bool:
    """Whether the key is the certificate's own."""
    try:
        public = x509.load_pem_x509_certificate(certificate.encode()).public_key()
        return public == _private(key).public_key()
    except ValueError:
        return False


def fits(
    certificate: str, key: str, ca: str, name: str, addresses: Sequence[str], days: int
) -> bool:
    """Whether it is machine ``name``'s at these addresses, by this CA, for ``days`` more at least."""
    if not belongs(certificate, key):
        return False
    own = x509.load_pem_x509_certificate(certificate.encode())
    try:
        own.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
        carried = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    left = own.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return (
        left >= datetime.timedelta(days=days)
        and name in carried.get_values_for_type(x509.DNSName)
        and {ipaddress.ip_address(one) for one in addresses}
        <= set(carried.get_values_for_type(x509.IPAddress))
    )
