"""
For formulas apps and counter: the commands of an application beside its instances, as its app.toml says: the release command, once
for each release; processes, as units ``NAME-PROCESS``; cron jobs, as timers ``NAME-JOB``.
"""

import glob
import hashlib
import json
import os
import tarfile

from salt.exceptions import CommandExecutionError

__virtualname__ = "commands"

_UNITS = "/etc/systemd/system"
# Where systemd finds units of others; one of the same name in _UNITS would stand in their place.
_OTHERS = ("/run/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system")
_LINE = {"type": "string", "minLength": 1, "description": "a command in one line"}
_NAME = {
    "description": "a-z, 0-9 and -, at most 31; not release",
    "pattern": "^(?!release$)[a-z][a-z0-9-]{0,30}$",
}
# What of app.json becomes units, which root reads: whoever made it, and with what (webapp/src/serving/app.schema.json).
_SAID = {
    "type": "object",
    "properties": {
        "release": {**_LINE, "type": ["string", "null"]},
        "serve": {
            "type": "object",
            "properties": {"watchdog": {"type": "integer", "minimum": 0, "maximum": 3600}},
        },
        "processes": {"type": "object", "propertyNames": _NAME, "additionalProperties": _LINE},
        "cron": {
            "type": "object",
            "propertyNames": _NAME,
            "additionalProperties": {
                "type": "object",
                "required": ["schedule"],
                "properties": {
                    "schedule": {
                        "type": "string",
                        "description": "as systemd's OnCalendar",
                        "pattern": "^[A-Za-z0-9*][A-Za-z0-9*,.:/~_+ -]*$",
                    },
                    "timeout": {"type": "integer", "minimum": 1, "maximum": 86400},
                },
            },
        },
    },
}
# Seconds for which processes that were started are watched before a release counts.
_WATCH = 5


def __virtual__():
    return __virtualname__


def manifest(name, root, version):
    """
    What an artifact says of its application, its ``app.json``: of the installed release, or else of the one that was carried. Empty for
    one that has none. Raises CommandExecutionError for one whose units would not be what they are called.

    CLI Example:

    .. code-block:: bash

        salt-call commands.manifest shop /opt/apps/shop 0.1.0
    """
    text = __utils__["atomic_file.read_text"](f"{root}/releases/{version}/app.json")
    if text is None:
        path, _ = __salt__["artifact.carried"](name, version)
        if path is None:
            return {}
        try:
            with tarfile.open(path) as archive:
                text = archive.extractfile(f"{name}-{version}/app.json").read().decode()
        # What is wrong with it is release.installed's to say.
        except (
            AttributeError,
            EOFError,
            KeyError,
            OSError,
            TypeError,
            ValueError,
            tarfile.TarError,
        ):
            return {}
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    where = f"{name} {version}: app.json"
    wrong = [f"{where}:{line}" for line in __salt__["schemas.odd_keys"](said)]
    if wrong := wrong or __salt__["schemas.problems"](_SAID, said, where):
        raise CommandExecutionError(f"{'; '.join(wrong)}; nothing was changed")
    return said


def watchdog(app, said):
    """Seconds after which a silent instance is killed: the pillar's, or as its artifact says; 0 for never.

    CLI Example:

    .. code-block:: bash

        salt-call commands.watchdog '{watchdog_seconds: null}' '{serve: {watchdog: 15}}'
    """
    given = app.get("watchdog_seconds")
    return said.get("serve", {}).get("watchdog", 15) if given is None else given


def plan(app, said):
    """
    The units of an application's commands: ``{unit: {kind: release|process|cron, command, timeout, schedule}}``.
    Raises CommandExecutionError for one that is a unit of the system's, or of another application's.

    CLI Example:

    .. code-block:: bash

        salt-call commands.plan '{name: shop}' '{processes: {worker: "python work.py"}}'
    """
    name, units = app["name"], {}

    def add(kind, command, timeout=0, schedule=""):
        unit = {"kind": kind, "command": command, "timeout": timeout, "schedule": schedule}
        if units.setdefault(f"{name}-{command}", unit) is not unit:
            raise CommandExecutionError(
                f"{name}: app.json: {command} is the name of two commands; nothing was changed"
            )

    if said.get("release"):
        add("release", "release", app.get("release_seconds", 600))
    for process in sorted(said.get("processes") or {}):
        add("process", process)
    for job, given in sorted((said.get("cron") or {}).items()):
        add("cron", job, given.get("timeout", 3600), given["schedule"])
    _refuse_taken(name, units)
    return units


