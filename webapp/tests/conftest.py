"""A real redis-server and real processes of the application; nothing is faked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import App, RedisServer, StartApp, environment, wait_for


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the tests that only count."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop, freeze and set up."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def _starter(folder: Path, started: list[App]) -> StartApp:
    def start(redis_url: str, *, command: list[str] | None = None, **settings: str) -> App:
        output = folder / f"app-{len(started)}.log"
        settings = {"COUNTER_LISTEN": "127.0.0.1:0", "COUNTER_DRAIN_SECONDS": "0"} | settings
        with output.open("wb") as log:
            process = subprocess.Popen(
                command or [sys.executable, "-m", "serving"],
                env=environment(REDIS_URL=redis_url, **settings),
                stdout=log,
                stderr=subprocess.PIPE,
            )
        app = App(process, output)
        started.append(app)

        def listening() -> list[dict[str, Any]]:
            if process.poll() is not None:
                assert process.stderr is not None
                pytest.fail(f"it ended with {process.returncode}: {process.stderr.read()!r}")
            return app.events("start")

        app.port = wait_for(listening, "the application has started")[0]["port"]
        return app

    return start


def _end_all(started: list[App]) -> None:
    for app in started:
        if app.process.poll() is None:
            app.process.kill()
            app.process.wait(10)
        if app.process.stderr is not None:
            app.process.stderr.close()


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[StartApp]:
    """Start processes of the application, each with settings of its own."""
    started: list[App] = []
    yield _starter(tmp_path, started)
    _end_all(started)


@pytest.fixture(scope="session")
def shared_app(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    """One process with the default settings."""
    started: list[App] = []
    yield _starter(tmp_path_factory.mktemp("app"), started)(redis_server.url)
    _end_all(started)


@pytest.fixture
def app(shared_app: App, redis_server: RedisServer) -> App:
    """The shared process, with a count of 0."""
    redis_server.client.flushall()
    return shared_app


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is missing; on Debian: apt install redis-server")
