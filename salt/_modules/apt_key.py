"""For formula filebeat: signing keys of package repositories, taken only if they are the expected one."""

import base64
import hashlib
import re

from salt.exceptions import CommandExecutionError

__virtualname__ = "apt_key"


def __virtual__():
    return __virtualname__


def _packets(data):
    """``(tag, body)`` of each OpenPGP packet (RFC 9580, 4.2); ValueError for what is none."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise ValueError("no OpenPGP packet")
        at += 1
        if head & 0x40:
            tag, first = head & 0x3F, data[at]
            if first < 192:
                length, size = first, 1
            elif first < 224:
                length, size = ((first - 192) << 8) + data[at + 1] + 192, 2
            elif first == 255:
                length, size = int.from_bytes(data[at + 1 : at + 5], "big"), 5
            else:
                raise ValueError("a packet of unknown length")
        else:
            tag, kind = (head >> 2) & 0x0F, head & 3
            if kind == 3:
                raise ValueError("a packet of unknown length")
            size = 1 << kind
            length = int.from_bytes(data[at : at + size], "big")
        at += size
        if at + length > len(data):
            raise ValueError("it is cut")
        yield tag, data[at : at + length]
        at += length


def fingerprints(data):
    """
    Fingerprints of the primary keys in ``data`` (bytes: binary, or ASCII-armored as a whole), upper
    case. Raises CommandExecutionError for what is no OpenPGP key of version 4.
    """
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            blocks = re.findall(
                rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n(.*?)-----END",
                data,
                re.S,
            )
            data = b"".join(
                base64.b64decode(re.sub(rb"\n=[A-Za-z0-9+/]{4}\s*$", b"", one)) for one in blocks
            )
        found = []
        for tag, body in _packets(data):
            if tag == 6:
                if body[0] != 4:
                    raise ValueError(f"a key of version {body[0]}")
                framed = b"\x99" + len(body).to_bytes(2, "big") + body
                found.append(hashlib.sha1(framed, usedforsecurity=False).hexdigest().upper())
    except (ValueError, IndexError) as error:
        raise CommandExecutionError(f"this is no signing key: {error}") from error
    return found


def problem(data, fingerprint):
    """What speaks against ``data`` as the key with this fingerprint; None when it is that, alone."""
    found = fingerprints(data)
    if found == [fingerprint]:
        return None
    if not found:
        return "there is no key in it"
    return f"the key in it is {', '.join(found)}, wanted was {fingerprint} alone"
