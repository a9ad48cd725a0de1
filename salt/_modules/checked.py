"""
Configuration that goes live only after its own program has accepted it.

The work behind the states ``checked.files`` and ``checked.service``: render to a staging folder,
run the checks there, swap every file by rename, and know which configuration a service has
loaded, also across an apply that was killed half-way.
"""

import difflib
import fnmatch
import glob
import grp
import hashlib
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError

__virtualname__ = "checked"

# What each service has loaded: one JSON file a unit, {path: sha256}. Root's own, for a digest
# of a secret file is among them.
STAMPS = "/var/lib/stack/loaded"
_UNITS = "/etc/systemd/system"
_UNIT = re.compile(rf"{_UNITS}/([^/]+\.(?:service|socket|timer|path|mount|target))$")
_DROPIN = re.compile(
    rf"{_UNITS}/([^/]+\.(?:service|socket|timer|path|mount|target))\.d/[^/]+\.conf$"
)
# Seconds a check may take; a hanging check must not hang the apply.
_CHECK_TIMEOUT = 60
# What this run replaced, in __context__: {path: what was there before, as swap() returns it}.
_REPLACED = "whole.replaced"
_ORIGINS = ("source", "contents", "from_secret")
_SPEC = {*_ORIGINS, "mode", "user", "group", "template", "secret"}


def __virtual__():
    return __virtualname__


def render(files, context=None, made=None):
    """
    The files as they are to be: ``{path: {data: bytes, mode: int, user, group, secret: bool}}``.

    files
        ``{path: {…, mode: '0644', user: root, group: root, template: jinja, secret: false}}`` with
        one of ``source: salt://…`` (a Jinja template if it ends in ``.j2``), ``contents: text`` and
        ``from_secret: NAME``, the value of a secret of this machine, never shown
    context
        what the templates get beside Salt's own names
    made
        ``{module.function: {its arguments}}``, each of which gives more such files, as a pair of
        certificate and key that only go together
    """
    wanted = {}
    for function, words in (made or {}).items():
        wanted.update(__salt__[function](**words))
    for path, spec in files.items():
        origins = [key for key in _ORIGINS if key in spec]
        if set(spec) - _SPEC or len(origins) != 1 or not os.path.isabs(path):
            raise CommandExecutionError(
                f"{path}: needs an absolute path and one of {', '.join(_ORIGINS)};"
                f" allowed: {', '.join(sorted(_SPEC))}"
            )
        wanted[path] = {
            "data": _data(path, spec, context or {}),
            "mode": int(str(spec.get("mode", "0644")), 8),
            "user": spec.get("user", "root"),
            "group": spec.get("group", "root"),
            "secret": bool(spec.get("secret")) or "from_secret" in spec,
        }
    return wanted


def _data(path, spec, context):
    if "contents" in spec:
        return spec["contents"].encode()
    if "from_secret" in spec:
        source = __salt__["secret.path"](spec["from_secret"])
    elif spec.get("template") == "jinja" or spec["source"].endswith(".j2"):
        with tempfile.TemporaryDirectory(prefix="checked-") as scratch:
            target = os.path.join(scratch, "rendered")
            # `salt`, `pillar` and `grains` are there as in an SLS.
            done = __salt__["cp.get_template"](
                spec["source"], target, template="jinja", context=context
            )
            if not done:
                raise CommandExecutionError(f"{path}: {spec['source']} did not render")
            with open(target, "rb") as file:
                return file.read()
    else:
        source = __salt__["cp.cache_file"](spec["source"])
        if not source:
            raise CommandExecutionError(f"{path}: {spec['source']} is not in the tree")
    with open(source, "rb") as file:
        return file.read()


def _current(path):
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    stat = os.stat(path)
    return {"data": data, "mode": stat.st_mode & 0o7777, "uid": stat.st_uid, "gid": stat.st_gid}


def _owner(spec):
    """(uid, gid) of a file to be, or None where the account does not exist (yet)."""
    try:
        return pwd.getpwnam(spec["user"]).pw_uid, grp.getgrnam(spec["group"]).gr_gid
    except KeyError:
        return None


