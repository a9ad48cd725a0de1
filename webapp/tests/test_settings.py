"""A wrong setting is one clear line and exit code 2, before anything starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from counter import settings as counter
from serving import settings as serving
from serving.settings import SettingsError, markdown_table
from support import WEBAPP, environment


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


RUNTIME = serving.variables("COUNTER", instance="counter")


def read_settings(environ: dict[str, str]) -> counter.Settings:
    """As the process does: first the runtime's, then the counter's."""
    serving.read_settings(environ, RUNTIME)
    return counter.read_settings(environ)


def test_the_defaults_are_right() -> None:
    runtime = serving.read_settings({}, RUNTIME)
    assert runtime.listen == ("127.0.0.1", 8001)
    assert (runtime.threads, runtime.instance) == (4, "counter")
    assert (runtime.drain_seconds, runtime.finish_seconds) == (4.0, 10.0)
    settings = read_settings({})
    assert settings.key == "counter:seen"
    assert (settings.redis_connect_timeout, settings.redis_timeout) == (0.1, 0.8)


def test_a_misspelt_name_of_the_runtimes_own_prefix_is_refused() -> None:
    known = serving.variables()
    with pytest.raises(SettingsError, match=r"SERVING_LISTN.*did you mean SERVING_LISTEN"):
        serving.read_settings({"SERVING_LISTN": "1"}, known)
    with pytest.raises(SettingsError, match="SERVING_PORT is not a setting"):
        serving.read_settings({"SERVING_PORT": "1"}, known)
    assert serving.read_settings({"SERVING_THREADS": "8"}, known).threads == 8


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1", ("127.0.0.1", 6379, None, 0, None, False)),
        ("redis://web@store:7000/3", ("store", 7000, None, 3, "web", False)),
        ("rediss://[::1]:6380/1", ("::1", 6380, None, 1, None, True)),
        ("unix:///run/redis.sock", (None, None, "/run/redis.sock", 0, None, False)),
        ("unix://web@/run/redis.sock?db=2", (None, None, "/run/redis.sock", 2, "web", False)),
    ],
)
def test_redis_urls_that_are_right(url: str, expected: tuple[object, ...]) -> None:
    redis = read_settings({"REDIS_URL": url}).redis
    assert (redis.host, redis.port, redis.path, redis.db, redis.user, redis.tls) == expected


WRONG = [
    ("COUNTER_LISTEN", value)
    for value in ("", "8001", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:x", "::1:80", "a b:1")
]
WRONG += [
    ("COUNTER_THREADS", value) for value in ("", "0", "65", "-1", "4.5", "four", " 4", "1e1", "٤")
]
WRONG += [("COUNTER_INSTANCE", value) for value in ("", "a b", "x" * 65, "a\nb")]
WRONG += [("COUNTER_KEY", value) for value in ("", "a b", "x" * 257, "schlüssel")]
WRONG += [
    (name, value)
    for name in ("COUNTER_DRAIN_SECONDS", "COUNTER_FINISH_SECONDS")
    for value in ("", "-1", "301", "nan", "inf", "1e2", "1_0", "4s")
]
WRONG += [
    (name, value)
    for name in ("REDIS_TIMEOUT", "REDIS_CONNECT_TIMEOUT")
    for value in ("", "0", "11", "nan", "500ms")
]
WRONG += [
    ("REDIS_URL", value)
    for value in (
        "",
        "127.0.0.1:6379",
        "http://127.0.0.1",
        "redis://",
        "redis://h:0",
        "redis://h:99999",
        "redis://h:port",
        "redis://h/name",
        "redis://h/0/1",
        "redis://h?db=1",
        "redis://h#x",
        "redis://:password@h",
        "redis://user:password@h",
        "unix://",
        "unix://host/path",
        "unix:///run/redis.sock?password=password",
    )
]
WRONG += [("REDIS_PASSWORD_FILE", "/nonexistent"), ("REDIS_PASSWORD_FILE", "/")]
WRONG += [("REDIS_CA_FILE", "/nonexistent"), ("REDIS_CA_FILE", "/dev/null")]
WRONG += [
    (name, value)
    for name in ("REDIS_CERTIFICATE_FILE", "REDIS_KEY_FILE")
    for value in ("/nonexistent", "/", "/dev/null")
]

WRONG += [
    ("REDIS_SENTINELS", value)
    for value in ("", "a:1", "a:1,b:1", "a:1,b:1,a:1", "a:1,b:1,c", "a:1,b:1,c:99999", "a:1,b:1,")
]


@pytest.mark.parametrize("number", [3, 4, 5])
def test_any_number_of_sentinels_from_three_is_right(number: int) -> None:
    """A store is exchanged for another one by way of one more."""
    listed = [f"10.0.0.{each}:26380" for each in range(number)]
    found = read_settings({"REDIS_SENTINELS": ",".join(listed)}).redis_sentinels
    assert found == tuple((f"10.0.0.{each}", 26380) for each in range(number))


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read_settings({name: value})
    message = str(refusal.value)
    assert name in message
    assert "\n" not in message
    if name == "REDIS_URL":
        assert "password@" not in message
        assert "=password" not in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("COUNTER_THREAD", "COUNTER_THREADS"),
        ("COUNTER_LISTN", "COUNTER_LISTEN"),
        ("COUNTR_KEY", "COUNTER_KEY"),
        ("counter_key", "COUNTER_KEY"),
        ("COUNTER_REDIS_URL", "COUNTER_"),
        ("REDIS_PASSWORDFILE", "REDIS_PASSWORD_FILE"),
        ("REDIS_TIME_OUT", "REDIS_TIMEOUT"),
        ("REDIS_PASSWORD", "REDIS_PASSWORD_FILE"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=meant):
        read_settings({name: "1"})


def test_variables_of_others_are_left_alone() -> None:
    read_settings(dict(os.environ) | {"REDIS_TLS_URL": "x", "LISTEN": "y", "THREADS": "z"})


@pytest.mark.parametrize(
    ("url", "said"),
    [("redis://h", "has no effect without TLS"), ("rediss://h", "can't be used")],
)
def test_a_certificate_for_redis_is_refused_without_tls_or_when_it_is_none(
    url: str, said: str
) -> None:
    both = {"REDIS_CERTIFICATE_FILE": "/dev/null", "REDIS_KEY_FILE": "/dev/null"}
    with pytest.raises(SettingsError, match=f"REDIS_CERTIFICATE_FILE.*{said}"):
        read_settings({"REDIS_URL": url, **both})


def test_an_empty_password_file_is_refused_and_its_content_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    for content in ("", "\n", "two\nlines\n"):
        file.write_text(content)
        with pytest.raises(SettingsError, match="REDIS_PASSWORD_FILE") as refusal:
            read_settings({"REDIS_PASSWORD_FILE": str(file)})
        assert "lines'" not in str(refusal.value)
    file.write_text("secret\n")
    settings = read_settings({"REDIS_PASSWORD_FILE": str(file)})
    assert settings.redis_password == "secret"  # noqa: S105
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"COUNTER_THREADS": "many"}, ["COUNTER_THREADS", "from 1 to 64"]),
        ({"REDIS_URL": "redis://h:x"}, ["REDIS_URL", "redis://[user@]host"]),
        ({"COUNTER_TREADS": "4"}, ["COUNTER_TREADS", "did you mean COUNTER_THREADS"]),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_the_command_ends_with_2_and_one_line(
    settings: dict[str, str], words: list[str], arguments: list[str]
) -> None:
    done = run(*arguments, **settings)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)


def test_check_says_that_all_is_right() -> None:
    done = run("--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "127.0.0.1:8001" in done.stdout


def test_help_names_every_setting_of_the_runtime() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {variable.name}=" in done.stdout for variable in RUNTIME)
    assert run("--version").stdout.strip()
    assert run("--nonsense").returncode == 2


def test_an_address_in_use_is_one_line_and_1() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        done = run(COUNTER_LISTEN=f"127.0.0.1:{sock.getsockname()[1]}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "COUNTER_LISTEN" in done.stderr
    assert "in use" in done.stderr


def test_the_tables_in_the_readme_are_those_in_the_code() -> None:
    readme = (WEBAPP / "README.md").read_text(encoding="utf-8")
    for known in (RUNTIME, counter.VARIABLES):
        assert markdown_table(known) in readme
