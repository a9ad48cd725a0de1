"""Backups of the store: what is lost comes back, what is bad does not, and no count goes down unseen.

The S3-compatible server is moto, a stand-in: it speaks S3 over TLS but judges no credentials.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab_machine import Lab
from outside_world import free_port, s3_python

FOLDER = "/var/backups/store"
LAST = "/var/lib/stack-backup/last.json"


@pytest.fixture(autouse=True)
def leave_no_backup(lab: Lab) -> Iterator[None]:
    """A test begins and ends without any, with the formula's own settings."""
    lab.run(f"rm -rf {FOLDER}/* {LAST}")
    yield
    lab.run(f"rm -rf {FOLDER}/* {LAST} /var/lib/redis/before-restore-*")


@pytest.fixture
def own_settings(lab: Lab) -> Iterator[None]:
    """For a test that applies others."""
    yield
    lab.apply(SLS="backup")


def take(lab: Lab) -> str:
    """A backup; its name."""
    lab.run("systemctl start stack-backup")
    return str(last(lab)["name"])


def last(lab: Lab) -> dict[str, object]:
    found = json.loads(lab.run(f"cat {LAST}"))
    assert isinstance(found, dict)
    return found


def restore(lab: Lab, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
    return lab.make("restore", check=check, **{"YES": "1", **settings})


def started(lab: Lab) -> str:
    return lab.run("systemctl show -P ExecMainStartTimestampMonotonic redis-server")


# As redis: a link stands wherever root could put something into redis' folders.
RACE = """
import contextlib, glob, os
while not os.path.exists("/run/race.stop"):
    for place in ["/var/lib/redis/appendonlydir", *glob.glob("/var/lib/stack/restore.*/redis/appendonlydir")]:
        with contextlib.suppress(OSError):
            os.symlink("/srv/victim", place)
            for _ in range(300):
                os.lstat(place)
            os.unlink(place)
"""


def settings(**given: object) -> str:
    return json.dumps({"backup": given})


# --- back up, wipe, restore -----------------------------------------------------------------------


@pytest.mark.differs("Redis 7.0, age 1.1")
def test_what_a_wiped_store_has_lost_is_restored(lab: Lab) -> None:
    lab.see()
    before = lab.see()
    said = lab.make("backup").stdout
    assert f"count {before}" in said
    assert "read back and verified" in said
    lab.run(
        "systemctl stop redis-server; rm -rf /var/lib/redis/appendonlydir /var/lib/redis/dump.rdb;"
        " systemctl start redis-server"
    )
    lab.wait("all instances serve again", lab.serving)
    assert lab.see() == 1, "it was wiped"

    drill = restore(lab, TEST="1", YES="")
    assert f"loads; count {before}" in drill.stdout
    assert "the running count is 1; nothing was changed" in drill.stdout
    assert lab.count() == 1

    said = restore(lab).stdout
    assert f"restored: count {before}" in said
    assert lab.count() == before
    lab.wait("all instances serve again", lab.serving)
    assert lab.see() == before + 1
    lab.run("systemctl restart redis-server")
    assert lab.count() == before + 1, "it is on the disk as any other count"
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


@pytest.mark.one_release
def test_a_store_without_any_data_and_without_redis_is_restored_too(lab: Lab) -> None:
    before = lab.see()
    take(lab)
    lab.run("systemctl stop redis-server; rm -rf /var/lib/redis/*")
    restore(lab)
    assert lab.count() == before
    lab.wait("all instances serve again", lab.serving)


@pytest.mark.one_release
def test_the_count_never_goes_down_unasked(lab: Lab) -> None:
    name = take(lab)
    had = lab.count()
    lab.see()
    redis = started(lab)
    refused = restore(lab, check=False)
    assert refused.returncode == 3 or "Error 3" in refused.stderr, refused.stderr
    assert f"the backup's count is {had}, the running one {had + 1}" in refused.stdout
    assert (lab.count(), started(lab)) == (had + 1, redis), "nothing has happened"
    assert lab.see() == had + 2, "nor is anybody kept from counting"

    # Redis down with its data there: nobody knows.
    lab.run("systemctl stop redis-server")
    refused = restore(lab, check=False)
    assert "nobody knows whether its count would go down" in refused.stdout
    lab.run("systemctl start redis-server")
    lab.wait("all instances serve again", lab.serving)

    restore(lab, FORCE="1", VERSION=name)
    assert lab.count() == had
    aside = lab.run("ls -d /var/lib/redis/before-restore-*").split()
    assert len(aside) == 1, "what was replaced is kept"
    lab.wait("all instances serve again", lab.serving)


@pytest.mark.one_release
def test_nobody_is_asked_where_there_is_nobody(lab: Lab) -> None:
    take(lab)
    refused = restore(lab, check=False, YES="")
    assert refused.returncode != 0
    assert "pass YES=" in refused.stderr


@pytest.mark.nightly("tests/unit/salt/backup/test_backup.py races the same without a machine")
def test_redis_account_leads_root_nowhere_while_it_restores(lab: Lab) -> None:
    lab.see()
    take(lab)
    lab.run(
        "cat > /run/race.py; rm -f /run/race.stop; mkdir -p /srv/victim; touch /srv/victim/mark",
        data=RACE,
    )
    outside = (
        "find / /usr /opt -xdev -user redis -not -path '/var/lib/redis*' -not -path '/proc/*'"
        " -not -path '/var/lib/stack/restore*'; ls -lan /srv/victim"
    )
    before = lab.run(outside)
    become = "setpriv --reuid=redis --regid=redis --clear-groups"
    try:
        lab.run(f"systemd-run -q --collect --unit=race {become} python3 /run/race.py")
        for _ in range(20):
            lab.run("stack-backup restore --yes --force", check=False)
            assert lab.run(outside) == before
    finally:
        lab.run(
            "touch /run/race.stop; systemctl stop race; rm -rf /srv/victim /run/race.*", check=False
        )
    restore(lab, FORCE="1")
    lab.wait("all instances serve again", lab.serving)


# --- what is bad is not restored ------------------------------------------------------------------


@pytest.mark.one_release
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncate -s -1 {file}", "is damaged"),
        ("printf x | dd of={file} bs=1 seek=200 conv=notrunc status=none", "is damaged"),
        # By somebody who knows of the note beside it: then age sees it.
        (
            'truncate -s -1 {file}; sed -i "s/\\"sha256\\": \\"[0-9a-f]*/\\"sha256\\": \\"$(sha256sum'
            ' {file} | cut -c1-64)/" {note}',
            "cannot be decrypted",
        ),
    ],
)
def test_a_damaged_backup_is_refused_and_an_older_one_can_be_chosen(
    lab: Lab, damage: str, said: str
) -> None:
    older = take(lab)
    time.sleep(1.1)
    lab.see()
    newest = take(lab)
    assert newest != older
    file, note = f"{FOLDER}/{newest}.rdb.age", f"{FOLDER}/{newest}.json"
    lab.run(damage.format(file=file, note=note))
    redis = started(lab)
    refused = restore(lab, check=False)
    assert said in refused.stdout
    assert started(lab) == redis, "Redis was left alone"
    assert "loads; count" in restore(lab, TEST="1", VERSION=older).stdout


