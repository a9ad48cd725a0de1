"""The settings of the runtime, and how an application may read its own in the same way.

Settings come from the environment only. Names begin with the application's prefix (`serve:prefix`
in app.toml), SERVING by default. The table in README.md is `markdown_table()`; a test holds the
two together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_PREFIX = "SERVING"


class SettingsError(Exception):
    """A setting is wrong. The message is one line: what, which variable, what is allowed."""


@dataclass(frozen=True)
class Settings:
    """The settings of the runtime, checked. Times are in seconds."""

    listen: tuple[str, int]
    threads: int
    instance: str
    drain_seconds: float
    finish_seconds: float
    log_all: bool
    log_slow_seconds: float


@dataclass(frozen=True)
class Variable:
    """One environment variable: how it is read, and what people are told of it."""

    name: str
    field: str
    default: str | None
    read: Callable[[str], Any]
    allowed: str
    purpose: str


def _listen(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})", text)
    if not match or int(match[3]) > 65535:
        raise ValueError
    return match[1] or match[2], int(match[3])


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return read


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A reader of seconds from `low` to `high`."""

    def read(text: str) -> float:
        # float() alone also takes nan, inf, 1e9 and 1_0.
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError
        return float(text)

    return read


def choice(*words: str) -> Callable[[str], bool]:
    """A reader of one of two words: True for the first, False for the other."""

    def read(text: str) -> bool:
        if text not in words:
            raise ValueError
        return text == words[0]

    return read


def pattern(expression: str) -> Callable[[str], str]:
    """A reader of what matches a regular expression as a whole."""

    def read(text: str) -> str:
        if not re.fullmatch(expression, text):
            raise ValueError
        return text

    return read


def variables(
    prefix: str = DEFAULT_PREFIX, threads: int = 4, instance: str = "NAME"
) -> tuple[Variable, ...]:
    """The runtime's variables under a prefix, with the defaults of an application."""
    return (
        Variable(
            f"{prefix}_LISTEN",
            "listen",
            "127.0.0.1:8001",
            _listen,
            "host:port or [IPv6]:port; port 0 picks a free one",
            "Where to listen. The application speaks plain HTTP and belongs behind a proxy.",
        ),
        Variable(
            f"{prefix}_THREADS",
            "threads",
            str(threads),
            whole(1, 64),
            "a whole number from 1 to 64",
            "Requests served at the same time.",
        ),
        Variable(
            f"{prefix}_INSTANCE",
            "instance",
            instance,
            pattern(r"[A-Za-z0-9._@:-]{1,64}"),
            "1 to 64 letters, digits and ._@:-",
            "Name of this process in its log lines.",
        ),
        Variable(
            f"{prefix}_DRAIN_SECONDS",
            "drain_seconds",
            "4",
            seconds(0, 300),
            "seconds from 0 to 300",
            "How long it goes on accepting after SIGTERM, with /readyz at 404. Must be longer than "
            "the load balancer needs to notice: checks to fail × interval, plus 1 s.",
        ),
        Variable(
            f"{prefix}_FINISH_SECONDS",
            "finish_seconds",
            "10",
            seconds(0, 300),
            "seconds from 0 to 300",
            "The most it waits after that for requests in flight.",
        ),
        Variable(
            f"{prefix}_LOG_REQUESTS",
            "log_all",
            "notable",
            choice("all", "notable"),
            "all or notable",
            "Requests that get a line: all, or those answered by 400 and above and those that were "
            "slow. The proxy's line tells of every request, by the same id.",
        ),
        Variable(
            f"{prefix}_LOG_SLOW_SECONDS",
            "log_slow_seconds",
            "0.5",
            seconds(0, 60),
            "seconds from 0 to 60",
            "From when on a request counts as slow.",
        ),
    )


def read_settings(environ: Mapping[str, str], known: Iterable[Variable]) -> Settings:
    """Read and check the runtime's settings. Raises SettingsError for the first wrong one.

    An unknown name is refused under the runtime's own prefix; under an application's prefix it may
    be the application's.
    """
    known = tuple(known)
    if known[0].name.startswith(f"{DEFAULT_PREFIX}_"):
        refuse_unknown(environ, [variable.name for variable in known], DEFAULT_PREFIX)
    return Settings(**read_variables(environ, known))


def read_variables(environ: Mapping[str, str], known: Iterable[Variable]) -> dict[str, Any]:
    """{field: value} of each variable, None where it has neither value nor default."""
    values: dict[str, Any] = {}
    for variable in known:
        text = environ.get(variable.name, variable.default)
        values[variable.field] = None if text is None else _read(variable, text)
    return values


def _read(variable: Variable, text: str) -> object:
    try:
        return variable.read(text)
    except ValueError:
        # A URL may hold a password in some wrong place: never print one that is refused. What a
        # password file holds is not printed either; `text` is its path.
        shown = "" if variable.name.endswith("_URL") else f"={_printable(text)}"
        raise SettingsError(
            f"{variable.name}{shown} is wrong; allowed: {variable.allowed}"
        ) from None


def _printable(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def refuse_unknown(environ: Mapping[str, str], known: list[str], prefix: str) -> None:
    """Raise SettingsError for a name that is nearly one of `known`, or begins as they do."""
    for name in sorted(set(environ) - set(known)):
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.85)
        if near:
            raise SettingsError(f"{name} is not a setting; did you mean {near[0]}?")
        if name.startswith(f"{prefix}_"):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingsError(
                f"{name} is not a setting; did you mean {near[0]}? Allowed: {', '.join(known)}"
            )


def markdown_table(known: Iterable[Variable]) -> str:
    """Variables as the tables in README.md."""
    lines = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for variable in known:
        default = "–" if variable.default is None else f"`{variable.default}`"
        lines.append(f"| `{variable.name}` | {default} | {variable.allowed} | {variable.purpose} |")
    return "\n".join(lines) + "\n"
