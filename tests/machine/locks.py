"""
Sent to a machine by the tests, as a program of its own.

    locks.py hold READY     as any account: take every lock that it can, of all files that it can open,
                            and keep them until it is stopped; new files too. READY: a file for its count
    locks.py watch STOP     as root: which files others lock until STOP is there, a line each: `open PATH`
                            where an ordinary account could open it, else `closed PATH`. STOP.ready: a file
                            that is there once it looks
"""

import contextlib
import fcntl
import os
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
    """
    By what each process has open. Not by /proc/locks: each of its pages goes through all locks again, of
    which the holders have tens of thousands, and what is held for a second could be missed.
    """
    seen: dict[str, bool] = {}
    # Whose locks are known not to matter.
    others: set[str] = set()
    with open(f"{stop}.ready", "w", encoding="ascii"):
        pass
    while not os.path.exists(stop):
        for pid in os.listdir("/proc"):
            if pid.isdigit() and pid not in others:
                with contextlib.suppress(OSError):
                    note(pid, seen, others)
        time.sleep(0.002)
    for path, is_open in sorted(seen.items()):
        print("open" if is_open else "closed", path)


def note(pid: str, seen: dict[str, bool], others: set[str]) -> None:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read()
    if b"locks.py" in command:
        others.add(pid)
        return
    for handle in os.listdir(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/fdinfo/{handle}", encoding="ascii") as file:
                if "\nlock:\t" not in file.read():
                    continue
            path = os.readlink(f"/proc/{pid}/fd/{handle}")
            if path not in seen:
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
