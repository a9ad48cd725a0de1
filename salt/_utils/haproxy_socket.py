"""
What HAProxy's administration socket says of the application's servers.

Loaded by Salt (``__utils__``), by path by haproxy/files/answers.py, and a program of its own:

    haproxy_socket.py SOCKET NAME ADDRESS:PORT

Exit code 0 when that server is in rotation; also when HAProxy does not run, or its configuration has no such server
at that address yet: then the next configuration brings it. 1 while it is down or draining.
"""

import csv
import socket
import sys


def servers(path):
    """``{name: {address, status, in_rotation: bool}}`` of the applications' servers, ``path`` being the
    socket's; empty when HAProxy does not run. The names of backend app as they are, others' with their backend's:
    ``app-shop/web1-1``."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin:
            admin.settimeout(5)
            admin.connect(path)
            admin.sendall(b"show stat\n")
            answer = b""
            while block := admin.recv(65536):
                answer += block
    except (FileNotFoundError, ConnectionRefusedError):
        return {}
    rows = csv.DictReader(answer.decode().removeprefix("# ").splitlines())
    return {
        row["svname"] if row["pxname"] == "app" else f"{row['pxname']}/{row['svname']}": {
            "address": row["addr"],
            "status": row["status"],
            "in_rotation": row["status"].startswith("UP"),
        }
        for row in rows
        if (row["pxname"] == "app" or row["pxname"].startswith("app-"))
        and row["svname"] not in ("FRONTEND", "BACKEND")
    }


def main():
    path, name, address = sys.argv[1:]
    server = servers(path).get(name)
    return 1 if server and server["address"] == address and not server["in_rotation"] else 0


if __name__ == "__main__":
    sys.exit(main())
