"""What readers of several formulas ask with; lies beside `stack.py`, from where they import it."""

import http.client


def status(address, port, path):
    """Status of the answer to GET ``path``; 0 without one within a second and a half."""
    connection = http.client.HTTPConnection(address, port, timeout=1.5)
    try:
        connection.request("GET", path, headers={"User-Agent": "collectd"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def call(stream, *words):
    """
    Answer of a Redis or a Sentinel to one command: text, int, None or a list. ``stream``: its connection as a file.
    RuntimeError for an error of its own.
    """
    stream.write(b"*%d\r\n" % len(words))
    for word in map(str.encode, words):
        stream.write(b"$%d\r\n%s\r\n" % (len(word), word))
    stream.flush()
    return _answer(stream)


def _answer(stream):
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
        return [_answer(stream) for _ in range(int(rest))]
    return rest
