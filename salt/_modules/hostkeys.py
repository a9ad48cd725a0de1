"""For formula base: host keys of this machine's ssh server that are worth offering."""

import base64
import os

__virtualname__ = "hostkeys"

_FOLDER = "/etc/ssh"


def __virtual__():
    return __virtualname__


def rsa_bits(public):
    """Bits of the modulus of an RSA public key, a line of OpenSSH's format (RFC 4253, 6.6)."""
    blob = base64.b64decode(public.split()[1])
    fields = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return int.from_bytes(fields[2], "big").bit_length()


def offered(minimum):
    """
    Paths of the private host keys to offer: ed25519, and RSA where it has ``minimum`` bits. RSA
    is for old clients; ecdsa is not offered, as nobody needs it beside ed25519.

    CLI Example:

    .. code-block:: bash

        salt-call hostkeys.offered 3072
    """
    found = [f"{_FOLDER}/ssh_host_ed25519_key"]
    path = f"{_FOLDER}/ssh_host_rsa_key"
    if os.path.exists(f"{path}.pub"):
        with open(f"{path}.pub", encoding="utf-8") as file:
            if rsa_bits(file.read()) >= minimum:
                found.append(path)
    return found
