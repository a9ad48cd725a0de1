"""
The peer of an apply: a playbook of as many tasks, of the same kinds, over ssh to the same machine, with what makes
Ansible fast (pipelining, a connection that is kept). Its files are in /run/peer; for the rest it asks for what is there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cost import ROOT, Machine

# In an environment of its own, which `make bench` makes.
PROGRAM = ROOT / ".venv" / "bench" / "bin" / "ansible-playbook"
FOLDER = "/run/peer"
PACKAGES = [
    "collectd-core",
    "curl",
    "debsums",
    "fail2ban",
    "firewalld",
    "haproxy",
    "nftables",
    "openssl",
    "prometheus",
    "prometheus-alertmanager",
    "python3-systemd",
    "redis-server",
    "rsyslog",
    "sudo",
    "unattended-upgrades",
]
SERVICES = [
    "collectd",
    "counter@1",
    "counter@2",
    "fail2ban",
    "firewalld",
    "haproxy",
    "journal-shipper",
    "prometheus",
    "prometheus-alertmanager",
    "redis-server",
    "rsyslog",
    "ssh",
    "systemd-journald",
    "systemd-networkd",
    "systemd-resolved",
]
USERS = ["counter", "haproxy", "prometheus", "redis", "root", "sshd"]
GROUPS = ["adm", "haproxy", "redis"]
TEMPLATE = "# Managed.\n" + "".join(f"key{n} = {{{{ number }}}} {n}\n" for n in range(30))


def tasks() -> list[dict[str, object]]:
    """93 of them: packages, accounts, folders, files from a template, commands, services."""
    found: list[dict[str, object]] = []
    found += [{"apt": {"name": name, "state": "present"}} for name in PACKAGES]
    found += [{"group": {"name": name}} for name in GROUPS]
    found += [{"user": {"name": name}} for name in USERS]
    found += [
        {"file": {"path": f"{FOLDER}/{n}", "state": "directory", "mode": "0750"}} for n in range(12)
    ]
    found += [
        {
            "template": {"src": "file.j2", "dest": f"{FOLDER}/{n % 12}/{n}", "mode": "0640"},
            "vars": {"number": n},
        }
        for n in range(38)
    ]
    found += [{"command": {"cmd": "true"}, "changed_when": False} for _ in range(4)]
    found += [{"systemd_service": {"name": name, "state": "started"}} for name in SERVICES]
    return found


@contextmanager
def applied_to(machine: Machine) -> Iterator[list[str]]:
    """The command that applies it; what it made is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-ansible-") as folder:
        (Path(folder) / "file.j2").write_text(TEMPLATE)
        play = {"hosts": "all", "become": True, "tasks": tasks()}
        (Path(folder) / "site.yaml").write_text(json.dumps([play]))
        (Path(folder) / "hosts").write_text(f"{machine.host}\n")
        (Path(folder) / "ansible.cfg").write_text(
            "[defaults]\nstdout_callback = minimal\ninterpreter_python = auto_silent\n[ssh_connection]\npipelining = true\n"
            f"ssh_args = -F {machine.state / 'ssh_config'} -o ControlMaster=auto -o ControlPersist=60s\n"
        )
        command = ["env", f"ANSIBLE_CONFIG={folder}/ansible.cfg", str(PROGRAM)]
        try:
            yield [*command, "-i", f"{folder}/hosts", f"{folder}/site.yaml"]
        finally:
            machine.run(f"rm -rf {FOLDER}")
