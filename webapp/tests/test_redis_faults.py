"""Redis unreachable, slow, wrong or forbidding: a short answer in time, and recovery by itself."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pace
import pytest

from counter.settings import read_settings
from counter.store import Store, StoreAwayError
from serving.log import Log
from support import KEY, RedisServer, StartApp, number, wait_for


def test_it_starts_without_redis_and_recovers_when_redis_comes(
    tmp_path: Path, start_app: StartApp
) -> None:
    server = RedisServer(tmp_path)
    app = start_app(server.url)
    assert app.ask("/healthz").status == 200
    assert app.ask("/readyz").status == 503
    with pace.Stopwatch() as watch:
        answer = app.ask()
    assert (answer.status, answer.text) == (503, "The counter is not available now.\n")
    assert answer.headers["Cache-Control"] == "no-store"
    assert watch.seconds < 0.5
    server.start()
    try:
        wait_for(lambda: app.ask("/readyz").status == 200, "it is ready", 1)
        assert number(app.ask().text) == 1
        assert app.ask("/readyz").status == 200
    finally:
        server.stop()


def test_a_restart_of_redis_costs_no_request_after_it(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    app = start_app(own_redis.url, COUNTER_THREADS="4")
    with ThreadPoolExecutor(8) as pool:
        warm = list(pool.map(lambda _: app.ask().status, range(80)))
    assert set(warm) == {200}
    connections = len(own_redis.client.client_list()) - 1
    assert connections >= 2, "several pooled connections must be stale for this test to mean it"
    own_redis.stop()
    own_redis.start()
    with ThreadPoolExecutor(8) as pool:
        numbers = sorted(number(text) for text in pool.map(lambda _: app.ask().text, range(80)))
    assert numbers == list(range(1, 81))
    assert own_redis.count() == 80


def test_redis_stopped_answers_503_at_once_and_counts_again_when_back(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    app = start_app(own_redis.url)
    assert number(app.ask().text) == 1
    own_redis.stop()
    with pace.Stopwatch() as watch, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: app.ask(), range(64)))
    assert {answer.status for answer in answers} == {503}
    assert watch.paced(max(answer.seconds for answer in answers)) < 0.9
    own_redis.start()
    wait_for(lambda: app.ask("/readyz").status == 200, "it is ready again", 1)
    assert number(app.ask().text) == 1
    (away,) = app.events("redis_unreachable")
    assert away["level"] == "error"
    assert len(app.events("redis_recovered")) == 1


def test_frozen_redis_answers_503_within_a_second(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    app = start_app(own_redis.url)
    assert number(app.ask().text) == 1
    own_redis.signal(signal.SIGSTOP)
    with pace.Stopwatch() as watch, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: app.ask(), range(64)))
    assert {answer.status for answer in answers} == {503}
    assert watch.paced(max(answer.seconds for answer in answers)) < 1.0
    assert app.ask("/readyz").status == 503
    assert app.ask("/healthz").status == 200
    own_redis.signal(signal.SIGCONT)
    wait_for(lambda: app.ask("/readyz").status == 200, "it is ready again")
    # Redis may have carried out what it had received when it froze: nobody was told those
    # numbers. From here on each request counts once, and no answer belongs to another one.
    before = own_redis.count()
    assert [number(app.ask().text) for _ in range(5)] == [before + n for n in range(1, 6)]
    assert own_redis.count() == before + 5


def test_who_waited_while_redis_was_away_is_not_the_one_who_tries_it_again(
    own_redis: RedisServer,
) -> None:
    settings = read_settings({"REDIS_URL": own_redis.url})
    store = Store(settings, Log("test"))
    own_redis.stop()
    before = time.monotonic()
    with pytest.raises(StoreAwayError, match="refused"):
        store.increment(before)
    own_redis.start()
    with pytest.raises(StoreAwayError, match="a moment ago"):
        store.increment(before)
    with pytest.raises(StoreAwayError, match="a moment ago"):
        store.ping(before)
    assert own_redis.count() == 0
    assert store.increment(time.monotonic()) == 1
    assert store.increment(before) == 2
    store.close()


def test_who_waited_while_redis_was_away_does_not_wait_for_who_asks_with_it(
    own_redis: RedisServer,
) -> None:
    """It would have its answer after two timeouts, where one is promised."""
    store = Store(read_settings({"REDIS_URL": own_redis.url}), Log("test"))
    own_redis.stop()
    before = time.monotonic()
    with pytest.raises(StoreAwayError, match="refused"):
        store.increment(before)
    own_redis.start()
    answers = store.increment_each([before, time.monotonic()])
    assert ["a moment ago" in str(answer) for answer in answers] == [True, True]
    assert own_redis.count() == 0, "nobody tried"
    assert store.increment(time.monotonic()) == 1
    store.close()


def test_requests_that_ask_together_have_each_its_own_number_or_error(
    own_redis: RedisServer,
) -> None:
    store = Store(read_settings({"REDIS_URL": own_redis.url}), Log("test"))
    own_redis.client.set(KEY, 2**63 - 3)
    answers = store.increment_each([time.monotonic()] * 4)
    assert answers[:2] == [2**63 - 2, 2**63 - 1]
    assert [type(one).__name__ for one in answers[2:]] == ["StoreRefusedError"] * 2
    assert answers[2] is not answers[3]
    own_redis.client.delete(KEY)
    together = store.increments([time.monotonic()] * 3)
    assert own_redis.count() == 0, "nothing counts before the first takes its number"
    assert [together.take() for _ in range(3)] == [1, 2, 3]
    own_redis.stop()
    before = time.monotonic()
    answers = store.increment_each([before] * 3)
    assert [type(one).__name__ for one in answers] == ["StoreAwayError"] * 3
    own_redis.start()
    # One tries.
    answers = store.increment_each([time.monotonic()] * 2)
    assert [type(one).__name__ for one in answers] == ["int", "StoreAwayError"]
    assert answers[0] == own_redis.count() == 1
    store.close()


@pytest.mark.parametrize(
    ("refuse", "accept"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ],
    ids=["full memory", "no replica", "read-only"],
)
def test_not_ready_while_redis_answers_and_refuses_to_count(
    own_redis: RedisServer, start_app: StartApp, refuse: str, accept: str
) -> None:
    app = start_app(own_redis.url)
    assert number(app.ask().text) == 1
    own_redis.client.execute_command(*refuse.split())
    assert app.ask().status == 503
    begun_anew = start_app(own_redis.url)
    for one in (app, begun_anew):
        assert [one.ask("/readyz").status for _ in range(3)] == [503] * 3
    own_redis.client.execute_command(*accept.split())
    for one in (app, begun_anew):
        assert one.ask("/readyz").status == 200
    assert own_redis.count() == 1, "looking counts nothing"
    assert number(app.ask().text) == 2


def test_not_ready_while_redis_ends_at_each_write_and_is_started_again(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    """A full disk: it answers PING until the next write."""
    own_redis.options = ("--appendonly", "yes", "--appendfsync", "always")
    own_redis.stop()
    own_redis.start()
    app = start_app(own_redis.url)
    assert [number(app.ask().text) for _ in range(3)] == [1, 2, 3]
    own_redis.stop()
    (file,) = (own_redis.folder / "appendonlydir").glob("*.incr.aof")
    own_redis.room = file.stat().st_size + 5
    for path in ("/", "/readyz", "/readyz", "/"):
        own_redis.start()
        assert app.ask(path).status == 503
        assert own_redis.process is not None
        own_redis.process.wait(10)
    own_redis.room = resource.RLIM_INFINITY
    own_redis.start()
    assert app.ask("/readyz").status == 200
    assert number(app.ask().text) == 4
    assert own_redis.count() == 4


def test_a_late_answer_is_never_given_to_another_request(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    app = start_app(own_redis.url, COUNTER_THREADS="1", REDIS_TIMEOUT="0.1")
    assert number(app.ask().text) == 1
    for _ in range(3):
        own_redis.signal(signal.SIGSTOP)
        assert app.ask().status == 503
        own_redis.signal(signal.SIGCONT)
        wait_for(lambda: app.ask("/readyz").status == 200, "it is ready again")
        before = own_redis.count()
        assert number(app.ask().text) == before + 1


@pytest.mark.parametrize("command", [("LPUSH", KEY, "x"), ("SET", KEY, "not a number")])
def test_a_key_of_the_wrong_type_is_a_500_and_an_error_that_names_the_key(
    own_redis: RedisServer, start_app: StartApp, command: tuple[str, ...]
) -> None:
    own_redis.client.execute_command(*command)
    app = start_app(own_redis.url)
    answer = app.ask()
    assert (answer.status, answer.text) == (500, "The counter is damaged.\n")
    (line,) = wait_for(lambda: app.requests(status=500), "the line")
    assert line["level"] == "error"
    assert KEY in line["error"]
    assert "traceback" not in line
    own_redis.client.delete(KEY)
    assert number(app.ask().text) == 1


def test_a_count_at_its_limit_is_a_503_and_stays_what_it_is(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    limit = 2**63 - 1
    own_redis.client.set(KEY, limit - 1)
    app = start_app(own_redis.url)
    assert number(app.ask().text) == limit
    assert app.ask().status == 503
    assert own_redis.count() == limit
    (line,) = wait_for(lambda: app.requests(status=503), "the line")
    assert KEY in line["error"]
    assert "overflow" in line["error"]
    assert app.ask("/readyz").status == 200


def test_incr_and_ping_are_all_that_an_acl_must_allow(
    own_redis: RedisServer, start_app: StartApp, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    own_redis.client.execute_command(
        "ACL", "SETUSER", "web", "on", ">correct horse", "resetkeys", f"~{KEY}", "+incr", "+ping"
    )
    url = own_redis.url.replace("//", "//web@")
    app = start_app(url, REDIS_PASSWORD_FILE=str(password))
    assert number(app.ask().text) == 1
    assert app.ask("/readyz").status == 200


def test_a_forbidden_command_is_a_503_with_its_reason_in_the_log(
    own_redis: RedisServer, start_app: StartApp, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("secret-word")
    own_redis.client.execute_command("ACL", "SETUSER", "web", "on", ">secret-word", "+ping")
    app = start_app(own_redis.url.replace("//", "//web@"), REDIS_PASSWORD_FILE=str(password))
    assert app.ask().status == 503
    (line,) = wait_for(lambda: app.requests(status=503), "the line")
    assert "NoPermissionError" in line["error"]
    own_redis.client.execute_command("ACL", "SETUSER", "web", "+incr", f"~{KEY}")
    assert number(app.ask().text) == 1
    assert "secret-word" not in app.output.read_text()


@pytest.mark.parametrize("given", [None, "wrong-word"])
def test_a_missing_or_wrong_password_is_a_503_with_its_reason_in_the_log(
    own_redis: RedisServer, start_app: StartApp, tmp_path: Path, given: str | None
) -> None:
    own_redis.client.execute_command("ACL", "SETUSER", "default", "resetpass", ">right-word")
    settings = {}
    if given is not None:
        (tmp_path / "password").write_text(given)
        settings["REDIS_PASSWORD_FILE"] = str(tmp_path / "password")
    app = start_app(own_redis.url, **settings)
    assert app.ask().status == 503
    assert app.ask("/readyz").status == 503
    (line,) = wait_for(lambda: app.requests(path="/"), "the line")
    assert "Authentication" in line["error"]
    assert "-word" not in app.output.read_text()


def test_counting_over_a_unix_socket(own_redis: RedisServer, start_app: StartApp) -> None:
    app = start_app(f"unix://{own_redis.path}")
    assert number(app.ask().text) == 1
    own_redis.stop()
    assert app.ask().status == 503
    own_redis.start()
    assert number(app.ask().text) == 1


def test_counting_over_tls_only_with_a_certificate_that_is_known(
    tmp_path: Path, start_app: StartApp
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = RedisServer(tmp_path)
    tls_port = str(server.port)
    server.port = 0
    server.options = ("--tls-port", tls_port, "--tls-auth-clients", "no")
    server.options += ("--tls-key-file", str(key), "--tls-cert-file", str(certificate))
    server.start()
    try:
        url = f"rediss://127.0.0.1:{tls_port}"
        assert number(start_app(url, REDIS_CA_FILE=str(certificate)).ask().text) == 1
        unknown = start_app(url)
        assert unknown.ask().status == 503
        assert "certificate verify failed" in unknown.events("redis_unreachable")[0]["error"]
    finally:
        server.stop()


def test_counting_over_tls_with_a_certificate_of_its_own_where_redis_asks_for_one(
    tmp_path: Path, start_app: StartApp
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = RedisServer(tmp_path)
    url, server.port = f"rediss://127.0.0.1:{server.port}", 0
    server.options = ("--tls-port", url.rpartition(":")[2], "--tls-auth-clients", "yes")
    server.options += ("--tls-key-file", str(key), "--tls-cert-file", str(certificate))
    server.options += ("--tls-ca-cert-file", str(certificate))
    server.start()
    try:
        ours = {"REDIS_CERTIFICATE_FILE": str(certificate), "REDIS_KEY_FILE": str(key)}
        assert number(start_app(url, REDIS_CA_FILE=str(certificate), **ours).ask().text) == 1
        assert start_app(url, REDIS_CA_FILE=str(certificate)).ask().status == 503
    finally:
        server.stop()


def test_an_address_that_swallows_packets_costs_the_connect_timeout_only(
    start_app: StartApp,
) -> None:
    app = start_app("redis://192.0.2.1:6379", REDIS_CONNECT_TIMEOUT="0.2")
    with pace.Stopwatch() as watch:
        assert app.ask().status == 503
    assert watch.seconds < 0.6
