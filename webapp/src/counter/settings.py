"""Every setting of the application: name, default, limits and reason, in one place.

Settings come from the environment only. The table in README.md is `markdown_table()`; a test
holds the two together.
"""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


class SettingsError(Exception):
    """A setting is wrong. The message is one line: what, which variable, what is allowed."""


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is: `host` and `port`, or the `path` of a unix socket."""

    host: str | None
    port: int | None
    path: str | None
    db: int
    user: str | None
    tls: bool


@dataclass(frozen=True)
class Settings:
    """The settings, checked. Times are in seconds."""

    listen: tuple[str, int]
    threads: int
    instance: str
    key: str
    drain_seconds: float
    finish_seconds: float
    redis: RedisAddress
    redis_password: str | None
    redis_ca_file: str | None
    redis_certificate_file: str | None
    redis_key_file: str | None
    redis_connect_timeout: float
    redis_timeout: float
    log_all: bool
    log_slow_seconds: float

    def __repr__(self) -> str:
        """Leave the password out, wherever this is printed."""
        return f"Settings(listen={self.listen}, instance={self.instance!r}, key={self.key!r}, …)"


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


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return read


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        # float() alone also takes nan, inf, 1e9 and 1_0.
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError
        return float(text)

    return read


def _choice(*words: str) -> Callable[[str], bool]:
    """True for the first of the words, False for the other."""

    def read(text: str) -> bool:
        if text not in words:
            raise ValueError
        return text == words[0]

    return read


def _pattern(pattern: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return read


def _redis_url(text: str) -> RedisAddress:
    url = urlsplit(text)
    if url.password is not None:
        raise SettingsError(
            "REDIS_URL holds a password; allowed is none there: put it into a file and its path "
            "into REDIS_PASSWORD_FILE"
        )
    user = unquote(url.username) if url.username else None
    if url.fragment:
        raise ValueError
    if url.scheme == "unix":
        query = dict(parse_qsl(url.query, strict_parsing=True)) if url.query else {}
        if not url.path.startswith("/") or len(url.path) < 2 or url.hostname or set(query) - {"db"}:
            raise ValueError
        return RedisAddress(None, None, unquote(url.path), _db(query.get("db", "0")), user, False)
    if url.scheme not in ("redis", "rediss") or not url.hostname or url.query:
        raise ValueError
    port = 6379 if url.port is None else url.port
    if port == 0:
        raise ValueError
    db = _db(url.path.removeprefix("/") or "0")
    return RedisAddress(url.hostname, port, None, db, user, url.scheme == "rediss")


_db = _whole(0, 9999)


def _password_file(text: str) -> str:
    try:
        password = Path(text).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"REDIS_PASSWORD_FILE={text!r} can't be read: {error}") from error
    if not password or len(password) > 1024 or "\n" in password or "\0" in password:
        raise ValueError
    return password


def _readable_file(text: str) -> str:
    try:
        Path(text).read_bytes()
    except OSError as error:
        raise ValueError from error
    return text


def _ca_file(text: str) -> str:
    try:
        ssl.create_default_context(cafile=text)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"REDIS_CA_FILE={text!r} can't be used: {error}") from error
    return text


VARIABLES = (
    Variable(
        "COUNTER_LISTEN",
        "listen",
        "127.0.0.1:8001",
        _listen,
        "host:port or [IPv6]:port; port 0 picks a free one",
        "Where to listen. The application speaks plain HTTP and belongs behind a proxy.",
    ),
    Variable(
        "COUNTER_THREADS",
        "threads",
        "4",
        _whole(1, 64),
        "a whole number from 1 to 64",
        "Requests served at the same time, each with at most one connection to Redis.",
    ),
    Variable(
        "COUNTER_INSTANCE",
        "instance",
        "counter",
        _pattern(r"[A-Za-z0-9._@:-]{1,64}"),
        "1 to 64 letters, digits and ._@:-",
        "Name of this process in its log lines.",
    ),
    Variable(
        "COUNTER_KEY",
        "key",
        "counter:seen",
        _pattern(r"[!-~]{1,256}"),
        "1 to 256 visible ASCII characters",
        "Redis key of the count.",
    ),
    Variable(
        "COUNTER_DRAIN_SECONDS",
        "drain_seconds",
        "4",
        _seconds(0, 300),
        "seconds from 0 to 300",
        "How long it goes on accepting after SIGTERM, with /readyz at 404. Must be longer than "
        "the load balancer needs to notice: checks to fail × interval, plus 1 s.",
    ),
    Variable(
        "COUNTER_FINISH_SECONDS",
        "finish_seconds",
        "10",
        _seconds(0, 300),
        "seconds from 0 to 300",
        "The most it waits after that for requests in flight.",
    ),
    Variable(
        "REDIS_URL",
        "redis",
        "redis://127.0.0.1:6379/0",
        _redis_url,
        "redis://[user@]host[:port][/db], rediss://… for TLS, unix://[user@]/path[?db=n]; "
        "without a password",
        "Where Redis is. An address is better than a name: looking a name up has no timeout.",
    ),
    Variable(
        "REDIS_PASSWORD_FILE",
        "redis_password",
        None,
        _password_file,
        "a readable file of one line of 1 to 1024 characters",
        "File with the password; read once, at start.",
    ),
    Variable(
        "REDIS_CA_FILE",
        "redis_ca_file",
        None,
        _ca_file,
        "a readable file of PEM certificates, with rediss:// only",
        "Authorities that may have signed Redis' certificate; unset, the system's.",
    ),
    Variable(
        "REDIS_CERTIFICATE_FILE",
        "redis_certificate_file",
        None,
        _readable_file,
        "a readable PEM file, with REDIS_KEY_FILE and rediss:// only",
        "Certificate to show to Redis, then its chain.",
    ),
    Variable(
        "REDIS_KEY_FILE",
        "redis_key_file",
        None,
        _readable_file,
        "a readable PEM file, with REDIS_CERTIFICATE_FILE",
        "Its private key, not encrypted.",
    ),
    Variable(
        "REDIS_CONNECT_TIMEOUT",
        "redis_connect_timeout",
        "0.1",
        _seconds(0.01, 10),
        "seconds from 0.01 to 10",
        "The most a connection to Redis may take to open. More helps only above a second, when a "
        "lost packet is sent again.",
    ),
    Variable(
        "REDIS_TIMEOUT",
        "redis_timeout",
        "0.8",
        _seconds(0.01, 10),
        "seconds from 0.01 to 10",
        "The most Redis may take to answer: a slow disk makes it wait. With the above, under a "
        "second until the client has its 503.",
    ),
    Variable(
        "COUNTER_LOG_REQUESTS",
        "log_all",
        "notable",
        _choice("all", "notable"),
        "all or notable",
        "Requests that get a line: all, or those answered by 400 and above and those that were "
        "slow. The proxy's line tells of every request, by the same id.",
    ),
    Variable(
        "COUNTER_LOG_SLOW_SECONDS",
        "log_slow_seconds",
        "0.5",
        _seconds(0, 60),
        "seconds from 0 to 60",
        "From when on a request counts as slow.",
    ),
)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read and check all settings.

    Raises SettingsError for the first wrong, unknown or misspelt one. Reads the password and
    CA files; touches neither the network nor anything else.
    """
    _refuse_unknown(environ)
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = environ.get(variable.name, variable.default)
        values[variable.field] = None if text is None else _read(variable, text)
    settings = Settings(**values)
    if settings.redis_ca_file is not None and not settings.redis.tls:
        raise SettingsError(
            "REDIS_CA_FILE has no effect without TLS; allowed is a REDIS_URL that starts with "
            "rediss://, or no REDIS_CA_FILE"
        )
    _check_client_certificate(settings)
    return settings