def differences(wanted, clean=()):
    """
    ``({path: shown difference}, [paths to remove])`` between the machine and ``wanted``.

    clean
        glob patterns; files that match one and are not wanted are to be removed
    """
    changes = {}
    for path, spec in wanted.items():
        now = _current(path)
        if now is None:
            changes[path] = "new"
        elif now["data"] != spec["data"]:
            changes[path] = (
                "changed (secret: not shown)"
                if spec["secret"]
                else _diff(path, now["data"], spec["data"])
            )
        elif now["mode"] != spec["mode"] or (now["uid"], now["gid"]) != _owner(spec):
            changes[path] = f"owner or mode, to {spec['user']}:{spec['group']} {spec['mode']:04o}"
    extra = sorted(path for pattern in clean for path in glob.glob(pattern) if path not in wanted)
    for path in extra:
        changes[path] = "removed: not managed any more"
    return changes, extra


def _diff(path, old, new):
    lines = difflib.unified_diff(
        old.decode(errors="replace").splitlines(),
        new.decode(errors="replace").splitlines(),
        f"{path} (now)",
        f"{path} (new)",
        lineterm="",
        n=1,
    )
    shown = list(lines)
    if len(shown) > 60:
        shown = [*shown[:60], f"… and {len(shown) - 60} lines more"]
    return "\n".join(shown)


def check(wanted, checks, instance="1"):
    """
    Run every check on a staged copy of the files; None when all accept, else what the first one
    that refused said. Unit files and drop-ins are checked by ``systemd-analyze verify`` without
    being asked for.

    checks
        shell commands; ``{staged}`` is the folder that holds the files under their own whole
        paths (``{staged}/etc/haproxy/haproxy.cfg``), a word ``salt://…`` a file of the tree
    instance
        instance name with which template units are verified
    """
    # Beside nothing of the machine's: a private folder that only root can enter, for staged
    # files may be secret. Files have their final owner and mode, as the checks may ask for it.
    staged = tempfile.mkdtemp(prefix="checked-")
    try:
        for path, spec in wanted.items():
            target = staged + path
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _write(target, spec)
        for command in checks:
            said = _run_check(command, staged)
            if said is not None:
                return said.replace(staged, "")
        said = _verify_units(wanted, staged, instance)
        return said.replace(staged, "") if said is not None else None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _run_check(command, staged):
    words = []
    for word in shlex.split(command.replace("{staged}", staged)):
        if word.startswith("salt://"):
            # A file of the tree, by its interpreter: a cached copy has no execute bit.
            words += [_interpreter(word)] if not words else []
            word = __salt__["formula.file"](word)
        words.append(word)
    try:
        code, said = _bounded(words, _CHECK_TIMEOUT)
    except FileNotFoundError:
        return f"{words[0]}: not found, so the configuration cannot be checked"
    except subprocess.TimeoutExpired:
        return f"{command}: no answer within {_CHECK_TIMEOUT} s"
    if code == 0:
        return None
    return said or f"{command}: exit code {code}, without a word"


def _bounded(words, seconds, shell=False):
    """``(exit code, output)``; TimeoutExpired after ``seconds``, its children ended with it."""
    with subprocess.Popen(
        words,
        shell=shell,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        # What is asked is on this machine: a proxy would answer for itself.
        env={**os.environ, "no_proxy": "*", "NO_PROXY": "*"},
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said.strip()


def _interpreter(source):
    return "/usr/bin/python3" if source.endswith(".py") else "/bin/sh"


def run(command):
    """``(exit code, output)`` of a shell command; a leading ``salt://…`` is a program of the tree."""
    program, _, rest = command.partition(" ")
    if program.startswith("salt://"):
        path = shlex.quote(__salt__["formula.file"](program))
        command = f"{_interpreter(program)} {path} {rest}"
    try:
        code, said = _bounded(command, 10, shell=True)
    except subprocess.TimeoutExpired:
        return 124, f"{command}: no answer"
    return code, said or (f"{command}: exit code {code}" if code else "")


def ready(command):
    """None when the shell command says that the service does its work, else what it said."""
    code, said = run(command)
    return None if code == 0 else said


def _verify_units(wanted, staged, instance):
    units = set()
    for path in wanted:
        found = _UNIT.match(path) or _DROPIN.match(path)
        if found:
            units.add(found.group(1))
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
                code, said = _bounded([*words, f"{folder}/{name}"], _CHECK_TIMEOUT)
            except (FileNotFoundError, subprocess.TimeoutExpired) as error:
                return f"{unit} cannot be verified: {error}"
            # It returns 0 on a misspelt key: any word it says is a refusal.
            if code or said:
                said = said.replace(folder, _UNITS)
                return said or f"systemd-analyze verify {unit}: exit code {code}"
    return None


def _write(path, spec):
    # A file that a killed run left here keeps its own, perhaps wider, mode until the end.
    if os.path.lexists(path):
        os.unlink(path)
    # Never through a link that somebody puts there now.
    only_new = os.O_EXCL | os.O_NOFOLLOW
    with open(path, "wb", opener=lambda p, flags: os.open(p, flags | only_new, 0o600)) as file:
        file.write(spec["data"])
        owner = _owner(spec) if "user" in spec else (spec["uid"], spec["gid"])
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), spec["mode"])
        file.flush()
        os.fsync(file.fileno())


