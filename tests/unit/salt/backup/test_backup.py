"""What is kept, what is let go, and when a restore is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

DAY = 86400
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a restore is root's")


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


@needs_root
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
    # No systemd here: the account is the real one, the sandbox is a machine's.
    sandbox = tmp_path / "redis-sandbox"
    become = "exec setpriv --reuid=redis --regid=redis --clear-groups redis-server"
    sandbox.write_text(f'#!/bin/sh\nshift\n{become} "$@"\n')
    sandbox.chmod(0o755)
    monkeypatch.setattr(program, "SANDBOX", sandbox)
    monkeypatch.setattr(program, "own_identity", lambda: key)
    monkeypatch.setattr(program, "admin", lambda *words: pytest.fail("the real Redis was asked"))
    options = SimpleNamespace(
        identity=False, folder=None, name=None, drill=False, force=True, yes=True
    )
    own = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    version = own.stdout.split("v=")[1].split()[0]
    with pytest.raises(program.Refused) as no:
        program.restore({**settings(kept), "count_key": "counter:seen"}, options)
    line = str(no.value)
    assert f"was made by {said}, this machine has Redis {version}: " in line
    assert "Can't handle RDB format version 9999" in line
    assert "\n" not in line
    assert list(scratch.iterdir()) == []


def test_a_restore_in_two_halves_ends_with_what_redis_reads_and_says_what_is_in_it(
    program: Any, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a host that runs containers does it: each half in a container of its own."""
    words = ["--port", "0", "--dir", str(scratch), "--save", "", "--unixsocket", f"{scratch}/made"]
    server = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
    ask = ["redis-cli", "-s", f"{scratch}/made"]
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([*ask, "SET", "counter:seen", "41"], capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        subprocess.run([*ask, "SAVE"], check=True, capture_output=True)
    finally:
        server.terminate()
        server.wait()
    key = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    public = subprocess.run(
        ["age-keygen", "-y"], input=key, capture_output=True, text=True, check=True
    )
    kept, there, plain = tmp_path / "kept", scratch / "there", scratch / "dump.rdb"
    kept.mkdir()
    there.mkdir()
    file = kept / f"{stem(1)}.rdb.age"
    subprocess.run(["age", "-r", public.stdout.strip(), "-o", file, plain], check=True)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, plain)]
    text = {"name": stem(1), "time": int(time.time()), "count": 41, "size": file.stat().st_size}
    text |= {"sha256": hashes[0], "plain_sha256": hashes[1], "redis": "8.0.2"}
    (kept / f"{stem(1)}.json").write_text(json.dumps(text))
    monkeypatch.setattr(program, "STATE", tmp_path)
    monkeypatch.setattr(program, "own_identity", lambda: key)
    given = {**settings(kept), "count_key": "counter:seen"}
    program.fetch_into(given, there, SimpleNamespace(identity=False, name=None))
    assert (there / "dump.rdb").read_bytes() == plain.read_bytes()
    program.load_there(given, there)
    assert json.loads((there / "inside.json").read_text()) == {"count": 41, "keys": 1}
    assert list((there / "appendonlydir").glob("*.manifest"))
    file.write_bytes(b"x")
    with pytest.raises(program.Refused, match="is damaged"):
        program.fetch_into(given, there, SimpleNamespace(identity=False, name=None))


# --- folders of others ----------------------------------------------------------------------------

# As redis: whatever root could put something into, or change, becomes a link to another place.
RACE = """
import contextlib, glob, os, sys
victim, redis, base = sys.argv[1:]
print("ready", flush=True)
while True:
    for place in (f"{redis}/appendonlydir", f"{base}/appendonlydir"):
        with contextlib.suppress(OSError):
            os.symlink(victim, place)
            for _ in range(100):
                os.lstat(place)
            os.unlink(place)
    for place in glob.glob(f"{redis}/restored-*"):
        with contextlib.suppress(OSError):
            os.rename(place, f"{place}.x")
            os.symlink(victim, place)
            os.unlink(place)
            os.rename(f"{place}.x", place)
"""


