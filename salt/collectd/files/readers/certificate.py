"""How long this machine's certificates are still valid: the one of a file that ends first."""

import calendar
import os
import re
import ssl
import time

BLOCK = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# Tags of DER (X.690, 8.1.2).
VERSION = 0xA0
UTC_TIME = 0x17


def value(der, at):
    """``(tag, begin, end)`` of the value whose tag is at ``at`` (X.690, 8.1.3)."""
    size, begin = der[at + 1], at + 2
    if size > 127:
        begin += size - 128
        size = int.from_bytes(der[at + 2 : begin], "big")
    return der[at], begin, begin + size


def ends(der):
    """When a certificate ends, in seconds since 1970 (RFC 5280, 4.1). Python's ssl tells the dates of
    authorities only, and of the first certificate of a file by a private name."""
    at = value(der, value(der, 0)[1])[1]
    # The version may be left out. Before the validity: serial number, algorithm, issuer.
    for _ in range(4 if der[at] == VERSION else 3):
        at = value(der, at)[2]
    at = value(der, value(der, at)[1])[2]
    tag, begin, end = value(der, at)
    text = der[begin:end].decode("ascii")
    if tag == UTC_TIME:
        text = ("20" if text < "50" else "19") + text
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def first_end(path):
    """When the first of the certificates in a PEM file ends. ValueError: there is none."""
    with open(path, encoding="ascii", errors="replace") as file:
        return min(ends(ssl.PEM_cert_to_DER_cert(block)) for block in BLOCK.findall(file.read()))


_known = {}


def read(settings):
    for name, path in settings["certificate"].items():
        try:
            changed = os.stat(path).st_mtime_ns
        except FileNotFoundError:
            # Of a service whose first apply is under way.
            continue
        if _known.get(path, (None,))[0] != changed:
            _known[path] = (changed, first_end(path))
        yield "days_left", (_known[path][1] - time.time()) / 86400, name
