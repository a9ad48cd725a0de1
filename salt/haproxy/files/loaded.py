"""Whether the newest haproxy process runs the newest configuration.

    loaded.py MASTER_SOCKET

After a reload that failed, the master goes on with the old process: `systemctl reload` says
nothing of it. The master lists its processes with the number of reloads each has survived; one
that survived none is there only when the last start or reload succeeded (management guide, 13.1
"show proc"). Exit code 0 then, else 1 and a line on stderr.
"""

import socket
import sys


def main():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as master:
        master.settimeout(5)
        master.connect(sys.argv[1])
        master.sendall(b"show proc\n")
        master.shutdown(socket.SHUT_WR)
        said = b""
        while block := master.recv(4096):
            said += block
    for line in said.decode().splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[1] == "worker" and fields[2] == "0":
            return 0
    print(
        "haproxy did not take the new configuration and goes on with the old one", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)
        sys.exit(1)
