"""What this machine's Sentinel says of the master, by a user of its own that may ask that and nothing else."""

import socket
import ssl


def call(stream, *words):
    """Answer to one command: text, int, None or a list. RuntimeError for an error of Sentinel's own."""
    stream.write(b"*%d\r\n" % len(words))
    for word in map(str.encode, words):
        stream.write(b"$%d\r\n%s\r\n" % (len(word), word))
    stream.flush()
    return answer(stream)


def answer(stream):
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise OSError("the connection was cut")
    kind, rest = line[:1], line[1:-2].decode(errors="replace")
    if kind == b"-":
        raise RuntimeError(rest)
    if kind == b":":
        return int(rest)
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else stream.read(size + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        return [answer(stream) for _ in range(int(rest))]
    return rest


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
