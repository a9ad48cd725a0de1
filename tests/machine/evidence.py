"""What is kept of a machine when a test on it fails: .test-logs/TEST/, named in the output."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

from lab_machine import ROOT, Lab

FOLDER = ROOT / ".test-logs" / "failures"
# File -> command on the machine, as root.
ASKED = {
    "journal": "journalctl -q --no-pager -o short-precise --since '-15min' | tail -n 5000",
    "failed-units": "systemctl list-units --failed --no-pager; systemctl list-jobs --no-pager",
    "haproxy": "curl -s 'http://127.0.0.1:8405/;csv' | cut -d, -f1,2,18,19,37,56,57",
    "last-apply": "cat /var/lib/stack/last-apply.json; ls -l /var/lib/stack /var/log/stack",
    "deploys": "tail -n 50 /var/log/stack/*deploys.log",
    "processes": "ps axf -o pid,ppid,stat,etimes,time,rss,args | cut -c1-200; uptime; df -h /",
}


def keep(machine: Lab, test: str) -> Path:
    """Keep the machine's journal, state and last commands; the folder. Never raises."""
    name = re.sub(r"[^\w.-]+", "_", test.removeprefix("tests/machine/"))[:150]
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, (words, done) in enumerate(list(machine.commands), 1):
        text = f"make {words}: exit {done.returncode}\n{done.stdout}\n--- stderr\n{done.stderr}\n"
        verb = re.sub(r"\W+", "-", words) or "make"
        (folder / f"{number}-{verb}").write_text(text, encoding="utf-8")
    here, hosts = machine.host, []
    with contextlib.suppress(OSError):
        hosts = re.findall(r"(?m)^Host (\w\S*)", (machine.state / "ssh_config").read_text())
    try:
        for host in hosts:
            machine.host = host
            for file, command in ASKED.items():
                with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                    said = machine.run(f"{{ {command}; }} 2>&1", check=False, timeout=30)
                    (folder / f"{host}.{file}").write_text(said, encoding="utf-8")
    finally:
        machine.host = here
    return folder
