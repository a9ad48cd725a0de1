"""
Certificates and the small authorities that sign them: the only place where any is made, for machines, for
applications, and for the site where nobody gives one. :py:mod:`certificate_checks` judges them.

Loaded by Salt (``__utils__``), and by path by the controller (control/certificates.py).
"""

import datetime
import ipaddress


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
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
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
    certificate = (
        _builder(subject, None, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def issue(ca, ca_key, name, addresses, days, names=None, usages=("server", "client")):
    """
    A certificate for ``name``, signed by the CA (both PEM): ``(certificate, key)`` in PEM. Never valid for
    longer than its CA.

    addresses
        IP addresses in its subjectAltName
    days
        for how long it is valid
    names
        DNS names in its subjectAltName; by default its own and, for a server, ``localhost``
    usages
        for TLS as a ``server``, as a ``client``, or both
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    authority = x509.load_pem_x509_certificate(ca.encode())
    signing = serialization.load_pem_private_key(ca_key.encode(), password=None)
    left = days_left(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    oids = {
        "server": x509.ExtendedKeyUsageOID.SERVER_AUTH,
        "client": x509.ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    names = names or [name, *(["localhost"] if "server" in usages else [])]
    alternatives = [x509.DNSName(dns) for dns in dict.fromkeys(names)]
    alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in dict.fromkeys(addresses)]
    certificate = (
        _builder(name, authority.subject, key.public_key(), min(days, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([oids[usage] for usage in usages]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
        .sign(signing, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def days_left(pem):
    """Whole days for which a certificate (PEM, the first of them) is yet valid; below 0 when it is not."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem.encode())
    # cryptography >= 42 has the aware one.
    aware = getattr(certificate, "not_valid_after_utc", None)
    until = aware or certificate.not_valid_after.replace(tzinfo=datetime.UTC)
    return (until - datetime.datetime.now(datetime.UTC)).days