def _check_client_certificate(settings: Settings) -> None:
    certificate, key = settings.redis_certificate_file, settings.redis_key_file
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise SettingsError(
            "REDIS_CERTIFICATE_FILE and REDIS_KEY_FILE go together; allowed are both or neither"
        )
    if not settings.redis.tls:
        raise SettingsError(
            "REDIS_CERTIFICATE_FILE has no effect without TLS; allowed is a REDIS_URL that starts "
            "with rediss://, or no REDIS_CERTIFICATE_FILE"
        )
    try:
        # A password would be asked for on the terminal; there is none.
        ssl.create_default_context().load_cert_chain(certificate, key, password=b"")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            f"REDIS_CERTIFICATE_FILE={certificate!r} with REDIS_KEY_FILE={key!r} can't be used: "
            f"{error}"
        ) from error


def _read(variable: Variable, text: str) -> object:
    try:
        return variable.read(text)
    except ValueError:
        # A URL may hold a password in some wrong place: never print one that is refused. What a
        # password file holds is not printed either; `text` is its path.
        shown = "" if variable.name == "REDIS_URL" else f"={_printable(text)}"
        raise SettingsError(
            f"{variable.name}{shown} is wrong; allowed: {variable.allowed}"
        ) from None


def _printable(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = [variable.name for variable in VARIABLES]
    if "REDIS_PASSWORD" in environ:
        raise SettingsError(
            "REDIS_PASSWORD is set, and everyone who may list processes could read it; allowed: "
            "a file that holds it, its path in REDIS_PASSWORD_FILE"
        )
    for name in sorted(set(environ) - set(known)):
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.85)
        if near:
            raise SettingsError(f"{name} is not a setting; did you mean {near[0]}?")
        if name.startswith("COUNTER_"):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingsError(
                f"{name} is not a setting; did you mean {near[0]}? Allowed: {', '.join(known)}"
            )


def markdown_table() -> str:
    """The settings as the table in README.md."""
    lines = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for variable in VARIABLES:
        default = "–" if variable.default is None else f"`{variable.default}`"
        lines.append(f"| `{variable.name}` | {default} | {variable.allowed} | {variable.purpose} |")
    return "\n".join(lines) + "\n"
