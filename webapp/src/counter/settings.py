"""Every setting of the counter: name, default, limits and reason, in one place.

Those of the runtime that serves it are in serving/settings.py. Settings come from the environment
only. The table in README.md is made of VARIABLES; a test holds the two together.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from serving.settings import (
    SettingsError,
    Variable,
    pattern,
    read_variables,
    refuse_unknown,
    seconds,
    variables,
    whole,
)

PREFIX = "COUNTER"


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

    key: str
    redis: RedisAddress
    redis_password: str | None
    redis_ca_file: str | None
    redis_certificate_file: str | None
    redis_key_file: str | None
    redis_connect_timeout: float
    redis_timeout: float
    redis_sentinels: tuple[tuple[str, int], ...] | None
    redis_sentinel_name: str
    redis_sentinel_timeout: float
    redis_failover_seconds: float

    def __repr__(self) -> str:
        """Leave the password out, wherever this is printed."""
        return f"Settings(key={self.key!r}, …)"


def _addresses(text: str) -> tuple[tuple[str, int], ...]:
    found = []
    for one in text.split(","):
        match = re.fullmatch(r"([0-9A-Za-z.-]+):([0-9]{1,5})", one)
        if not match or int(match[2]) > 65535:
            raise ValueError
        found.append((match[1], int(match[2])))
    # Two are no better than one: no majority of them outlives either. Four are three of which one
    # is exchanged.
    if len(set(found)) != len(found) or len(found) < 3:
        raise ValueError
    return tuple(found)


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


_db = whole(0, 9999)


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
        "COUNTER_KEY",
        "key",
        "counter:seen",
        pattern(r"[!-~]{1,256}"),
        "1 to 256 visible ASCII characters",
        "Redis key of the count.",
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
        seconds(0.01, 10),
        "seconds from 0.01 to 10",
        "The most a connection to Redis may take to open. More helps only above a second, when a "
        "lost packet is sent again.",
    ),
    Variable(
        "REDIS_TIMEOUT",
        "redis_timeout",
        "0.8",
        seconds(0.01, 10),
        "seconds from 0.01 to 10",
        "The most Redis may take to answer: a slow disk makes it wait. With the above, under a "
        "second until the client has its 503.",
    ),
    Variable(
        "REDIS_SENTINELS",
        "redis_sentinels",
        None,
        _addresses,
        "3 times host:port or more, with commas",
        "Sentinels, asked for the master by the user, password and TLS of the above; the host and "
        "port of REDIS_URL are then not used. A number is given only when a majority of as many "
        "stores has it.",
    ),
    Variable(
        "REDIS_SENTINEL_NAME",
        "redis_sentinel_name",
        "main",
        pattern(r"[A-Za-z0-9._-]{1,64}"),
        "1 to 64 letters, digits and ._-",
        "What the Sentinels call the master.",
    ),
    Variable(
        "REDIS_SENTINEL_TIMEOUT",
        "redis_sentinel_timeout",
        "0.2",
        seconds(0.01, 10),
        "seconds from 0.01 to 10",
        "The most a Sentinel may take to answer, each time that they are asked.",
    ),
    Variable(
        "REDIS_FAILOVER_SECONDS",
        "redis_failover_seconds",
        "2.5",
        seconds(0, 10),
        "seconds from 0 to 10",
        "How long a request that Redis refused, and so did not count, waits for the next master: "
        "longer than a planned failover takes.",
    ),
)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read and check all settings.

    Raises SettingsError for the first wrong, unknown or misspelt one. Reads the password and
    CA files; touches neither the network nor anything else.
    """
    _refuse_unknown(environ)
    settings = Settings(**read_variables(environ, VARIABLES))
    if settings.redis_ca_file is not None and not settings.redis.tls:
        raise SettingsError(
            "REDIS_CA_FILE has no effect without TLS; allowed is a REDIS_URL that starts with "
            "rediss://, or no REDIS_CA_FILE"
        )
    if settings.redis_sentinels and settings.redis.path is not None:
        raise SettingsError(
            "REDIS_SENTINELS has no effect on a unix socket; allowed is a REDIS_URL that starts "
            "with redis:// or rediss://, or no REDIS_SENTINELS"
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


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    if "REDIS_PASSWORD" in environ:
        raise SettingsError(
            "REDIS_PASSWORD is set, and everyone who may list processes could read it; allowed: "
            "a file that holds it, its path in REDIS_PASSWORD_FILE"
        )
    known = [variable.name for variable in (*variables(PREFIX), *VARIABLES)]
    refuse_unknown(environ, known, PREFIX)