@pytest.mark.one_release
def test_a_backup_is_for_its_keys_alone(lab: Lab) -> None:
    name = take(lab)
    said = lab.run(f"cd {FOLDER}; stat -c '%a %U' . {name}.rdb.age; head -c 21 {name}.rdb.age")
    assert said == "700 stack-backup\n600 stack-backup\nage-encryption.org/v1"
    assert lab.run(f"grep -c counter:seen {FOLDER}/{name}.rdb.age", check=False) == "0\n"
    user = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    assert "Permission denied" in lab.run(f"{user} ls {FOLDER} 2>&1", check=False)
    password = "$(cat /etc/stack/secrets/redis-backup)"
    ask = f"REDISCLI_AUTH={password} redis-cli -s /run/redis/redis.sock --user backup"
    for command in ("GET counter:seen", "INCR counter:seen", "FLUSHALL", "CONFIG GET dir"):
        assert "NOPERM" in lab.run(f"{ask} --no-auth-warning {command} 2>&1", check=False)


@pytest.mark.one_release
@pytest.mark.usefixtures("own_settings")
def test_a_machine_that_is_lost_is_restored_by_its_owners_key(lab: Lab, tmp_path: Path) -> None:
    identity = lab.run("age-keygen 2>/dev/null")
    public = lab.run("age-keygen -y", data=identity).strip()
    mine = tmp_path / "mine.key"
    mine.write_text(identity)
    lab.apply(SLS="backup", PILLAR=settings(recipients=[public]))
    take(lab)
    own = "/etc/stack/secrets/backup-identity"
    lab.run(f"mv {own} {own}.away; age-keygen -o {own} 2>/dev/null")
    try:
        refused = restore(lab, check=False, TEST="1")
        assert "cannot be decrypted: age: age: error: no identity matched" in refused.stdout
        assert "loads; count" in restore(lab, TEST="1", IDENTITY=str(mine)).stdout
    finally:
        lab.run(f"mv {own}.away {own}")