def _refuse_taken(name, units):
    former = __salt__["applications.former_units"]() if units else ()
    for file in _files(units):
        for folder in (_UNITS, *_OTHERS):
            path = f"{folder}/{file}"
            # One that is masked is a link to there.
            if not os.path.lexists(path) or os.path.realpath(path) == os.devnull:
                continue
            if folder == _UNITS and (
                file in former or __salt__["applications.owner"](path) == name
            ):
                continue
            raise CommandExecutionError(
                f"{name}: its app.toml's {file.rpartition('.')[0].removeprefix(f'{name}-')} would be unit {file},"
                f" but {path} is not this application's: give one of them another name; nothing was changed"
            )


def stage(root, version):
    """Let the link of the commands' release be there, for their units are verified before they first start."""
    # The artifact says of itself whether it has any.
    said = json.loads(
        __utils__["atomic_file.read_text"](f"{root}/releases/{version}/app.json") or "{}"
    )
    if (said.get("processes") or said.get("cron")) and not _release(root):
        __utils__["atomic_file.make_folder"](f"{root}/instances/commands")
        _point(root, version)


def assign(root, units, environment, values):
    """Write the environment of each unit; whether any has changed."""
    folder = f"{root}/instances/commands"
    __utils__["atomic_file.make_folder"](folder)
    has_changed = False
    for unit, given in units.items():
        # Where to listen is an instance's affair.
        own = {key: text for key, text in environment.items() if not key.startswith("SERVING_")}
        own = __salt__["instance.own_environment"](
            own, values, f"{unit}.service", given["command"], "127.0.0.1", 0
        )
        text = __salt__["instance.environment_text"](own)
        path = f"{folder}/{unit}.env"
        if __utils__["atomic_file.read_text"](path) != text:
            __utils__["atomic_file.write"](path, text, mode=0o644)
            has_changed = True
    return has_changed


def release(name, root, version, units):
    """
    Run the release command of the staged release, unless it has come through for this very one since another was
    released; None, or what went wrong.
    """
    unit = next((unit for unit, given in units.items() if given["kind"] == "release"), None)
    note = f"{root}/instances/commands/released"
    if not unit or (__utils__["atomic_file.read_text"](note) or "").strip() == version:
        return None
    __salt__["record.progress"](f"{unit}.service: the release command of {version}")
    code, output = __salt__["units.systemctl"]("start", f"{unit}.service")
    if code:
        words = __salt__["release.last_words"](root, version, f"{unit}.service")
        said = f":\n{words}" if words else f": {output}"
        return f"{unit}.service: the release command failed{said}"
    __utils__["atomic_file.write"](note, f"{version}\n", mode=0o644)
    return None


def pending(name, root, version, units, environment, values):
    """What :py:func:`start` would do: ``{unit: what}``."""
    found = {}
    for unit in _of_kind(units, "process"):
        service = f"{unit}.service"
        if _started(root, unit) != _fingerprint(root, version, unit, environment, values):
            found[service] = f"would be started on {version}"
        elif __salt__["units.systemctl"]("is-active", service)[0]:
            found[service] = "would be started"
    for unit in _of_kind(units, "cron"):
        if __salt__["units.systemctl"]("is-active", f"{unit}.timer")[0] or _is_moving(
            root, version
        ):
            found[f"{unit}.timer"] = "would be started"
    if units and _is_moving(root, version):
        found[f"{name} commands"] = f"would be on {version}"
    for file in _surplus(name, units):
        found[file] = "would be stopped and removed"
    return found


