"""
Bans of each jail, asked of fail2ban's own socket: its client is a Python program whose start costs
more than everything else that is measured here together.
"""

import io
import pickle
import socket

END = b"<F2B_END_COMMAND>"


class Plain(pickle.Unpickler):
    """Lists, tuples, text and numbers; what is anything else is told as text."""

    def find_class(self, module, name):
        return lambda *words: str(words)


def ask(path, *words):
    """Answer to one command; OSError when there is none, RuntimeError when it is refused."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(3)
        link.connect(path)
        link.sendall(pickle.dumps(list(words), protocol=2) + END)
        said = b""
        while not said.endswith(END):
            part = link.recv(65536)
            if not part:
                raise OSError("the connection was cut")
            said += part
    code, answer = Plain(io.BytesIO(said[: -len(END)])).load()
    if code:
        raise RuntimeError(str(answer)[:200])
    return answer


def jails(answer):
    """Names of the jails, of what `status` answers."""
    listed = dict(answer)["Jail list"]
    return [one.strip() for one in listed.split(",") if one.strip()]


def read(settings):
    path = settings["socket"]
    try:
        names = jails(ask(path, "status"))
        found = {name: ask(path, "status", name) for name in names}
    except OSError:
        yield "up", 0
        return
    yield "up", 1
    yield "jails", len(names)
    for name, answer in found.items():
        # These note who attacked what, and shut nobody out by themselves (salt/fail2ban/files/bans.nft.j2).
        if name.startswith("attacked-"):
            continue
        parts = dict(answer)
        seen, bans = dict(parts["Filter"]), dict(parts["Actions"])
        yield "failures", int(seen["Total failed"]), name
        yield "banned", int(bans["Currently banned"]), name
        yield "bans", int(bans["Total banned"]), name