# --- on time, and told ----------------------------------------------------------------------------


def test_a_backup_is_due_every_day_in_a_closed_sandbox(lab: Lab) -> None:
    said = lab.run(
        "systemctl show stack-backup.timer -p Persistent,NextElapseUSecRealtime,UnitFileState"
    )
    assert "Persistent=yes" in said
    assert "UnitFileState=enabled" in said
    assert "NextElapseUSecRealtime=\n" not in said
    score = lab.run("systemd-analyze security --no-pager stack-backup.service | tail -1")
    assert float(score.split(": ")[1].split()[0]) <= 2.0, score


def test_backups_are_taken_as_often_as_somebody_asks(lab: Lab) -> None:
    """By default systemd refuses the sixth start within ten seconds."""
    limit = lab.run("systemctl show -P StartLimitIntervalUSec stack-backup").strip()
    assert limit == "0"
    lab.run("for each in 1 2 3 4 5 6 7; do systemctl start stack-backup || exit 1; done")


@pytest.mark.one_release
def test_a_backup_starts_no_redis_that_somebody_has_stopped(lab: Lab) -> None:
    """The nightly one did: what is stopped for work on it came back in the middle of it."""
    lab.run("systemctl stop redis-server")
    try:
        failed = lab.make("backup", check=False)
        assert failed.returncode != 0
        assert "Redis" in failed.stdout
        assert lab.run("systemctl is-active redis-server", check=False) == "inactive\n"
    finally:
        lab.run("systemctl start redis-server")
    lab.wait("all instances serve again", lab.serving)
    take(lab)


@pytest.mark.one_release
@pytest.mark.usefixtures("own_settings")
def test_old_backups_go_but_never_the_last_ones_nor_what_is_not_ours(lab: Lab) -> None:
    lab.apply(SLS="backup", PILLAR=settings(keep_days=30, keep_at_least=2))
    name = take(lab)
    machine = name.rpartition("-")[0]
    now = int(time.time())
    # As many as (days ago): copies of the one, older.
    for number, days in enumerate((50, 40, 31, 29)):
        old = f"{machine}-2020010{number + 1}T000000Z"
        note = json.dumps({**json.loads(lab.run(f"cat {FOLDER}/{name}.json")), "name": old,
                           "time": now - days * 86400})  # fmt: skip
        lab.run(f"cd {FOLDER}; cat > {old}.json; cp -p {name}.rdb.age {old}.rdb.age", data=note)
    lab.run(
        f"cd {FOLDER}; chown stack-backup: *; echo mine > letter.txt; cp {name}.json other.json"
    )
    time.sleep(1.1)
    newest = take(lab)
    young = f"{machine}-20200104T000000Z"
    kept = {f"{one}.{end}" for one in (young, name, newest) for end in ("json", "rdb.age")}
    assert set(lab.run(f"ls {FOLDER}").split()) == {"letter.txt", "other.json", *kept}

    # All are old: the last two stay.
    for one in (young, name, newest):
        lab.run(f'sed -i \'s/"time": [0-9]*/"time": 1/\' {FOLDER}/{one}.json')
    time.sleep(1.1)
    take(lab)
    assert len(lab.run(f"ls {FOLDER}/*.rdb.age").split()) == 2


