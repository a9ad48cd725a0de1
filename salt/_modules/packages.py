"""
Packages that a killed apply or a power cut left half-done, for the formula ``base`` and the executor
``environment``: finished before any state relies on them. Salt takes a half-installed package for
installed, and apt does nothing while dpkg's journal has entries.
"""

import contextlib
import fcntl
import glob
import os
import re
import subprocess
import sys
import time

__virtualname__ = "packages"

DPKG = "/var/lib/dpkg"
LISTS = "/var/lib/apt/lists"
# Seconds to wait for another program that installs packages, such as unattended-upgrades.
LOCK_WAIT = 300
_SETTLED = ("installed", "config-files", "not-installed")
_KEEP = ["--force-confdef", "--force-confold"]
_DPKG = ["dpkg"]
_APT = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", f"DPkg::Lock::Timeout={LOCK_WAIT}"]
_APT += [word for option in _KEEP for word in ("-o", f"DPkg::Options::={option}")]


def __virtual__():
    return __virtualname__ if os.path.isdir(DPKG) else (False, "no dpkg on this machine")


def pending():
    """
    What is half-done: packages by name, ``dpkg's journal`` and damaged lists of packages; empty as
    a rule. Also what another program is just installing.

    CLI Example:

    .. code-block:: bash

        salt-call packages.pending
    """
    found = ["dpkg's journal"] if _journal() else []
    found += [
        package for flag, status, package in _packages() if flag != "ok" or status not in _SETTLED
    ]
    return found + _damaged_lists()


def _packages():
    """``(flag, status, name)`` of all that dpkg knows (dpkg-query(1), db:Status)."""
    form = "${db:Status-Eflag} ${db:Status-Status} ${binary:Package}\n"
    done = _run(["dpkg-query", f"--admindir={DPKG}", "-W", f"-f={form}"])
    # Beside what it says of a torn journal.
    return re.findall(r"(?m)^(ok|reinstreq) (\S+) (\S+)$", done.stdout)


def _half_unpacked():
    return [package for flag, _, package in _packages() if flag == "reinstreq"]


def _journal():
    """Changes of dpkg's database that are not yet part of it; apt refuses to work beside them."""
    return [path for path in glob.glob(f"{DPKG}/updates/*") if os.path.basename(path).isdigit()]


def _damaged_lists():
    """Lists of packages that a power cut left empty or as zeros, which stop every apt."""
    damaged = []
    for path in glob.glob(f"{LISTS}/*_*"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # A list of an empty repository is empty too; to fetch it again does no harm.
            if file.read(1) in (b"", b"\0"):
                damaged.append(path)
    return damaged


def finish():
    """
    Finish what is pending, once no other program holds dpkg's lock. Returns what it was. Says on
    stderr what it does, and what it could not mend: that is left to the states that need it, so that
    a package of somebody else's does not stop every apply.

    CLI Example:

    .. code-block:: bash

        salt-call packages.finish
    """
    if not pending():
        return []
    with _lock():
        # What another program was doing has ended meanwhile.
        found = pending()
        if found:
            _say(f"finishing what was interrupted: {', '.join(found)}")
            for path in _damaged_lists():
                os.unlink(path)
            _configure()
    if found:
        # Unpacks again what is half unpacked, and brings what others wait for; takes nothing away.
        fix = [*_APT, "--no-remove", "--fix-broken", "--reinstall", "install", *_half_unpacked()]
        done = _run(fix)
        if done.returncode:
            # Without lists, or with old ones.
            _run([*_APT, "update"])
            done = _run(fix)
        left = pending()
        if left or done.returncode:
            reason = ([line for line in done.stdout.splitlines() if line[:2] == "E:"] or ["?"])[0]
            _say(
                f"packages still half-installed: {', '.join(left)} ({reason}): see"
                " 'apt-get --fix-broken install' on this machine"
            )
    return found


def missing(chunks):
    """
    Names of the packages that the states of a run are going to install.

    chunks
        the run's states, as Salt has compiled them

    CLI Example:

    .. code-block:: bash

        salt-call packages.missing '[{state: pkg, fun: installed, name: age}]'
    """
    wanted = [
        name
        for one in chunks
        # A version or a repository of its own is the state's own affair.
        if (one["state"], one["fun"]) == ("pkg", "installed")
        and not {"version", "sources", "fromrepo"} & set(one)
        for name in one.get("pkgs") or [one["name"]]
        if isinstance(name, str)
    ]
    there = {name.partition(":")[0] for _, status, name in _packages() if status == "installed"}
    return [name for name in dict.fromkeys(wanted) if name not in there]


def ahead(chunks, names=None):
    """
    Install what the states of a run are going to, in one transaction of apt: each of theirs costs
    seconds of its own. Units that they mask before are masked before. What cannot be installed is left
    to the state that wants it, which says why. Returns the names of what was missing.

    chunks, names
        as :py:func:`missing` takes and gives them

    CLI Example:

    .. code-block:: bash

        salt-call packages.ahead '[{state: pkg, fun: installed, name: age}]'
    """
    names = missing(chunks) if names is None else names
    if len(names) < 2:
        return []
    _say(f"installing {len(names)} packages, and what they need")
    for one in chunks:
        if (one["state"], one["fun"]) == ("service", "masked"):
            known = _run(["systemctl", "is-enabled", one["name"]]).stdout
            if known.strip() in ("", "not-found") or "No such file" in known:
                when = ["--runtime"] if one.get("runtime") else []
                # No package has been there that systemd would have read a unit of.
                _run(["systemctl", "mask", "--no-reload", *when, one["name"]])
    _run([*_APT, "update"])
    _run([*_APT, "install", *names])
    return names


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _run(words, **more):
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **more},
    )


@contextlib.contextmanager
def _lock():
    """The lock that apt and dpkg take before they change anything (dpkg(1), DPKG_FRONTEND_LOCKED)."""
    with open(f"{DPKG}/lock-frontend", "a", encoding="ascii") as file:
        deadline, said = time.monotonic() + LOCK_WAIT, False
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    _say(f"another program has been installing packages for {LOCK_WAIT} s")
                    raise
                if not said:
                    _say("waiting for another program that installs packages")
                    said = bool(error)
            time.sleep(0.5)
        yield


def _configure():
    """Merge the journal and configure what is unpacked; what waits for others is left to apt."""
    words = [*_DPKG, *_KEEP, "--configure", "--pending"]
    for _ in range(len(_journal()) + 1):
        done = _run(words, DPKG_FRONTEND_LOCKED="1")
        # An entry that was written in part says nothing that dpkg could use.
        torn = re.search(rf"'({re.escape(DPKG)}/updates/\d+)'", done.stdout)
        if not torn:
            break
        os.unlink(torn[1])
