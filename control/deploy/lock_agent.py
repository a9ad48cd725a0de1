"""
Hold a machine's one deploy lock for as long as standard input stays open. Sent to the machine by
control/deploy/lock.py, so it needs nothing but Python there.

A line comes every few seconds while the deployer is there; without one the lock ends too, for of a lost
network nobody is told.

The next line of standard input is JSON: {who, when, why, what}. Answers `held`, or `taken` and that line of whoever
holds it (nothing, where the kernel knows no such holder), and then exits with 75. Nothing ever has to be cleaned up: the lock ends with the
connection, and so with the one who deploys, however that ends.
"""

import fcntl
import os
import re
import select
import sys

# Below a folder that only root enters: who can open a lock can hold it.
LOCK = "/run/stack/deploy.lock"
# Seconds without a line after which the deployer is gone; one comes every BEAT.
PATIENCE, BEAT = 60, 5


def note(handle: int) -> str:
    """What the process that holds the lock wrote; empty when it is another's, who is gone."""
    pid, _, text = os.read(handle, 4096).decode(errors="replace").strip().partition(" ")
    with open("/proc/locks", encoding="ascii") as file:
        inode = os.fstat(handle).st_ino
        held = re.findall(rf"(?m) FLOCK +ADVISORY +WRITE (\d+) \S+:{inode} ", file.read())
    return text if pid in held else ""


def main() -> int:
    mine = sys.stdin.readline().strip()
    os.makedirs(os.path.dirname(LOCK), mode=0o700, exist_ok=True)
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("taken", note(handle), flush=True)
        return 75
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()} {mine}\n".encode())
    print("held", flush=True)
    # Until whoever started this closes it, or is gone.
    handle = sys.stdin.fileno()
    while select.select([handle], [], [], PATIENCE)[0] and os.read(handle, 4096):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