def start(name, root, version, units, environment, values):
    """
    Bring processes and timers to a release, and remove those that it no longer has. ``(changes, failure)``: ``{unit: what was done}``,
    and None or what went wrong; then all are back on what they ran.
    """
    todo = pending(name, root, version, units, environment, values)
    if not todo:
        return {}, None
    before = __salt__["record.current"](name)
    assign(root, units, environment, values)
    _point(root, version)
    changes, watched = {}, {}
    systemctl = __salt__["units.systemctl"]
    for unit in _of_kind(units, "process"):
        service = f"{unit}.service"
        if service not in todo:
            continue
        __salt__["record.progress"](f"{service}: starts on {version}")
        systemctl("reset-failed", service)
        systemctl("enable", service)
        code, output = systemctl("restart", service)
        watched[service] = None if code else __salt__["instance.invocation"](service)
        if watched[service] is None:
            return {}, _back(
                root, version, before, units, f"{service} does not start: {output}", service
            )
        changes[service] = f"on {version}"
    if watched and (died := __salt__["instance.bake"](watched, _WATCH)):
        return {}, _back(root, version, before, units, f"{died[0]} {died[1]}", died[0])
    for unit in _of_kind(units, "cron"):
        code, output = systemctl("enable", "--now", f"{unit}.timer")
        if code:
            return {}, _back(
                root, version, before, units, f"{unit}.timer: {output}", f"{unit}.timer"
            )
        if f"{unit}.timer" in todo:
            # One whose schedule has changed.
            systemctl("restart", f"{unit}.timer")
            changes[f"{unit}.timer"] = f"on {version}"
    for unit in _of_kind(units, "process"):
        text = _fingerprint(root, version, unit, environment, values)
        __utils__["atomic_file.write"](
            f"{root}/instances/commands/{unit}.started", text, mode=0o644
        )
    surplus = _surplus(name, units)
    if surplus and (wrong := __salt__["applications.remove_units"](surplus)):
        return changes, wrong
    changes |= dict.fromkeys(surplus, "stopped and removed")
    return changes or {f"{name} commands": f"on {version}"}, None


def _back(root, version, before, units, reason, unit):
    words = __salt__["release.last_words"](root, version, unit)
    for one in _of_kind(units, "process"):
        if not before:
            _put_away(f"{one}.service")
    if before:
        _point(root, before)
        for one in _of_kind(units, "process"):
            # One that the release before did not have cannot start, and is not to.
            code = __salt__["units.systemctl"]("restart", f"{one}.service")[0]
            if code:
                _put_away(f"{one}.service")
    return f"{reason}\nlast words of {unit}:\n{words}" if words else reason


def _put_away(service):
    """A process that is not to run: nor is it a failure that somebody should see to."""
    __salt__["units.systemctl"]("disable", "--now", service)
    __salt__["units.systemctl"]("reset-failed", service)


def _of_kind(units, kind):
    return [unit for unit, given in units.items() if given["kind"] == kind]


def _release(root):
    link = f"{root}/instances/commands/release"
    return os.path.basename(os.readlink(link)) if os.path.islink(link) else None


def _is_moving(root, version):
    return _release(root) != version


def _point(root, version):
    __utils__["atomic_file.link"](f"{root}/instances/commands/release", f"../../releases/{version}")


def _started(root, unit):
    return __utils__["atomic_file.read_text"](f"{root}/instances/commands/{unit}.started")


def _fingerprint(root, version, unit, environment, values):
    """What a process runs on: its release, settings and unit file."""
    file = __utils__["atomic_file.read_text"](f"{_UNITS}/{unit}.service")
    data = [root, version, environment, values, file]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _files(units):
    timers = [f"{unit}.timer" for unit in _of_kind(units, "cron")]
    return [*(f"{unit}.service" for unit in units), *timers]


def _surplus(name, units):
    """Unit files of commands that the application no longer has."""
    wanted = _files(units)
    found = []
    for path in sorted(glob.glob(f"{_UNITS}/{name}-*")):
        if os.path.basename(path) in wanted or not os.path.isfile(path):
            continue
        if __salt__["applications.owner"](path) == name:
            found.append(os.path.basename(path))
    return found
