"""Identities of age(1), made without it: the controller need not have it installed."""

from __future__ import annotations

import secrets

# BIP 173's alphabet and generator: an identity is 32 random bytes in Bech32.
ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
PREFIX = "age-secret-key-"


def _checksum(prefix: str, values: list[int]) -> list[int]:
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    remainder = 1
    for value in [*expanded, *values, 0, 0, 0, 0, 0, 0]:
        top, remainder = remainder >> 25, (remainder & 0x1FFFFFF) << 5 ^ value
        for bit, word in enumerate(GENERATOR):
            remainder ^= word if top >> bit & 1 else 0
    return [(remainder ^ 1) >> 5 * (5 - place) & 31 for place in range(6)]


def encode(key: bytes) -> str:
    """``AGE-SECRET-KEY-1…`` of 32 bytes (age's format, section "X25519 recipient stanza")."""
    number, size = int.from_bytes(key, "big"), len(key) * 8
    # Groups of five bits, the last filled up with zeros.
    filled = -size % 5
    number <<= filled
    values = [number >> at & 31 for at in range(size + filled - 5, -1, -5)]
    text = "".join(ALPHABET[value] for value in values + _checksum(PREFIX, values))
    return f"{PREFIX}1{text}".upper()


def identity() -> str:
    """A new one. The comment keeps it from being taken for random text (secret.rotate)."""
    return f"# opens backups; made by the controller\n{encode(secrets.token_bytes(32))}\n"
