"""Whether Redis can count, asked by the formula's own program of a real Redis."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
HEALTH = ROOT / "salt/redis/files/redis-health"
KEY = "counter:seen"

pytestmark = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="no redis-server on this computer: `make tests-need`"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A Redis' folder, and `redis-admin` of that Redis in the PATH below it."""
    data = tmp_path / "data"
    data.mkdir()
    socket = tmp_path / "redis.sock"
    admin = tmp_path / "redis-admin"
    admin.write_text(f'#!/bin/sh\nexec redis-cli -s {socket} "$@"\n', encoding="utf-8")
    admin.chmod(0o755)
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(data)]
    process = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while run([str(admin), "PING"], data).stdout != "PONG\n":
            assert time.monotonic() < deadline
        yield data
    finally:
        process.kill()
        process.wait()


def run(words: list[str], data: Path) -> subprocess.CompletedProcess[str]:
    path = f"{data.parent}:{os.environ['PATH']}"
    return subprocess.run(
        words,
        env={"PATH": path, "REDIS_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("CONFIG SET maxmemory 1", "OOM"),
        ("CONFIG SET min-replicas-to-write 1", "NOREPLICAS"),
        ("REPLICAOF 127.0.0.1 1", "READONLY"),
        ("CONFIG SET requirepass x", "NOAUTH"),
    ],
)
def test_a_redis_that_answers_and_would_not_count_is_unhealthy_and_says_why(
    folder: Path, command: str, words: str
) -> None:
    assert run(["redis-admin", "INCR", KEY], folder).stdout == "1\n"
    done = run(["sh", str(HEALTH), KEY], folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert run(["redis-admin", *command.split()], folder).stdout == "OK\n"
    done = run(["sh", str(HEALTH), KEY], folder)
    assert done.returncode == 1
    assert done.stdout.startswith(words)
    assert done.stdout.count("\n") == 1


def left(folder: Path) -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_size) for path in folder.iterdir()]


def test_asking_whether_redis_can_count_counts_nothing_and_takes_no_room(folder: Path) -> None:
    assert run(["redis-admin", "INCR", KEY], folder).stdout == "1\n"
    for words in ([KEY], ["--room"]):
        assert run(["sh", str(HEALTH), *words], folder).returncode == 0
    assert run(["redis-admin", "GET", KEY], folder).stdout == "1\n"
    assert left(folder) == [(".room", 0)]


def test_redis_does_not_start_where_its_file_cannot_grow(folder: Path) -> None:
    """A limit on files stands for a full disk: the same error of write(2)."""
    limited = f"trap '' XFSZ; ulimit -f 16; exec sh {HEALTH} --room"
    done = run(["bash", "-c", limited], folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"can't write to {folder}: File too large: make room")
    assert done.stderr.count("\n") == 1
    assert left(folder) == [(".room", 0)]
    unit = (ROOT / "salt/redis/files/unit.conf").read_text(encoding="utf-8")
    assert "redis-health --room\n" in unit.split("ExecStartPre=")[1]


def test_the_application_may_try_its_writes_on_a_key_beside_the_count() -> None:
    defaults = yaml.safe_load((ROOT / "salt/redis/defaults.yaml").read_text(encoding="utf-8"))
    store = (ROOT / "webapp/src/counter/store.py").read_text(encoding="utf-8")
    assert 'pack("INCR", f"{settings.key}:probe")' in store
    assert f"{defaults['count_key']}:probe" in defaults["users"]["counter"]["keys"]