@pytest.fixture
def store(
    program: Any, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """Folders as a restore has them: Redis' own, the one in which a snapshot was loaded, one of root's."""
    scratch.chmod(0o755)
    place = SimpleNamespace(
        redis=scratch / "redis", base=scratch / "base", victim=scratch / "victim"
    )
    for folder in (place.redis, place.base, place.victim):
        folder.mkdir(mode=0o755)
    for folder in (place.redis, place.base):
        shutil.chown(folder, "redis", "redis")
    (place.victim / "mark").touch()
    commands = tmp_path / "bin"
    commands.mkdir()
    place.systemctl = commands / "systemctl"
    place.systemctl.write_text("#!/bin/sh\n")
    place.systemctl.chmod(0o755)
    place.admin = lambda *words: "1"
    monkeypatch.setitem(program.CLEAN, "PATH", f"{commands}:{program.CLEAN['PATH']}")
    monkeypatch.setattr(program, "REDIS", place.redis)
    monkeypatch.setattr(program, "admin", lambda *words: place.admin(*words))
    return place


def fill(place: SimpleNamespace) -> None:
    """What the Redis that loaded the snapshot has written, and the data before where there are none."""
    for folder, text in ((place.base, "new"), (place.redis, "before")):
        words = f"cd {folder} && mkdir appendonlydir && echo {text} > appendonlydir/aof"
        as_redis(words, check=False)


def as_redis(command: str, check: bool = True) -> None:
    become = ["setpriv", "--reuid=redis", "--regid=redis", "--clear-groups", "sh", "-c", command]
    subprocess.run(become, check=check, stderr=subprocess.DEVNULL)


def swap(program: Any, place: SimpleNamespace) -> None:
    program.swap({"count_key": "counter:seen"}, place.base, {"count": 1}, force=True)


@needs_root
def test_root_follows_no_link_that_redis_puts_in_the_way_of_a_restore(
    program: Any, store: SimpleNamespace
) -> None:
    """Moving data into redis' folder as root, and the chown after it, made redis root by one link."""
    before = state_of(store.victim)
    words = ["setpriv", "--reuid=redis", "--regid=redis", "--clear-groups", "/usr/bin/python3"]
    places = [str(store.victim), str(store.redis), str(store.base)]
    with subprocess.Popen([*words, "-c", RACE, *places], stdout=subprocess.PIPE) as race:
        try:
            assert race.stdout
            assert race.stdout.readline() == b"ready\n"
            for _ in range(20):
                fill(store)
                with contextlib.suppress(program.Failed, OSError):
                    swap(program, store)
                assert state_of(store.victim) == before
        finally:
            race.kill()
    as_redis(f"rm -rf {store.base}/* {store.redis}/*")
    fill(store)
    swap(program, store)
    assert (store.redis / "appendonlydir/aof").read_text() == "new\n", "and it works afterwards"


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    paths = sorted([folder, *folder.iterdir()])
    return [(path.name, path.stat().st_uid, path.stat().st_mode) for path in paths]


@needs_root
def test_a_restore_leaves_the_data_before_and_redis_owns_all(
    program: Any, store: SimpleNamespace
) -> None:
    fill(store)
    as_redis(f"mkdir {store.redis}/before-restore-1 {store.redis}/restored-x")
    swap(program, store)
    names = sorted(path.name for path in store.redis.iterdir())
    assert names[0] == "appendonlydir"
    assert [name[:15] for name in names[1:]] == ["before-restore-"]
    assert "before-restore-1" not in names
    assert (store.redis / names[1] / "aof").read_text() == "before\n"
    owners = {path.owner() for path in [store.redis, *store.redis.rglob("*")]}
    assert owners == {"redis"}
    assert store.redis.stat().st_mode & 0o777 == 0o750


@needs_root
def test_the_first_error_of_a_restore_is_told_with_what_came_of_it(
    program: Any, store: SimpleNamespace
) -> None:
    """Not the second, of putting the data before back."""
    fill(store)
    store.systemctl.write_text('#!/bin/sh\n[ "$1" = stop ] || { echo "no $1" >&2; exit 1; }\n')
    with pytest.raises(program.Failed) as no:
        swap(program, store)
    line = str(no.value)
    assert line.startswith(
        "systemctl: no reset-failed; and THE DATA BEFORE ARE NOT IN USE AGAIN (see "
    )
    assert line.endswith("systemctl: no start")
    assert (store.redis / "appendonlydir/aof").read_text() == "before\n"
    # A count that is not the backup's.
    store.systemctl.write_text("#!/bin/sh\n")
    store.admin = lambda *words: "0"
    fill(store)
    with pytest.raises(program.Failed, match="the count is 0, not 1; the data before are back"):
        swap(program, store)
    assert (store.redis / "appendonlydir/aof").read_text() == "before\n"


def test_the_first_error_of_a_backup_is_told_where_its_note_cannot_be_written_either(
    program: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As on a full disk."""

    def take(settings: Any) -> None:
        raise program.Failed("age: no space left")

    def put_whole(*words: Any) -> None:
        raise OSError("nor for a note")

    monkeypatch.setattr(program, "STATE", tmp_path)
    monkeypatch.setattr(program, "load", lambda path: {})
    monkeypatch.setattr(program, "take", take)
    monkeypatch.setattr(program, "put_whole", put_whole)
    monkeypatch.setattr(program.os, "geteuid", lambda: 999)
    monkeypatch.setattr("sys.argv", ["stack-backup", "take"])
    assert program.main() == 1
    assert capsys.readouterr().err == "nor for a note\nfailed: age: no space left\n"


def test_the_lock_of_backups_is_where_nobody_else_enters(program: Any, tmp_path: Path) -> None:
    program.STATE = tmp_path / "state"
    program.STATE.mkdir(mode=0o755)
    with program.alone():
        assert program.STATE.stat().st_mode & 0o777 == 0o700
        with pytest.raises(program.Refused, match="another backup or restore is running"):
            with program.alone():
                pytest.fail("two at once")


def test_what_another_account_puts_among_the_backups_stops_and_reaches_nothing(
    program: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link, a pipe, a note that no program could read: root lists and restores all the same."""
    folder, elsewhere = tmp_path / "kept", tmp_path / "elsewhere"
    folder.mkdir()
    note(folder, stem(1), 1)
    elsewhere.write_text((folder / f"{stem(1)}.json").read_text().replace(stem(1), stem(2)))
    (folder / f"{stem(2)}.json").symlink_to(elsewhere)
    os.mkfifo(folder / f"{stem(3)}.json")
    note(folder, stem(4), -1e12)
    (folder / f"{stem(5)}.json").write_text("[" * 100_000)
    (folder / "\x1b]0;owned\x07.json").write_text("{}")
    (folder / f"{stem(1)}.rdb.age").unlink()
    (folder / f"{stem(1)}.rdb.age").symlink_to(elsewhere)
    place = program.target(settings(folder), tmp_path)
    assert [one["name"] for one in program.backups(place)] == [stem(1)]
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 5
    assert "\x1b" not in said
    with pytest.raises(program.Failed):
        place.get(f"{stem(1)}.rdb.age", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


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


@pytest.mark.parametrize(
    ("said", "elsewhere"),
    [
        ('["master",5,[["10.0.0.2","6380","5"]]]', True),
        ('["master",5,[]]', False),
        ('["slave","10.0.0.2",6380,"connected",5]', False),
    ],
)
def test_the_replicas_of_a_master_take_the_backups(
    program: Any, monkeypatch: pytest.MonkeyPatch, said: str, elsewhere: bool
) -> None:
    monkeypatch.setattr(program, "run", lambda *_, **__: f"{said}\n")
    assert program.is_elsewhere("password") is elsewhere


@pytest.mark.parametrize(
    "said", ['error:"LOADING Redis is loading the dataset in memory"', 'error:"NOPERM"', ""]
)
def test_a_redis_that_does_not_say_its_role_is_one_line(
    program: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """redis-cli ends with 0 then, and prints no JSON."""
    monkeypatch.setattr(program, "run", lambda *_, **__: f"{said}\n")
    with pytest.raises(program.Failed, match="does not say its role") as caught:
        program.is_elsewhere("password")
    assert said in str(caught.value)


# --- folders of other formulas --------------------------------------------------------------------


def test_a_machine_without_folders_collects_none(
    program: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a host of containers there is no folder of copies at all: no backup could be taken there."""
    monkeypatch.setattr(program, "COLLECTED", tmp_path / "backup-folders")
    assert program.collected({"folders": {}}) == []
    assert program.take_folders({"folders": {}}, None, tmp_path, "name", []) == ({}, [])
    with pytest.raises(FileNotFoundError):
        program.collected({"folders": {"shop": {}}})


@pytest.fixture
def folders(program: Any) -> Iterator[SimpleNamespace]:
    """A folder of another account's, and what is collected of it; below a path that every account may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        folder = base / "shop"
        folder.mkdir()
        program.COLLECTED = base / "collected"
        shutil.chown(folder, "nobody", "nogroup")
        given = {"folder": str(folder), "user": "nobody", "units": []}
        yield SimpleNamespace(
            base=base, folder=folder, settings={"name": "dev", "folders": {"shop": given}}
        )


@pytest.fixture
def someone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of stack-backup, which this computer has not."""
    import pwd

    found = pwd.getpwnam

    def known(name: str) -> Any:
        return found("root" if name == "stack-backup" else name)

    monkeypatch.setattr(pwd, "getpwnam", known)


def unpacked(folders: SimpleNamespace) -> Path:
    target = folders.base / "unpacked"
    target.mkdir()
    subprocess.run(["tar", "-xf", folders.base / "collected/shop.tar", "-C", target], check=True)
    return Path(target)


@needs_root
def test_a_database_in_use_is_saved_whole_with_what_is_in_its_log(
    program: Any, folders: SimpleNamespace, someone: None
) -> None:
    """Its file alone, copied, lacks what stands in the write-ahead log, or has half a transaction."""
    path = folders.folder / "shop.sqlite3"
    writer = program.sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.execute("CREATE TABLE orders (n INTEGER)")
    writer.executemany("INSERT INTO orders VALUES (?)", [(n,) for n in range(1000)])
    # What is not committed is not there.
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO orders VALUES (1000)")
    (folders.folder / "upload").write_bytes(b"text")
    (folders.folder / "notes-wal").write_bytes(b"no database's")
    (folders.folder / "notes").write_bytes(b"text")
    for file in folders.folder.iterdir():
        shutil.chown(file, "nobody", "nogroup")
    program.collect(folders.settings)
    found = unpacked(folders)
    assert sorted(file.name for file in found.iterdir()) == [
        "notes",
        "notes-wal",
        "shop.sqlite3",
        "upload",
    ]
    reader = program.sqlite3.connect(found / "shop.sqlite3")
    assert reader.execute("SELECT count(*), max(n) FROM orders").fetchone() == (1000, 999)
    writer.execute("COMMIT")
    assert (found / "upload").read_bytes() == b"text"


@needs_root
def test_a_folder_leads_root_nowhere(program: Any, folders: SimpleNamespace, someone: None) -> None:
    secret = folders.base / "secret"
    secret.write_text("root's own")
    secret.chmod(0o600)
    (folders.folder / "link").symlink_to(secret)
    (folders.folder / "away").symlink_to("/etc")
    os.mkfifo(folders.folder / "pipe")
    program.collect(folders.settings)
    found = unpacked(folders)
    assert sorted(file.name for file in found.iterdir()) == ["away", "link"]
    assert os.readlink(found / "link") == str(secret)
    # What its owner cannot read is said, and nothing else of the backup is lost for it.
    (folders.folder / "closed").write_text("root's own")
    (folders.folder / "closed").chmod(0o600)
    program.collect(folders.settings)
    collected = folders.base / "collected"
    assert [file.name for file in collected.iterdir()] == ["shop.error"]
    assert "closed" in (collected / "shop.error").read_text()


@needs_root
def test_a_damaged_database_is_told_of_and_not_taken_for_a_backup(
    program: Any, folders: SimpleNamespace, someone: None
) -> None:
    (folders.folder / "shop.sqlite3").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    shutil.chown(folders.folder / "shop.sqlite3", "nobody", "nogroup")
    program.collect(folders.settings)
    said = (folders.base / "collected/shop.error").read_text()
    assert "DatabaseError" in said and len(said.splitlines()) == 1


@needs_root
def test_a_file_that_claims_any_size_fills_no_disk(
    program: Any, folders: SimpleNamespace, someone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of holes costs its owner nothing, and its copy all that there is."""
    with open(folders.folder / "holes", "wb") as file:
        file.truncate(1 << 42)
    shutil.chown(folders.folder / "holes", "nobody", "nogroup")
    little = SimpleNamespace(f_bavail=4000, f_frsize=4096)
    monkeypatch.setattr(program.os, "statvfs", lambda _: little)
    program.collect(folders.settings)
    assert "File too large" in (folders.base / "collected/shop.error").read_text()


@needs_root
@pytest.mark.parametrize("starts", [True, False])
def test_a_folder_comes_back_and_the_one_before_does_where_its_units_do_not_start(
    program: Any, folders: SimpleNamespace, someone: None, starts: bool, monkeypatch: Any
) -> None:
    (folders.folder / "was").write_text("then")
    shutil.chown(folders.folder / "was", "nobody", "nogroup")
    program.collect(folders.settings)
    plain = folders.base / "collected/shop.tar"
    said = {"size": 1, "sha256": program.digest(plain), "plain_sha256": program.digest(plain)}
    (folders.folder / "was").unlink()
    (folders.folder / "is").write_text("now")
    done = []

    def run(words: list[str], **_: Any) -> str:
        done.append(" ".join(words[1:]))
        if words[1] == "start" and not starts and len(done) == 2:
            raise program.Failed("systemctl: Job for shop@1.service failed")
        return ""

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(program, "decrypt", lambda source, target, _: shutil.copy(source, target))
    monkeypatch.setattr(program, "active", lambda patterns: ["shop-tidy.timer", "shop@1.service"])
    place = SimpleNamespace(get=lambda name, target: shutil.copy(plain, target))
    backup = {"name": stem(1), "time": 0, "folders": {"shop": said}}
    options = SimpleNamespace(folder="shop", drill=False, yes=True)
    words = (folders.settings, options, place, folders.base, backup, "")
    for wrong, why in (("other", "there is shop"), ("shop", "has no folder shop")):
        options.folder = wrong
        with pytest.raises(program.Refused, match=why):
            program.restore_folder(*words[:4], {**backup, "folders": {}}, "")
    if starts:
        program.restore_folder(*words)
    else:
        with pytest.raises(
            program.Failed, match="shop@1.service failed; the folder before is back"
        ):
            program.restore_folder(*words)
    assert [file.name for file in folders.folder.iterdir()] == ["was" if starts else "is"]
    assert folders.folder.owner() == "nobody"
    assert done[:2] == [
        "stop shop-tidy.timer shop@1.service",
        "start shop@1.service shop-tidy.timer",
    ]
    left = [path.name for path in folders.base.glob(".*-shop-*")]
    assert len(left) == starts


def test_what_a_note_says_of_folders_is_believed_only_as_folders(program: Any) -> None:
    good = {"size": 1, "sha256": "a", "plain_sha256": "b"}
    assert program.noted_folders({"folders": {"shop": good}}) == {"shop": good}
    for bad in (None, [], {"../x": good}, {"shop": {**good, "size": "1"}}, {"shop": None}):
        assert program.noted_folders({"folders": bad}) == {}
