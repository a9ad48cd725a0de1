"""What this machine's Sentinel says of the master, by a user of its own that may ask that and nothing else."""

import socket
import ssl

from reader_clients import call


def read(settings):
    with open(settings["password"], encoding="utf-8") as file:
        secret = file.read()
    files = settings["tls"]
    context = ssl.create_default_context(cafile=files["ca"])
    context.load_cert_chain(files["certificate"], files["key"])
    try:
        with (
            socket.create_connection((settings["address"], settings["port"]), 3) as link,
            context.wrap_socket(link, server_hostname=settings["address"]) as secured,
        ):
            stream = secured.makefile("rwb")
            call(stream, "AUTH", "monitor", secret)
            words = call(stream, "SENTINEL", "MASTER", settings["master"])
            try:
                call(stream, "SENTINEL", "CKQUORUM", settings["master"])
                quorum = 1
            except RuntimeError:
                quorum = 0
    except OSError:
        yield "up", 0
        yield "quorum", 0
        return
    found = dict(zip(words[::2], words[1::2], strict=True))
    stores = settings["stores"]
    yield "up", 1
    yield "quorum", quorum
    yield "master", stores.index(found["ip"]) + 1 if found["ip"] in stores else 0
    yield "epoch", int(found["config-epoch"])
    yield "replicas", int(found["num-slaves"])
    yield "others", int(found["num-other-sentinels"])
