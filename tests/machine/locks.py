"""
Sent to a machine by the tests, as a program of its own.

    locks.py hold READY     as any account: take every lock that it can, of all files that it can open,
                            and keep them until it is stopped; new files too. READY: a file for its count
    locks.py watch STOP     as root: which files others lock until STOP is there, a line each: `open PATH`
                            where an ordinary account could open it, else `closed PATH`
"""

import contextlib
import fcntl
import os
import re
import resource
import stat
import sys
import time

# Not the packages' own files, which nobody locks and which are too many.
EVERYWHERE = ("/dev/shm", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/var")
NEW = ("/run", "/tmp", "/var")
NOBODY = 65534


def hold(ready: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held: dict[tuple[int, int], int] = {}
    tops = EVERYWHERE
    while True:
        for top in tops:
            for folder, folders, names in os.walk(top):
                for name in (*folders, *names, "."):
                    with contextlib.suppress(OSError):
                        take(os.path.join(folder, name), held)
        if tops is not NEW:
            with open(ready, "w", encoding="ascii") as file:
                file.write(str(len(held)))
        tops = NEW
        time.sleep(0.5)


def take(path: str, held: dict[tuple[int, int], int]) -> None:
    found = os.lstat(path)
    place = (found.st_dev, found.st_ino)
    if place in held or stat.S_ISLNK(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        return
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held[place] = handle
    except BlockingIOError:
        # Somebody else's at this moment: the next time.
        os.close(handle)
        return
    with contextlib.suppress(OSError):
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


def watch(stop: str) -> None:
    seen: dict[str, bool] = {}
    # Whose locks are known not to matter: the holders have tens of thousands, and a look must be short.
    holders: set[str] = set()
    while not os.path.exists(stop):
        with open("/proc/locks", encoding="ascii") as file:
            locks = re.findall(r"(?:FLOCK|POSIX|OFDLCK) .* (\d+) \S+:(\d+) ", file.read())
        for pid, inode in set(locks):
            if pid not in holders:
                with contextlib.suppress(OSError):
                    note(pid, int(inode), seen, holders)
        time.sleep(0.002)
    for path, is_open in sorted(seen.items()):
        print("open" if is_open else "closed", path)


def note(pid: str, inode: int, seen: dict[str, bool], holders: set[str]) -> None:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if b"locks.py" in file.read():
            holders.add(pid)
            return
    for handle in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/{pid}/fd/{handle}")
            if os.stat(f"/proc/{pid}/fd/{handle}").st_ino == inode and path not in seen:
                seen[path] = can_open(path)


def can_open(path: str) -> bool:
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(os.access(path, os.R_OK) or os.access(path, os.W_OK))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


if __name__ == "__main__":
    {"hold": hold, "watch": watch}[sys.argv[1]](sys.argv[2])
