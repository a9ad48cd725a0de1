"""What is kept, what is let go, and when a restore is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

DAY = 86400


@pytest.fixture
def program(load_source: Callable[..., ModuleType]) -> ModuleType:
    return load_source("salt/backup/files/stack-backup")


def note(folder: Path, name: str, days: float, **more: Any) -> None:
    text = {"name": name, "time": int(time.time() - days * DAY), "count": 1, "size": 6}
    text |= {"sha256": "", "plain_sha256": "", **more}
    (folder / f"{name}.json").write_text(json.dumps(text))
    (folder / f"{name}.rdb.age").write_text("cipher")


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    s3 = {"bucket": None}
    return {"name": "dev", "directory": str(folder), "s3": s3, "keep_days": 30, **more}


def stem(day: int) -> str:
    return f"dev-202601{day:02}T000000Z"


@pytest.mark.parametrize(
    ("days", "at_least", "left"),
    [
        ([50, 40, 31, 29, 1], 1, 2),
        ([50, 40, 31, 29, 1], 4, 4),
        ([50, 40, 31], 1, 1),
        ([50, 40], 7, 2),
        ([], 7, 0),
    ],
)
def test_old_backups_go_but_never_the_newest(
    program: Any, tmp_path: Path, days: list[int], at_least: int, left: int
) -> None:
    for number, age in enumerate(days, 1):
        note(tmp_path, stem(number), age)
    note(tmp_path, "other-20260101T000000Z", 400)
    # A machine may be called as another one's name begins.
    note(tmp_path, "dev-store1-20260101T000000Z", 401)
    (tmp_path / "letter.json").write_text("[]")
    given = settings(tmp_path, keep_at_least=at_least)
    place = program.target(given, tmp_path)
    assert len(program.prune(given, place)) == len(days) - left
    kept = [one["name"] for one in program.backups(place)]
    newest = [stem(number) for number in range(len(days) - left + 1, len(days) + 1)]
    others = ["dev-store1-20260101T000000Z", "other-20260101T000000Z"]
    assert kept == [*others, *newest], "another machine's are not ours to remove"
    assert (tmp_path / "letter.json").exists()
    assert len(list(tmp_path.glob("*.rdb.age"))) == left + 2


def test_what_has_no_note_or_another_name_is_no_backup(program: Any, tmp_path: Path) -> None:
    note(tmp_path, stem(1), 2)
    note(tmp_path, stem(2), 1)
    (tmp_path / f"{stem(2)}.json").unlink()
    note(tmp_path, stem(4), 0, time="soon")
    note(tmp_path, stem(5), 0, size=None)
    (tmp_path / f"{stem(3)}.json").write_text((tmp_path / f"{stem(1)}.json").read_text())
    given = settings(tmp_path)
    place = program.target(given, tmp_path)
    assert [one["name"] for one in program.backups(place)] == [stem(1)]
    assert program.choose(given, place, None)["name"] == stem(1)
    for wanted in (stem(2), "../../etc/passwd"):
        with pytest.raises(program.Refused, match="no backup"):
            program.choose(given, place, wanted)


def test_by_itself_a_machine_restores_only_what_was_its_own(program: Any, tmp_path: Path) -> None:
    given = settings(tmp_path)
    place = program.target(given, tmp_path)
    note(tmp_path, "dev-store1-20260102T000000Z", 1)
    with pytest.raises(program.Refused, match="is of dev: VERSION=.*names another's"):
        program.choose(given, place, None)
    note(tmp_path, stem(1), 9)
    assert program.choose(given, place, None)["name"] == stem(1)
    other = "dev-store1-20260102T000000Z"
    assert program.choose(given, place, other)["name"] == other


@pytest.mark.parametrize(
    ("has", "runs", "refused"),
    [
        (10, 9, ""),
        (10, 10, ""),
        (0, 0, ""),
        (9, 10, "the backup's count is 9, the running one 10"),
        (None, 0, "the backup's count is None"),
        (10, None, "nobody knows"),
    ],
)
def test_the_count_never_goes_down_unasked(
    program: Any, has: int | None, runs: int | None, refused: str
) -> None:
    program.judge(has, runs, force=True)
    if not refused:
        program.judge(has, runs, force=False)
        return
    with pytest.raises(program.Refused, match=refused):
        program.judge(has, runs, force=False)


def test_the_last_good_one_is_remembered_through_failures(program: Any, tmp_path: Path) -> None:
    program.STATE = tmp_path
    program.CONFIG = tmp_path / "config"
    program.CONFIG.touch()
    given = {"max_age_hours": 26}
    program.health(given)
    program.report(time=program.now(), size=1, count=5, name=stem(1), seconds=0.1, result="ok")
    program.health(given)
    program.report(result="failed", error="no space")
    found = program.last()
    assert (found["name"], found["count"], found["result"]) == (stem(1), 5, "failed")
    with pytest.raises(program.Failed, match="no space"):
        program.health(given)
    program.report(time=program.now() - 27 * 3600, result="ok")
    with pytest.raises(program.Failed, match="last backup 27 h ago"):
        program.health(given)
    assert (tmp_path / "last.json").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="a restore is root's")
@pytest.mark.parametrize(
    ("made_by", "said"), [("99.0.1", "Redis 99.0.1"), ("9; rm", "an unknown Redis")]
)
def test_a_backup_of_a_newer_redis_is_refused_with_its_reason_and_both_versions(
    program: Any,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    made_by: str,
    said: str,
) -> None:
    """As Redis 7 has it with a snapshot of Redis 8: before Redis is stopped, or asked anything."""
    key = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    public = subprocess.run(
        ["age-keygen", "-y"], input=key, capture_output=True, text=True, check=True
    )
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    kept.mkdir()
    # The header of a format that no Redis knows yet, then its end.
    plain.write_bytes(b"REDIS9999\xff" + bytes(8))
    file = kept / f"{stem(1)}.rdb.age"
    subprocess.run(["age", "-r", public.stdout.strip(), "-o", file, plain], check=True)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, plain)]
    text = {"name": stem(1), "time": int(time.time()), "count": 7, "size": file.stat().st_size}
    text |= {"sha256": hashes[0], "plain_sha256": hashes[1], "redis": made_by}
    (kept / f"{stem(1)}.json").write_text(json.dumps(text))
    # Redis' own user must get there, and the name of a socket has 107 bytes at most.
    scratch.chmod(0o755)
    monkeypatch.setattr(program, "SCRATCH", scratch)
    monkeypatch.setattr(program, "own_identity", lambda: key)
    monkeypatch.setattr(program, "admin", lambda *words: pytest.fail("the real Redis was asked"))
    options = SimpleNamespace(identity=False, name=None, drill=False, force=True, yes=True)
    own = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    version = own.stdout.split("v=")[1].split()[0]
    with pytest.raises(program.Refused) as no:
        program.restore({**settings(kept), "count_key": "counter:seen"}, options)
    line = str(no.value)
    assert f"was made by {said}, this machine has Redis {version}: " in line
    assert "Can't handle RDB format version 9999" in line
    assert "\n" not in line
    assert list(scratch.iterdir()) == []


def test_the_reason_is_redis_own_and_no_advice_about_its_host(program: Any) -> None:
    log = (
        "7:C 28 Nov 2026 00:16:23.840 # Configuration loaded\n"
        "7:M 28 Nov 2026 00:16:23.841 # WARNING Memory overcommit must be enabled! See # this.\n"
        "7:M 28 Nov 2026 00:16:23.841 * Running mode=standalone, port=0.\n"
        "7:M 28 Nov 2026 00:16:23.847 # Can't handle RDB format version 12\n"
        "7:M 28 Nov 2026 00:16:23.847 # Fatal error loading the DB: Invalid argument. Exiting.\n"
    )
    assert program.reason(log) == (
        "Can't handle RDB format version 12; Fatal error loading the DB: Invalid argument. Exiting."
    )
    assert program.reason("killed\n") == "killed"
    assert program.reason("") == ""
