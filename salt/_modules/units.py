"""
systemd's units: commands, what they said last, whether a unit file is right, and which files a unit has loaded,
also across an apply that was killed half-way.
"""

import collections
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile

__virtualname__ = "units"

# What each service has loaded: one JSON file a unit, {path: sha256}. Root's own, for a digest
# of a secret file is among them.
STAMPS = "/var/lib/stack/loaded"
_UNITS = "/etc/systemd/system"
# A frame of a traceback: file, line, function.
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')
_UNIT = re.compile(rf"{_UNITS}/([^/]+\.(?:service|socket|timer|path|mount|target))$")
_DROPIN = re.compile(
    rf"{_UNITS}/([^/]+\.(?:service|socket|timer|path|mount|target))\.d/[^/]+\.conf$"
)
# Seconds a verification may take; a hanging one must not hang the apply.
_VERIFY_TIMEOUT = 60


def __virtual__():
    return __virtualname__


def systemctl(*words, timeout=1800):
    """
    ``(exit code, output)`` of systemctl. systemd bounds its jobs by the unit's own settings;
    ``timeout``, in seconds, is for a systemd that does not answer.

    CLI Example:

    .. code-block:: bash

        salt-call units.systemctl is-active haproxy
    """
    try:
        return __utils__["process.run"](["systemctl", *words], timeout)
    except subprocess.TimeoutExpired:
        return 124, f"systemctl {' '.join(words)}: not done after {timeout} s"


def reread(paths):
    """
    Have systemd read the unit files among ``paths`` anew where it has any of their units in memory. One that it has not,
    it reads when it is asked for it; to read all takes a third of a second, and one apply brings dozens.

    CLI Example:

    .. code-block:: bash

        salt-call units.reread '[/etc/systemd/system/shop.service]'
    """
    units = sorted({unit for unit in map(_unit, paths) if unit})
    if not units:
        return
    # All instances of a template, and all units that a drop-in of a prefix is for.
    patterns = [re.sub(r"([@-])\.(?=[a-z]+$)", r"\1*.", unit) for unit in units]
    code, said = systemctl("list-units", "--all", "--plain", "--no-legend", *patterns, timeout=30)
    states = [line.split()[1:2] for line in said.splitlines() if line.strip()]
    # One that is only named by others is read when it is asked for.
    if code or any(state != ["not-found"] for state in states):
        systemctl("daemon-reload")


def _unit(path):
    """The unit that a file in systemd's folder is of, or is a drop-in of; '' for any other file."""
    found = _UNIT.match(path) or _DROPIN.match(path)
    return found.group(1) if found else ""


def at_rest(units):
    """
    Those of ``units`` that run and that systemd starts at boot, all asked at once.

    CLI Example:

    .. code-block:: bash

        salt-call units.at_rest '[haproxy, redis-server]'
    """
    code, said = systemctl("show", "-p", "ActiveState,UnitFileState", "--", *units, timeout=30)
    blocks = [dict(line.split("=", 1) for line in one.splitlines()) for one in said.split("\n\n")]
    if code or len(blocks) != len(units):
        return []
    # Others count as enabled too (systemctl(1), is-enabled); who has one of them asks by itself.
    return [
        unit
        for unit, state in zip(units, blocks, strict=True)
        if (state.get("ActiveState"), state.get("UnitFileState")) == ("active", "enabled")
    ]


def last_words(unit, lines=5):
    """The unit's last journal lines, for a failure's comment: equal ones once, and of a line of JSON its
    message, its error and the last frame of its traceback.

    CLI Example:

    .. code-block:: bash

        salt-call units.last_words haproxy
    """
    # What was said last may not be written yet.
    subprocess.run(["journalctl", "--sync"], capture_output=True, timeout=30, check=False)
    result = subprocess.run(
        ["journalctl", "-u", unit, "-n", str(lines), "-o", "cat", "--no-pager"],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    counts = collections.Counter(map(_shorten, result.stdout.strip().splitlines()))
    return "\n".join(
        f"{line} ({count} times)" if count > 1 else line for line, count in counts.items()
    )


def _shorten(line):
    """What a person needs of a line of JSON with a message or an error; any other as it is."""
    try:
        entry = json.loads(line)
        frames = _FRAME.findall(entry.get("traceback") or "")
        error = entry.get("error")
    except (AttributeError, TypeError, ValueError):
        return line
    if not error and not frames and not entry.get("message"):
        return line
    words = ("message", "method", "path", "status")
    said = " ".join(str(entry[key]) for key in words if entry.get(key)) or entry.get("event")
    where = "{}:{} in {}".format(*frames[-1]) if frames else None
    return ": ".join(str(part) for part in (said, error, where) if part)


def loaded(unit):
    """
    The files that ``unit`` was last (re)started or reloaded with: ``{path: sha256}``; empty
    when that is not known.

    CLI Example:

    .. code-block:: bash

        salt-call units.loaded haproxy
    """
    try:
        with open(os.path.join(STAMPS, f"{unit}.json"), encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return {}


def mark_loaded(unit, files):
    """Remember that ``unit`` now runs on ``files`` (``{path: sha256}``)."""
    target = os.path.join(STAMPS, f"{unit}.json")
    __utils__["atomic_file.write"](target, json.dumps(files, sort_keys=True), folder_mode=0o700)


def is_unit_file(path):
    """Whether ``path`` is a file of systemd's, with which a unit begins to run."""
    return bool(_unit(path))


def verify(paths, staged, instance):
    """
    None when ``systemd-analyze verify`` accepts the units among ``paths``, which lie below ``staged``, else what it
    said. A drop-in is verified with its unit. ``instance``: with which a template unit is verified.
    """
    units = {unit for unit in map(_unit, paths) if unit}
    for unit in sorted(units):
        # A drop-in is checked with its unit: both are laid out in a folder of their own, with
        # the drop-ins that other formulas have put beside it.
        with tempfile.TemporaryDirectory(prefix="units-", dir=staged) as folder:
            fragment = staged + f"{_UNITS}/{unit}"
            if not os.path.exists(fragment):
                fragment = next(
                    (
                        f"{place}/{unit}"
                        for place in (
                            _UNITS,
                            "/run/systemd/system",
                            "/usr/lib/systemd/system",
                            "/lib/systemd/system",
                        )
                        if os.path.exists(f"{place}/{unit}")
                    ),
                    None,
                )
            if fragment is None and unit.endswith("-.service"):
                # For all units whose name begins so, transient ones too (systemd.unit(5)).
                fragment = f"{folder}/any"
                with open(fragment, "w", encoding="ascii") as file:
                    file.write("[Service]\nExecStart=/bin/true\n")
            if fragment is None:
                return f"{unit}: there is a drop-in for it but no such unit"
            name = unit.replace("@.", f"@{instance}.")
            shutil.copy(fragment, f"{folder}/{name}")
            os.makedirs(f"{folder}/{name}.d")
            for source in (_UNITS, staged + _UNITS):
                for dropin in glob.glob(f"{source}/{unit}.d/*.conf"):
                    shutil.copy(dropin, f"{folder}/{name}.d/")
            words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
            try:
                code, output = __utils__["process.run"](
                    [*words, f"{folder}/{name}"], _VERIFY_TIMEOUT
                )
            except (FileNotFoundError, subprocess.TimeoutExpired) as error:
                return f"{unit} cannot be verified: {error}"
            # It returns 0 on a misspelt key: any word it says is a refusal.
            if code or output:
                output = output.replace(folder, _UNITS)
                return output or f"systemd-analyze verify {unit}: exit code {code}"
    return None
