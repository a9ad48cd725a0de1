"""examples/notes and examples/shop, from their artifacts, as a machine starts them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import WEBAPP, App, RedisServer, wait_for

Start = Callable[..., App]
BARE = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The root folder of each example's artifact."""
    folder = tmp_path_factory.mktemp("examples")
    roots = {}
    for name in ("notes", "shop"):
        words = ["--app", WEBAPP.parent / "examples" / name, "--out", folder / name]
        words += ["--cache", WEBAPP.parent / ".cache" / "wheels"]
        command = [sys.executable, str(WEBAPP / "build.py"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (archive,) = (folder / name).glob("*.tar.gz")
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
        roots[name] = folder / archive.name.removesuffix(".tar.gz")
        # As a machine installs it, but for the application's own code: that nothing is written.
        compile_all = ["/usr/bin/python3", "-I", "-m", "compileall", "-q"]
        subprocess.run([*compile_all, *roots[name].glob("lib*")], check=True)
    return roots


@pytest.fixture
def start(unpacked: dict[str, Path], tmp_path: Path) -> Iterator[Start]:
    """Start an example from its artifact."""
    processes = []

    def start(name: str, **settings: str) -> App:
        output = tmp_path / f"{name}.log"
        environ = {"SERVING_LISTEN": "127.0.0.1:0", "SERVING_DRAIN_SECONDS": "0", **settings}
        with output.open("wb") as log:
            process = subprocess.Popen(
                [str(unpacked[name] / "bin" / name)], env=BARE | environ, stdout=log, stderr=log
            )
        processes.append(process)
        app = App(process, output)

        def listening() -> list[dict[str, object]]:
            assert process.poll() is None, output.read_text()
            return app.events("start")

        app.port = int(str(wait_for(listening, "it listens", 60)[0]["port"]))
        return app

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_notes_keeps_what_a_session_writes_and_uploads(
    start: Start, redis_server: RedisServer
) -> None:
    app = start("notes", REDIS_URL=redis_server.url)
    assert app.ask("/readyz").text == "ready\n"
    first = app.ask(headers={"X-Forwarded-Proto": "https"})
    assert first.status == 200
    assert "Secure; HttpOnly" in first.headers["Set-Cookie"], "https is the edge's to say"
    cookie = {"Cookie": first.headers["Set-Cookie"].partition(";")[0]}
    form = cookie | {"Content-Type": "application/x-www-form-urlencoded"}
    assert app.ask("/notes", "POST", form, b"text=one+%3Cb%3E").status == 303
    assert "<li>one &lt;b&gt;</li>" in app.ask(headers=cookie).text
    other = app.ask().headers["Set-Cookie"].partition(";")[0]
    assert "one" not in app.ask(headers={"Cookie": other}).text
    assert app.ask("/notes", "POST", headers={}).status == 303, "nothing to keep"
    # Larger than what is kept in memory while it comes.
    content = os.urandom(3_000_000)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a b.bin"\r\n\r\n'
    body += content + b"\r\n--x--\r\n"
    upload = cookie | {"Content-Type": "multipart/form-data; boundary=x"}
    said = app.ask("/files", "POST", upload, body)
    assert said.text == f"a_b.bin 3000000 {hashlib.sha256(content).hexdigest()}\n"
    too_much = app.raw(b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Length: 10485761\r\n\r\n")
    assert too_much.startswith(b"HTTP/1.1 413")
    assert app.ask("/static/notes.js").headers["X-Content-Type-Options"] == "nosniff"
    assert app.end() == 0


def test_notes_tells_a_listener_of_a_new_note_and_ends_the_stream_when_it_drains(
    start: Start, redis_server: RedisServer
) -> None:
    app = start("notes", REDIS_URL=redis_server.url)
    cookie = {"Cookie": app.ask().headers["Set-Cookie"].partition(";")[0]}
    with contextlib.closing(app.connect(30)) as connection:
        connection.request("GET", "/events", headers=cookie)
        stream = connection.getresponse()
        assert stream.readline() == b"retry: 1000\n"
        # It listens once it says so: what was published before is lost.
        wait_for(lambda: redis_server.client.pubsub_numsub("notes:events")[0][1], "it listens")
        form = cookie | {"Content-Type": "application/x-www-form-urlencoded"}
        app.ask("/notes", "POST", form, b"text=two")
        while (line := stream.readline()) != b"event: note\n":
            assert line, "the stream ended"
        app.terminate()
        while stream.readline():
            pass
    assert app.process.wait(15) == 0
    assert app.events("stopped")[0]["cut_off"] == 0


def test_notes_says_that_redis_is_unreachable(start: Start) -> None:
    app = start("notes", REDIS_URL="redis://127.0.0.1:1")
    assert app.ask("/readyz").status == 503
    assert app.ask("/healthz").status == 200
    (line,) = wait_for(lambda: app.requests(path="/readyz"), "the line")
    assert line["error"].startswith("ConnectionError: ")


def run(root: Path, *words: str, **settings: str) -> str:
    command = [str(root / "bin/shop"), *words]
    done = subprocess.run(command, env=BARE | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_shop_migrates_sells_ships_and_cleans_up(
    start: Start, unpacked: dict[str, Path], tmp_path: Path
) -> None:
    root = unpacked["shop"]
    compiled = sorted(root.rglob("*.pyc"))
    state = {"STATE_DIRECTORY": str(tmp_path)}
    app = start("shop", SHOP_HOSTS="shop.test", **state)
    assert app.ask("/readyz").status == 503, "the tables are not there yet"
    assert "OK" in run(root, "release", **state)
    assert app.ask("/readyz").status == 200
    assert "No migrations to apply" in run(root, "release", **state)
    sell = "from shop.models import Article; print(Article.objects.create(name='A', price=1).pk)"
    article = run(root, "run", "python", "manage.py", "shell", "-v0", "-c", sell, **state).split()[
        -1
    ]
    seen = {"Host": "shop.test", "X-Forwarded-Proto": "https"}
    page = app.ask(headers=seen)
    token = page.headers["Set-Cookie"].partition(";")[0]
    headers = seen | {"Cookie": token, "X-CSRFToken": token.partition("=")[2]}
    headers["Origin"] = "https://shop.test"
    assert app.ask(f"/order/{article}", "POST", headers).status == 302
    assert json.loads(app.ask("/orders", headers=seen).text) == {"orders": 1, "waiting": 1}
    worker = subprocess.Popen(
        [str(root / "bin/shop"), "process", "worker"], env=BARE | state, stderr=subprocess.PIPE
    )
    shipped = {"orders": 1, "waiting": 0}
    wait_for(lambda: json.loads(app.ask("/orders", headers=seen).text) == shipped, "shipped", 60)
    worker.terminate()
    _, told = worker.communicate(timeout=30)
    assert (worker.returncode, told) == (0, b"shipped order 1\n")
    assert run(root, "cron", "cleanup", **state) == "removed 0 orders\n"
    # From Django's own package, by the runtime.
    css = app.ask("/static/admin/css/base.css")
    assert (css.status, css.headers["Cache-Control"]) == (200, "no-cache")
    assert app.ask("/admin/login/", headers=seen).status == 200
    assert app.ask(headers={"Host": "other.test"}).status == 400
    assert app.end() == 0
    assert sorted(root.rglob("*.pyc")) == compiled, "a release never changes"


def test_a_command_that_app_toml_does_not_have_is_refused_with_the_nearest(
    unpacked: dict[str, Path],
) -> None:
    for words, said in (
        (
            ["process", "wroker"],
            "shop: app.toml: processes: there is no wroker; did you mean worker?",
        ),
        (["cron"], "shop: app.toml: cron: there is no name; there are: cleanup"),
        (["run", "nonsense"], "shop: nonsense: No such file or directory"),
    ):
        command = [str(unpacked["shop"] / "bin/shop"), *words]
        done = subprocess.run(command, env=BARE, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (2, f"{said}\n")


def test_a_listener_that_goes_away_frees_its_thread(
    start: Start, redis_server: RedisServer
) -> None:
    """A listener that goes away frees its thread."""
    app = start("notes", REDIS_URL=redis_server.url, SERVING_THREADS="1")
    cookie = {"Cookie": app.ask().headers["Set-Cookie"].partition(";")[0]}
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
    connection.request("GET", "/events", headers=cookie)
    connection.getresponse().readline()
    connection.close()
    # The only thread is free again when the next piece can't be sent.
    assert app.ask("/healthz").status == 200
