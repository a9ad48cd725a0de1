"""app.toml: read, held against its schema (serving/app.schema.json), and filled with defaults."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

from builder.errors import BuildError
from serving.application import SCHEMA, normalise

FILE = "app.toml"
# Control characters, and what else some program takes for the end of a line.
ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def read(folder: Path) -> dict[str, Any]:
    """What app.json of an artifact of this folder says.

    Raises BuildError with one line: the file, the line, what is wrong, what is allowed.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except FileNotFoundError:
        raise BuildError(
            f"{path} is missing: an application is a folder with one (docs/your-application.md)"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"{path}: {error}") from None
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    _refuse_odd(path, text, given)
    problems = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(given),
        # What is misspelt explains what is missing.
        key=lambda problem: (problem.validator != "additionalProperties", list(problem.path)),
    )
    if problems:
        raise BuildError(_explain(path, text, problems[0]))
    settings = normalise(given)
    _check_together(path, text, settings)
    _check_files(path, text, settings)
    return settings


def _refuse_odd(path: Path, text: str, given: object, keys: tuple[str, ...] = ()) -> None:
    """BuildError for a control character in a key or a value: systemd ends a line at some."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            _refuse_odd(path, text, key, (*keys, key))
            _refuse_odd(path, text, value, (*keys, key))
    elif isinstance(given, list):
        for value in given:
            _refuse_odd(path, text, value, keys)
    elif isinstance(given, str) and (odd := ODD.search(given)):
        where = (
            f"{path}:{_line(text, list(keys))}: {'.'.join(keys).encode('unicode_escape').decode()}"
        )
        raise BuildError(f"{where}: {odd.group()!r} is no part of one line of text")


def _explain(path: Path, text: str, problem: jsonschema.ValidationError) -> str:
    """One line for a person of what the schema refuses."""
    keys = [str(key) for key in problem.absolute_path]
    schema = problem.schema if isinstance(problem.schema, Mapping) else {}
    if problem.validator == "additionalProperties" and isinstance(problem.instance, Mapping):
        known = list(schema.get("properties", {}))
        name = next(key for key in problem.instance if key not in known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        return f"{path}:{_line(text, [*keys, name])}: {'.'.join([*keys, name])} is no key; {hint}"
    if problem.validator == "required":
        missing = problem.message.split("'")[1]
        return f"{path}:{_line(text, keys)}: {'.'.join([*keys, missing])} is missing"
    if "propertyNames" in problem.absolute_schema_path:
        name = str(problem.instance)
        allowed = "small letters, digits and dashes; not release, the release command's"
        if keys[:1] == ["static"]:
            allowed = "like /static/"
        return (
            f"{path}:{_line(text, [*keys, name])}: {'.'.join([*keys, name])}: this name can't be"
            f" used; allowed: {allowed}"
        )
    where = ".".join(key for key in keys if not key.isdigit())
    about = str(schema.get("description", "")).partition(". ")[0].rstrip(".")
    what = problem.message.splitlines()[0]
    if problem.validator == "pattern":
        what = f"{problem.instance!r} is not allowed"
        if str(problem.validator_value).startswith("^/"):
            what += ", it must begin with /"
    return f"{path}:{_line(text, keys)}: {where}: {what}" + (f" ({about})" if about else "")


def _line(text: str, keys: list[str]) -> int:
    """The line on which a key is set, as far as it can be told: tomllib keeps no positions."""
    keys = [key for key in keys if not key.isdigit()]
    lines = text.splitlines()
    found = 1
    start = 0
    for key in keys:
        name = rf"[\"']?{re.escape(key)}[\"']?"
        expression = rf"^\s*(\[+\s*([^\]]*\.)?{name}\s*\]|{name}\s*[.=])|[{{,]\s*{name}\s*="
        for number in range(start, len(lines)):
            if re.search(expression, lines[number]):
                found = number + 1
                # A table's keys are below its head, an inline one's on the same line.
                start = number + 1 if lines[number].lstrip().startswith("[") else number
                break
    return found


def _check_together(path: Path, text: str, settings: Mapping[str, Any]) -> None:
    def refuse(key: str, why: str) -> None:
        raise BuildError(f"{path}:{_line(text, [key])}: {why}")

    if bool(settings["wsgi"]) == bool(settings["exec"]):
        both = "are both set" if settings["wsgi"] else "are both missing"
        refuse("exec", f"wsgi and exec {both}: say one, how the application is served")
    if settings["exec"]:
        if not settings["ready"]:
            refuse("exec", "exec needs ready, the path that is asked until it answers")
        if settings["static"]:
            refuse("static", "static is served by the runtime, which exec replaces: use wsgi")
    commands = {"exec": settings["exec"], "release": settings["release"], **settings["processes"]}
    commands |= {name: job["command"] for name, job in settings["cron"].items()}
    for name, command in commands.items():
        try:
            shlex.split(command or "")
        except ValueError as error:
            refuse(name, f"{name}: {command!r} is no command: {error}")
    if twice := set(settings["processes"]) & set(settings["cron"]):
        refuse("cron", f"{twice.pop()} is the name of a process and of a cron job: give it another")


def _check_files(path: Path, text: str, settings: Mapping[str, Any]) -> None:
    folder = path.parent
    named = [("include", name) for name in settings["include"]]
    named += [("packages", settings["packages"])] if settings["packages"] else []
    named += [("static", name) for name in settings["static"].values() if ":" not in name]
    for key, name in named:
        place = f"{path}:{_line(text, [key])}: {key}: {name}"
        if ".." in Path(name).parts:
            raise BuildError(f"{place} leads out of the folder")
        if not (folder / name).exists():
            raise BuildError(f"{place} is not there")
        if key == "static" and not _is_included(name, settings["include"]):
            raise BuildError(f"{place} is not in what include takes in")


def _is_included(name: str, include: list[str]) -> bool:
    parts = Path(name).parts
    return any(parts[: len(Path(taken).parts)] == Path(taken).parts for taken in include)
