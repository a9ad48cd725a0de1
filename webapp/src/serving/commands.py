"""Commands of an application: of each release, beside the instances, on a schedule, by hand."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from serving.application import Application, ApplicationError


def find_command(application: Application, kind: str, words: list[str]) -> list[str]:
    """The command of `release`, `process NAME`, `cron NAME` or `run COMMAND`, as its words.

    Raises ApplicationError.
    """
    settings = application.settings
    if kind == "run":
        words = words[1:] if words[:1] == ["--"] else words
        if not words:
            raise ApplicationError("run: say which command, as in: run python manage.py shell")
        return words
    if kind == "release":
        if not settings["release"]:
            raise ApplicationError("app.toml: release: there is no such command")
        return shlex.split(settings["release"])
    table = {"process": "processes", "cron": "cron"}[kind]
    known: Mapping[str, object] = settings[table]
    if len(words) != 1 or words[0] not in known:
        name = words[0] if words else ""
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = (
            f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known) or 'none'}"
        )
        raise ApplicationError(f"app.toml: {table}: there is no {name or 'name'}{hint}")
    found = known[words[0]]
    return shlex.split(str(found["command"] if isinstance(found, Mapping) else found))


def environment(application: Application) -> dict[str, str]:
    """The environment in which the application's packages are found by any Python below."""
    programs = application.root / "bin"
    if not programs.is_dir():
        # Sources: the programs of the virtual environment.
        programs = Path(sys.executable).parent
    packages = [path for path in sys.path if path.startswith(f"{application.root}/")]
    if not (application.root / "app.json").is_file():
        packages = [path for path in sys.path if path]
    paths = dict.fromkeys([*map(str, application.paths), *packages])
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": ":".join(paths),
        # A release never changes.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        # Lines reach the journal as they are written.
        "PYTHONUNBUFFERED": "1",
    }


def execute(application: Application, command: list[str]) -> NoReturn:
    """Become the command. Raises ApplicationError where there is no such program."""
    os.chdir(application.files)
    try:
        os.execvpe(command[0], command, environment(application))  # noqa: S606 - app.toml's
    except OSError as error:
        raise ApplicationError(f"{command[0]}: {error.strerror}") from None
