"""
haproxy, redis, fail2ban and firewalld as somebody else's: each copied alone, with the shared modules that salt/README.md
names for it, into an empty tree, and applied to a bare machine by plain salt-call.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator

import networks
import pace
import pytest
from bare_machine import BOOT, control
from lab_machine import PATIENCE, ROOT, mark_as_made

from docs.generate import modules

TOPOLOGY = networks.named("lifted")
# What a tree has of its own beside the formula: a directory `site`, which is no formula of this project.
SITE = {
    "haproxy": {
        "backend.yaml.j2": "site: {servers: {here: '127.0.0.1:8080'}, health: /}\n",
    },
    "redis": {},
    "fail2ban": {
        "jail.yaml.j2": "site-logins:\n  journal: ['SYSLOG_IDENTIFIER=site']\n  ports: [8080]\n"
        "  maxretry: 1\n  findtime: 1m\n  bantime: 10m\n",
        "files/fail2ban/site-logins.conf": "[Definition]\nfailregex = ^\\s*\\S+ site(?:\\[\\d+\\])?: refused <ADDR>$\n"
        "journalmatch =\n",
    },
    "firewalld": {
        "firewall.yaml.j2": "- {port: 22, protocol: tcp, from: any, always_open: true}\n",
    },
}


def tree_of(formula: str) -> dict[str, bytes]:
    """`{path: content}` of the tree of somebody who took ``formula``."""
    folder = ROOT / "salt"
    taken = [*(folder / formula).rglob("*"), *(folder / "_schemas").rglob("*")]
    for module in modules.needs(formula):
        taken += modules.sources()[module]
    tree = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in taken
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = {"init.sls": "site is there:\n  test.nop: []\n", **SITE[formula]}
    tree |= {f"site/{name}": text.encode() for name, text in own.items()}
    tree["top.sls"] = f"base:\n  '*': [site, {formula}]\n".encode()
    return tree


class Bare:
    """A machine with Debian, ssh and Salt, and nothing of this project."""

    config = str(ROOT / ".lab" / TOPOLOGY / "ssh_config")

    def run(self, command: str, data: bytes = b"", check: bool = True, anew: bool = False) -> str:
        """Output of a command as root; ``anew``: over a connection of its own, not the one that is kept open."""
        own = ["-o", "ControlPath=none"] if anew else []
        done = subprocess.run(
            ["ssh", "-F", self.config, *own, TOPOLOGY, f"sudo sh -c '{command}'"],
            input=data, capture_output=True, timeout=600, check=False,
        )  # fmt: skip
        said = (done.stdout + done.stderr).decode()
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{said}"
        return said

    def take(self, formula: str) -> None:
        """Put the tree of ``formula`` on the machine, with a minion's configuration that says where it is."""
        place = f"/root/lifted/{formula}"
        files = {f"salt/{path}": data for path, data in tree_of(formula).items()}
        files["minion"] = (
            f"file_client: local\nid: site.example.org\nfile_roots: {{base: [{place}/salt]}}\n"
            f"pillar_roots: {{base: [{place}/pillar]}}\ncachedir: {place}/cache\n"
        ).encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                # By it Salt knows that a file is another one.
                entry.mtime = int(time.time())
                # Checks and commands are executable in the checkout, and in git.
                source = ROOT / name
                entry.size, entry.mode = (
                    len(data),
                    source.stat().st_mode if source.exists() else 0o644,
                )
                tar.addfile(entry, io.BytesIO(data))
        self.run(f"mkdir -p {place} && tar -x -C {place}", archive.getvalue())

    def apply(self, formula: str) -> str:
        return self.run(
            f"cd / && salt-call -c /root/lifted/{formula} --retcode-passthrough state.apply"
        )

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not condition():
            assert not pace.is_over(began, PATIENCE), f"{what}: not within {PATIENCE} s"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    machine = {"address": networks.address("lifted"), "memory": 1024, "cpus": 2}
    written = networks.write(
        TOPOLOGY, {TOPOLOGY: {**machine, "roles": ["edge", "app", "store", "monitor"]}}
    )
    mark_as_made(ROOT / ".lab" / TOPOLOGY)
    try:
        control(TOPOLOGY, "-c", BOOT.format(topology=TOPOLOGY))
        yield Bare()
    finally:
        control(TOPOLOGY, "-m", "control", "down")
        written.unlink()


def haproxy_answers(bare: Bare) -> None:
    bare.run("mkdir -p /srv/site && echo lifted >/srv/site/index.html")
    bare.run("systemd-run --unit site python3 -m http.server -b 127.0.0.1 -d /srv/site 8080")
    ask = "curl -sS --cacert /etc/stack/pki/ca.pem https://localhost/"
    bare.wait("the site through the edge", lambda: bare.run(ask, check=False) == "lifted\n")
    assert "308" in bare.run("curl -sI http://localhost/")


def redis_answers(bare: Bare) -> None:
    assert bare.run("redis-admin INCR lifted").strip() == "1"
    # A user of its own that may do what it needs, and no default one.
    assert "NOAUTH" in bare.run("redis-cli INCR lifted")


def fail2ban_answers(bare: Bare) -> None:
    bare.run("logger -t site refused 192.0.2.9")
    listed = "nft list ruleset"
    bare.wait("the ban", lambda: "192.0.2.9" in bare.run(listed))


def firewalld_answers(bare: Bare) -> None:
    # Over a new connection, or it takes itself back.
    bare.run("firewall-confirm", anew=True)
    assert bare.run("firewall-cmd --zone=stack --list-ports").split() == ["22/tcp"]
    # The edge of before is closed to others.
    outside = subprocess.run(
        ["curl", "-sk", "-m", "5", f"https://{networks.address('lifted')}/"],
        capture_output=True,
        check=False,
    )
    assert outside.returncode == 7


ANSWERS = {
    "haproxy": haproxy_answers,
    "redis": redis_answers,
    "fail2ban": fail2ban_answers,
    "firewalld": firewalld_answers,
}


@pytest.fixture(autouse=True)
def leave_it_well() -> None:
    """There is no stack here (conftest.py)."""


@pytest.mark.parametrize("formula", ANSWERS)
def test_a_formula_works_in_somebody_elses_tree(bare: Bare, formula: str) -> None:
    bare.take(formula)
    bare.apply(formula)
    ANSWERS[formula](bare)
    again = bare.apply(formula)
    assert "changed=" not in again, again
