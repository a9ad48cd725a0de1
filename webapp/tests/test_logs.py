"""Log lines are an interface: the fields, and what a client can't do to them."""

from __future__ import annotations

import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.log import REQUEST_ID_LENGTH, clean_request_id
from support import WEBAPP, App, RedisServer, StartApp, wait_for

REQUEST_FIELDS = {
    "ts",
    "level",
    "event",
    "instance",
    "request_id",
    "method",
    "path",
    "status",
    "duration_ms",
    "remote",
}


def test_a_request_has_one_line_with_the_documented_fields(app: App) -> None:
    app.ask("/nope?secret=1", headers={"X-Request-ID": "one-line"})
    (line,) = wait_for(lambda: app.requests(request_id="one-line"), "the line")
    assert set(line) == REQUEST_FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert (line["level"], line["method"], line["status"]) == ("info", "GET", 404)
    assert line["path"] == "/nope"  # never the query
    assert line["remote"] == "127.0.0.1"
    assert 0 < line["duration_ms"] < 1000
    assert line["instance"] == "counter"


def test_the_readme_lists_every_field(app: App) -> None:
    text = (WEBAPP / "README.md").read_text(encoding="utf-8")
    section = text.split("## Log lines")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert listed >= REQUEST_FIELDS | {"error", "traceback"}
    events = {line["event"] for line in app.lines()}
    assert all(f"`{event}`" in section for event in events)


def test_without_an_id_the_field_is_null(app: App) -> None:
    app.ask("/no-id")
    (line,) = wait_for(lambda: app.requests(path="/no-id"), "the line")
    assert line["request_id"] is None


def test_forwarded_headers_of_a_client_are_not_believed(app: App) -> None:
    app.ask("/forwarded", headers={"X-Forwarded-For": "192.0.2.1"})
    (line,) = wait_for(lambda: app.requests(path="/forwarded"), "the line")
    assert line["remote"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("", None),
        ("0A1B:2c-3d_4.5/6+7=@", "0A1B:2c-3d_4.5/6+7=@"),
        ("a\r\nb\x00c\x1b[31m", "a__b_c__31m"),
        ('"},{"level":"x', "_____level_:_x"),
        ("é€ ", "___"),
        ("x" * 10240, "x" * REQUEST_ID_LENGTH),
    ],
)
def test_a_request_id_is_made_harmless(given: str | None, kept: str | None) -> None:
    assert clean_request_id(given) == kept


def test_a_request_id_of_10_kb_is_cut_and_answered(app: App) -> None:
    assert app.ask("/nope", headers={"X-Request-ID": "y" * 10240}).status == 404
    wait_for(lambda: app.requests(request_id="y" * REQUEST_ID_LENGTH), "the line")


def test_the_request_id_is_not_sent_back(app: App) -> None:
    assert "X-Request-ID" not in app.ask(headers={"X-Request-ID": "abc"}).headers


def test_an_ordinary_answer_gets_no_line_unless_asked_for(
    redis_server: RedisServer, start_app: StartApp
) -> None:
    """The proxy's line tells of it, by the same id."""
    app = start_app(redis_server.url)
    for path in ("/", "/version", "/nope"):
        app.ask(path, headers={"X-Request-ID": "quiet"})
    (line,) = wait_for(lambda: app.requests(request_id="quiet"), "the one that failed")
    assert (line["path"], line["status"]) == ("/nope", 404)
    for settings in ({"COUNTER_LOG_REQUESTS": "all"}, {"COUNTER_LOG_SLOW_SECONDS": "0"}):
        app = start_app(redis_server.url, **settings)
        app.ask(headers={"X-Request-ID": "told"})
        (line,) = wait_for(lambda app=app: app.requests(request_id="told"), "the line")
        assert (line["path"], line["status"], line["level"]) == ("/", 200, "info")
        assert set(line) == REQUEST_FIELDS


def test_a_slow_answer_gets_a_line(own_redis: RedisServer, start_app: StartApp) -> None:
    app = start_app(own_redis.url, REDIS_TIMEOUT="8")
    app.ask()
    own_redis.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(app.ask)
        time.sleep(0.6)
        own_redis.signal(signal.SIGCONT)
        assert answer.result().status == 200
    (line,) = wait_for(lambda: app.requests(status=200), "the line")
    assert line["duration_ms"] >= 500


def test_health_checks_that_pass_are_not_logged(app: App) -> None:
    for path in ("/healthz", "/readyz"):
        app.ask(path, headers={"X-Request-ID": "health"})
    app.ask("/nope", headers={"X-Request-ID": "after"})
    wait_for(lambda: app.requests(request_id="after"), "the line after")
    assert app.requests(request_id="health") == []


def test_polling_readiness_while_redis_is_away_logs_changes_only(
    own_redis: RedisServer, start_app: StartApp
) -> None:
    app = start_app(own_redis.url)
    assert app.ask("/readyz").status == 200
    own_redis.stop()
    assert [app.ask("/readyz").status for _ in range(20)] == [503] * 20
    own_redis.start()
    assert [app.ask("/readyz").status for _ in range(5)] == [200] * 5
    assert app.end() == 0
    assert [line["event"] for line in app.lines()] == [
        "start",
        "redis_connected",
        "redis_unreachable",
        "request",
        "redis_recovered",
        "draining",
        "closing",
        "stopped",
    ]


def test_an_unexpected_failure_is_one_line_and_shows_the_client_nothing(
    redis_server: RedisServer, start_app: StartApp, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import sys\n"
        "import counter.store\n"
        "def fail(self, since):\n"
        "    raise RuntimeError('a secret detail')\n"
        "counter.store.Store.increment_each = fail\n"
        "from serving.cli import main\n"
        "sys.exit(main())\n"
    )
    app = start_app(redis_server.url, command=[sys.executable, str(broken)])
    answer = app.ask()
    assert (answer.status, answer.text) == (500, "Something went wrong.\n")
    (line,) = wait_for(lambda: app.requests(status=500), "the line")
    assert line["level"] == "error"
    assert line["error"] == "RuntimeError: a secret detail"
    assert "in fail" in line["traceback"]