def swap(wanted, extra=()):
    """
    Put the files in place, each by rename, all or none, and remove ``extra``. Returns what was
    there before, for :py:func:`restore`: ``{path: {data, mode, uid, gid} or None}``.
    """
    before = {path: _current(path) for path in (*wanted, *extra)}
    staged = {}
    try:
        # First all the writing: a full disk shows itself before the first file is replaced.
        for path, spec in wanted.items():
            if _owner(spec) is None:
                raise CommandExecutionError(
                    f"{path}: no user {spec['user']} or group {spec['group']} on this machine"
                )
            __salt__["whole.folder"](os.path.dirname(path))
            staged[path] = f"{path}.stack-new"
            _write(staged[path], spec)
    except BaseException:
        _discard(staged.values())
        raise
    try:
        for path, temporary in staged.items():
            os.rename(temporary, path)
        for path in extra:
            os.unlink(path)
    except OSError:
        restore(before)
        _discard(staged.values())
        raise
    for folder in {os.path.dirname(path) for path in before}:
        __salt__["whole.sync"](folder)
    # As whole.write does: for take_back().
    for path, was in before.items():
        __context__.setdefault(_REPLACED, {}).setdefault(path, was)
    return before


def _discard(paths):
    for path in paths:
        if os.path.lexists(path):
            os.unlink(path)


def restore(before):
    """Undo :py:func:`swap`, given what it returned."""
    for path, was in before.items():
        if was is None:
            if os.path.exists(path):
                os.unlink(path)
        else:
            _write(f"{path}.stack-new", was)
            os.rename(f"{path}.stack-new", path)


def take_back(paths):
    """
    Undo, of ``paths``, what earlier states of this run replaced: who uses them does not work with
    them. What was new stays, for there is nothing to go back to. Returns the paths that are back.
    """
    replaced = __context__.get(_REPLACED, {})
    before = {path: replaced.pop(path) for path in paths if replaced.get(path)}
    before = {path: was for path, was in before.items() if was != _current(path)}
    restore(before)
    return sorted(before)


def digests(paths):
    """``{path: sha256 of the file, or None where there is none}``."""
    found = {}
    for path in paths:
        now = _current(path)
        found[path] = hashlib.sha256(now["data"]).hexdigest() if now else None
    return found


def loaded(unit):
    """
    The files that ``unit`` was last (re)started or reloaded with: ``{path: sha256}``; empty
    when that is not known.

    CLI Example:

    .. code-block:: bash

        salt-call checked.loaded haproxy
    """
    try:
        with open(os.path.join(STAMPS, f"{unit}.json"), encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return {}


def mark_loaded(unit, files):
    """Remember that ``unit`` now runs on ``files`` (``{path: sha256}``)."""
    target = os.path.join(STAMPS, f"{unit}.json")
    __salt__["whole.write"](target, json.dumps(files, sort_keys=True), folder_mode=0o700)


def is_unit_file(path):
    """Whether systemd must reread its units when ``path`` changes."""
    return bool(_UNIT.match(path) or _DROPIN.match(path))


def matches(path, patterns):
    """Whether ``path`` matches one of the glob patterns."""
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def systemctl(*words, timeout=1800):
    """
    ``(exit code, output)`` of systemctl. systemd bounds its jobs by the unit's own settings;
    ``timeout``, in seconds, is for a systemd that does not answer.

    CLI Example:

    .. code-block:: bash

        salt-call checked.systemctl is-active haproxy
    """
    try:
        return _bounded(["systemctl", *words], timeout)
    except subprocess.TimeoutExpired:
        return 124, f"systemctl {' '.join(words)}: not done after {timeout} s"


def last_words(unit, lines=5):
    """The unit's last journal lines, for a failure's comment.

    CLI Example:

    .. code-block:: bash

        salt-call checked.last_words haproxy
    """
    # What was said last may not be written yet.
    subprocess.run(["journalctl", "--sync"], capture_output=True, timeout=30, check=False)
    done = subprocess.run(
        ["journalctl", "-u", unit, "-n", str(lines), "-o", "cat", "--no-pager"],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()
