"""
For formula base: user accounts: what has to change so that a machine has exactly those that the pillar names.

An account that is ours is a member of the group ``people``. Whoever is in it and not in the
pillar any more is removed: processes ended, home archived, account deleted. System accounts and
the one that provisions the machine are never touched.
"""

import contextlib
import glob
import grp
import os
import pwd
import re
import signal
import subprocess
import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "accounts"

GROUP = "people"
ARCHIVE = "/var/backups/people"
# Debian policy, 9.2.2: below are accounts of the system, above are nobody's.
_FIRST, _LAST = 1000, 59999
# Percent of a disk that no archive takes: the services on it need room too.
_SPARE = 5


def __virtual__():
    return __virtualname__


def _account(name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _members():
    try:
        group = grp.getgrnam(GROUP)
    except KeyError:
        return set()
    primary = {one.pw_name for one in pwd.getpwall() if one.pw_gid == group.gr_gid}
    return set(group.gr_mem) | primary


def wanted(users):
    """Those of ``users`` that are to be present, ``{name: {…}}``."""
    return {name: one for name, one in users.items() if one.get("state", "present") == "present"}


def keys(users, folder):
    """``{path: {contents}}`` of the authorized keys, for ``checked.files``; root's own files, so
    that nobody adds a key by himself."""
    return {
        f"{folder}/{name}": {
            "contents": "# Managed by Salt (salt/base).\n"
            + "".join(f"{key.strip()}\n" for key in one.get("keys", []))
        }
        for name, one in wanted(users).items()
    }


def sudoers(users):
    """Text of the sudo rule of those who may."""
    may = [name for name, one in sorted(wanted(users).items()) if one.get("sudo")]
    lines = [
        "# Managed by Salt (salt/base).",
        "# Nobody here has a password: the key is what proves who it is.",
        *(f"{name} ALL=(ALL:ALL) NOPASSWD: ALL" for name in may),
    ]
    return "\n".join(lines) + "\n"


def _applying():
    """The login that this run came from, or None. /proc/self/loginuid survives sudo."""
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            return pwd.getpwuid(int(file.read())).pw_name
    except (OSError, ValueError, KeyError):
        return os.environ.get("SUDO_USER")


def plan(users, protected=()):
    """
    What is to be done: ``{add: {name: …}, change: {name: {what: (old, new)}}, remove: [name]}``.

    users
        ``{name: {full_name, keys, sudo, shell, state}}``
    protected
        names that are never touched

    Raises CommandExecutionError, with the reason, when it would touch an account of the system,
    a protected one, or the one that this very run was started from, and when a home that is to be
    archived is larger than the free room.
    """
    present, ours = wanted(users), _members()
    gone = {name for name in users if name not in present and _account(name)}
    remove = sorted((ours | gone) - set(present))
    for name in {*users, *remove}:
        account = _account(name)
        if name in protected:
            raise CommandExecutionError(f"user {name}: is the machine's own (base:protected_users)")
        if account and not _FIRST <= account.pw_uid <= _LAST:
            raise CommandExecutionError(
                f"user {name}: uid {account.pw_uid} is an account of the system"
            )
        if account and name in present and name not in ours:
            raise CommandExecutionError(
                f"user {name}: is there already and not ours; if it is to be, as root:"
                f" usermod -aG {GROUP} {name}"
            )
    if _applying() in remove:
        raise CommandExecutionError(f"user {_applying()}: this run came in by this very account")
    if remove:
        _refuse_without_room(remove)
    add, change = {}, {}
    for name, one in present.items():
        account = _account(name)
        full_name, shell = one.get("full_name", ""), one.get("shell", "/bin/bash")
        if account is None:
            add[name] = {"full_name": full_name, "shell": shell}
            continue
        now = {"full_name": account.pw_gecos.split(",")[0], "shell": account.pw_shell}
        differs = {
            what: (now[what], new)
            for what, new in (("full_name", full_name), ("shell", shell))
            if now[what] != new
        }
        if differs:
            change[name] = differs
    return {"add": add, "change": change, "remove": remove}


def _run(*words):
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise CommandExecutionError(f"{words[0]}: {(done.stderr or done.stdout).strip()}")


def add(name, full_name, shell):
    """Make the account, without a password, with a home of its own."""
    if not os.path.exists(shell):
        raise CommandExecutionError(f"user {name}: shell {shell} is not on this machine")
    try:
        grp.getgrnam(GROUP)
    except KeyError:
        _run("groupadd", "--system", GROUP)
    _run(
        "useradd",
        "--create-home",
        "--user-group",
        "--groups",
        GROUP,
        "--shell",
        shell,
        "--comment",
        full_name,
        "--password",
        "*",
        name,
    )


def change(name, full_name=None, shell=None):
    """Other words or another shell; ``(old, new)`` as :py:func:`plan` says."""
    words = []
    if full_name:
        words += ["--comment", full_name[1]]
    if shell:
        if not os.path.exists(shell[1]):
            raise CommandExecutionError(f"user {name}: shell {shell[1]} is not on this machine")
        words += ["--shell", shell[1]]
    _run("usermod", *words, name)


def _processes(uid):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                uids = re.search(r"^Uid:\s+(.*)$", file.read(), re.M)
        except OSError:
            continue
        if uids and str(uid) in uids[1].split():
            found.append(int(pid))
    return found


def _end(uid, grace=3, seconds=10):
    """End all its processes, by force those that are still there after ``grace`` seconds."""
    began = time.monotonic()
    while left := _processes(uid):
        since = time.monotonic() - began
        if since > seconds:
            raise CommandExecutionError(f"uid {uid}: processes that do not end: {left}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL if since > grace else signal.SIGTERM)
            except ProcessLookupError:
                continue
        time.sleep(0.2)


def _allocated(folder):
    """Bytes on the disk of all below ``folder``; a hole in a file takes none, nor a second name."""
    seen, total = set(), 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(os.path.join(parent, name))
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
    return total


def _refuse_without_room(names):
    """An archive that does not fit would fill the disk under everything else on it."""
    homes = [one.pw_dir for one in map(_account, names) if one and os.path.isdir(one.pw_dir)]
    needed = sum(map(_allocated, homes))
    place = ARCHIVE
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize - disk.f_blocks * disk.f_frsize * _SPARE // 100
    if needed > max(free, 0):
        raise CommandExecutionError(
            f"user {', '.join(names)}: the archive of {', '.join(homes)} may need"
            f" {needed >> 20} MiB and {ARCHIVE} has room for {max(free, 0) >> 20} (with {_SPARE} % of"
            " the disk left free): move what is large out of the home, or give the disk more room,"
            " then apply again; nothing was changed"
        )


def _archive(name, home):
    """The home in ARCHIVE, for root alone; the archive's path. All of it, or nothing is left there."""
    os.makedirs(ARCHIVE, mode=0o700, exist_ok=True)
    # Of a run that was killed.
    for left in glob.glob(f"{glob.escape(ARCHIVE)}/{name}-*.part"):
        os.unlink(left)
    path = f"{ARCHIVE}/{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz"
    parent, base = os.path.split(os.path.normpath(home))
    # Holes stay holes: a file of 3 GB that holds nothing is a few bytes, at once.
    words = ["tar", "--create", "--sparse", "--gzip", "--directory", parent, "--", base]
    try:
        with open(f"{path}.part", "wb", opener=lambda p, f: os.open(p, f, 0o600)) as raw:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=raw, stderr=subprocess.PIPE, check=False
            )
            os.fsync(raw.fileno())
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise CommandExecutionError(
                f"user {name}: {home} could not be archived in {ARCHIVE}, so it stays:"
                f" {said[0] if said else f'tar: exit code {done.returncode}'}"
            )
        os.rename(f"{path}.part", path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.part")
        raise
    return path


def remove(name):
    """
    End its processes, archive its home, delete it, with its crontab and mail; the archive's path,
    or None where it had no home. Begun and interrupted, it can be done again.
    """
    account = _account(name)
    if account is None:
        return None
    # No new session from now on; those that are there end with their lingering services.
    _run("usermod", "--expiredate", "1", "--shell", "/usr/sbin/nologin", name)
    if os.path.exists("/usr/bin/loginctl"):
        for verb in ("disable-linger", "terminate-user"):
            subprocess.run(["loginctl", verb, name], capture_output=True, timeout=30, check=False)
    _end(account.pw_uid)
    # A session manager that had to be killed is no failure that anybody has to look into.
    subprocess.run(
        ["systemctl", "reset-failed", f"user@{account.pw_uid}.service"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    path = _archive(name, account.pw_dir) if os.path.isdir(account.pw_dir) else None
    if os.path.exists("/usr/bin/crontab"):
        subprocess.run(["crontab", "-r", "-u", name], capture_output=True, timeout=30, check=False)
    done = subprocess.run(
        ["userdel", "--remove", name], capture_output=True, text=True, timeout=60, check=False
    )
    # 12: the home or the mail was not there to be removed.
    if done.returncode not in (0, 12) or _account(name):
        raise CommandExecutionError(f"userdel {name}: {done.stderr.strip()}")
    return path