@pytest.mark.one_release
def test_a_backup_that_fails_is_told_and_the_last_good_one_remembered(lab: Lab) -> None:
    name = take(lab)
    good = last(lab)
    assert good["result"] == "ok"
    assert lab.run(f"stat -c '%a' {LAST}") == "644\n", "for whoever measures"
    lab.run(f"mv {FOLDER} {FOLDER}.away")
    try:
        refused = lab.make("backup", check=False)
        assert refused.returncode != 0
        assert f"failed: {FOLDER}: No such file or directory" in refused.stdout
        now = last(lab)
        assert (now["result"], now["name"], now["time"]) == ("failed", name, good["time"])
        status = lab.make("status", check=False)
        assert status.returncode != 0
        assert f"failed: {FOLDER}" in status.stdout
    finally:
        lab.run(f"mv {FOLDER}.away {FOLDER}")
    lab.make("backup")
    assert last(lab)["result"] == "ok"
    lab.run(f'sed -i \'s/"time": [0-9]*/"time": 1/\' {LAST}')
    assert "last backup " in lab.run("stack-backup health 2>&1", check=False)


# --- an S3-compatible store -----------------------------------------------------------------------


@pytest.fixture
def bucket(lab: Lab, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A bucket on this computer's side of the machines' network: `s3` of the pillar."""
    host = lab.address.rpartition(".")[0] + ".1"
    port = free_port(host)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += ["-nodes", "-days", "2", "-keyout", str(key), "-out", str(cert)]
    words += ["-subj", "/CN=s3.test", "-addext", f"subjectAltName=IP:{host},DNS:{host}"]
    subprocess.run(words, check=True, capture_output=True)
    words = [str(s3_python()), "-m", "moto.server", "-H", host, "-p", str(port)]
    with ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(
                [*words, "-c", str(cert), "-k", str(key)],
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(server.kill)
        url = f"https://{host}:{port}"
        curl = ["curl", "-sS", "--cacert", str(cert), "-o", "/dev/null", "-w", "%{http_code}"]

        def made() -> bool:
            done = subprocess.run(
                [*curl, "-X", "PUT", f"{url}/backups"], capture_output=True, text=True, check=False
            )
            return done.stdout == "200"

        lab.wait("the bucket", made)
        ca = "/etc/stack/s3-test.pem"
        lab.run(f"cat > {ca}", data=cert.read_text())
        for name in ("id", "key"):
            lab.run(f"umask 077; printf test-{name} > /etc/stack/secrets/backup-s3-{name}")
        yield {"endpoint": url, "bucket": "backups", "ca_file": ca, "prefix": "lab/store"}
        lab.run(f"rm -f {ca} /etc/stack/secrets/backup-s3-*")


@pytest.mark.one_release
@pytest.mark.usefixtures("own_settings")
def test_a_wiped_store_comes_back_from_a_bucket(lab: Lab, bucket: dict[str, str]) -> None:
    told = lab.apply(SLS="backup", PILLAR=settings(s3=bucket, keep_at_least=1)).stdout
    assert "test-key" not in told
    before = lab.see()
    first = take(lab)
    time.sleep(1.1)
    name = take(lab)
    listed = lab.run("stack-backup list")
    assert f"2 in s3://backups/lab/store at {bucket['endpoint']}" in listed
    assert first in listed
    assert lab.run(f"ls {FOLDER}") == "", "nothing of it stays here"
    lab.run("systemctl stop redis-server; rm -rf /var/lib/redis/*; systemctl start redis-server")
    assert f"restored: count {before}" in restore(lab, VERSION=name).stdout
    lab.wait("all instances serve again", lab.serving)
    assert lab.see() == before + 1

    # A store that shows another certificate is not the one that was meant. s3cmd tries long.
    lab.run(f"cp /etc/ssl/certs/ca-certificates.crt {bucket['ca_file']}")
    assert name not in lab.run("timeout 5 stack-backup list 2>&1", check=False)


@pytest.mark.one_release
@pytest.mark.usefixtures("own_settings")
def test_a_bucket_without_its_keys_stops_the_apply(lab: Lab) -> None:
    pillar = settings(s3={"endpoint": "https://s3.example.com", "bucket": "backups"})
    refused = lab.apply(check=False, SLS="backup", PILLAR=pillar)
    assert refused.returncode != 0
    assert (
        "pillar secrets:backup-s3-id: is missing, and no machine can make it up" in refused.stdout
    )
