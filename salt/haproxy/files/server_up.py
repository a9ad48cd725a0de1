"""Whether HAProxy sends requests to a server, or need not be waited for.

    server_up.py SOCKET NAME ADDRESS:PORT

Exit code 0 when it is up; also when HAProxy does not run, or its configuration has no such server
at that address yet: then the next configuration brings it. 1 while it is down or draining.
"""

import csv
import socket
import sys


def main():
    path, name, address = sys.argv[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin:
            admin.settimeout(5)
            admin.connect(path)
            admin.sendall(b"show stat\n")
            said = b""
            while block := admin.recv(65536):
                said += block
    except (FileNotFoundError, ConnectionRefusedError):
        return 0
    rows = csv.DictReader(said.decode().removeprefix("# ").splitlines())
    for row in rows:
        if row["pxname"] == "app" and row["svname"] == name and row["addr"] == address:
            return 0 if row["status"].startswith("UP") else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
