"""Commands of the controller; `make help` lists them as a person types them."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from . import lab, remote, topology
from .errors import Refused
from .topology import ROOT, Topology

# Commands after which a connection that breaks is no failure.
GOES_DOWN = re.compile(r"\s*(systemctl\s+)?(reboot|poweroff|halt|shutdown)\b")
# There while a change of a machine's firewall waits to be confirmed.
UNCONFIRMED = "/var/lib/stack/firewall/unconfirmed"


class Steps:
    """Numbered steps with their durations, for a person to watch."""

    def __init__(self, count: int) -> None:
        self.count, self.at, self.began = count, 0, time.monotonic()
        self.parts: list[tuple[str, float]] = []
        self._since = self.began

    def begin(self, name: str, what: str) -> None:
        self.end()
        self.at += 1
        self.parts.append((name, 0.0))
        self._since = time.monotonic()
        print(f"==> {self.at}/{self.count} {what}", flush=True)

    def end(self) -> None:
        if self.parts:
            name, spent = self.parts[-1]
            if not spent:
                self.parts[-1] = (name, time.monotonic() - self._since)

    def summary(self) -> str:
        self.end()
        total = time.monotonic() - self.began
        return f"{total:.0f} s in all: " + ", ".join(f"{n} {s:.0f} s" for n, s in self.parts)


def build_artifact() -> str:
    """Build the artifact unless it is there; its version."""
    command = [sys.executable, str(ROOT / "webapp" / "build.py"), "--out", str(ROOT / "dist")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"the artifact could not be built:\n{(done.stderr or done.stdout).strip()}")
    return subprocess.run(
        [*command, "--print-version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def converge(where: Topology, host: str, words: list[str]) -> int:
    line = " ".join(shlex.quote(word) for word in words)
    code = remote.stream(where, host, f"cd {remote.PLACE} && exec bootstrap/converge {line}")
    if "test=True" in words:
        return code
    # Also after a failure: whether one can still get in has nothing to do with another state.
    return max(code, confirm_firewall(where, host))


def confirm_firewall(where: Topology, host: str) -> int:
    """
    Keep changed firewall rules, now that a new connection has come in through them; without it
    they take themselves back (salt/firewalld). 0, or 1 when they could not be confirmed.

    On stderr: the last line of stdout is what the apply did.
    """
    try:
        if not remote.run(where, host, f"ls {UNCONFIRMED} 2>/dev/null || true"):
            return 0
        said = remote.run(where, host, "/usr/local/sbin/firewall-confirm", fresh=True)
    except Refused as error:
        print(
            f"{host}: the changed firewall could not be confirmed over a new connection, so the"
            f" rules before come back by themselves: {error}",
            file=sys.stderr,
        )
        return 1
    print(f"{host}: {said.strip()} (over a new ssh connection)", file=sys.stderr)
    return 0


def fetch_ca(where: Topology) -> Path:
    """The edge's CA certificate as a local file, for clients that want to verify it."""
    path = lab.state(where) / "ca.pem"
    path.write_text(
        remote.run(where, where.edge.name, "cat /etc/stack/pki/ca.pem"), encoding="utf-8"
    )
    return path


def url(where: Topology) -> str:
    return f"https://{where.edge.address}/"


def table(where: Topology) -> tuple[str, bool]:
    """Services of all machines as text, and whether all are well."""
    rows = [("machine", "service", "unit", "state", "version", "port", "health", "MiB", "restarts")]
    well = True
    for host in where.machines:
        try:
            said = remote.run(
                where, host, f"cd {remote.PLACE} && salt-call --out=json report.services"
            )
            services = json.loads(said)["local"]
        except (Refused, ValueError, KeyError) as error:
            rows.append(
                (host, "-", "-", "unreachable", "", "", str(error).splitlines()[0][:60], "", "")
            )
            well = False
            continue
        for one in services:
            well = well and one["well"]
            memory = "" if one["memory"] is None else str(one["memory"])
            rows.append(
                (
                    host,
                    one["service"],
                    one["unit"],
                    one["state"],
                    one["version"],
                    one["port"],
                    one["health"],
                    memory,
                    str(one["restarts"]),
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines), well


def one_machine(where: Topology) -> None:
    """Several machines need secrets that they share, which are still to come."""
    if len(where.machines) > 1:
        raise Refused(
            f"topology {where.name} has {len(where.machines)} machines; running more than one is"
            " still to come (see CHANGELOG.md)",
            2,
        )


def command_up(where: Topology) -> int:
    one_machine(where)
    steps = Steps(6)
    which = lab.provider(where)
    steps.begin("packages", f"host packages (provider {which})")
    if which == "lxc":
        lab.install_packages()
    steps.begin("box", f"base box {lab.suite(where)}")
    if which == "lxc":
        lab.box(lab.suite(where))
    steps.begin("artifact", "artifact of the application")
    release = build_artifact()
    print(f"  counter {release}", flush=True)
    steps.begin("boot", f"machines: {', '.join(where.machines)}")
    if which == "lxc":
        lab.prepare_network(where)
        lab.claim(where)
    lab.bring_up(where)
    steps.begin("salt", "Salt on the machines")
    for host in where.machines:
        remote.carry(where, host, release)
        code = remote.stream(where, host, f"{remote.PLACE}/bootstrap/bootstrap.sh")
        if code:
            raise Refused(f"{host}: Salt could not be installed (see above)")
    steps.begin("states", "states")
    for host in where.machines:
        code = converge(where, host, [])
        if code:
            raise Refused(
                f"{host}: the apply failed (see above); mend it and run 'make up' again", code
            )
    authority = fetch_ca(where)
    text, well = table(where)
    print(f"\n{text}\n\n{steps.summary()}\n")
    print(f"  curl --cacert {authority.relative_to(ROOT)} {url(where)}\n")
    print(url(where))
    return 0 if well else 1


def command_apply(where: Topology) -> int:
    one_machine(where)
    words = []
    if os.environ.get("SLS"):
        words.append(os.environ["SLS"])
    test = os.environ.get("TEST") or "0"
    if test not in ("0", "1"):
        raise Refused(f"TEST={test}: use TEST=1 to only show what would change", 2)
    if test == "1":
        words.append("test=True")
    given = os.environ.get("PILLAR")
    if given:
        try:
            overlay = json.loads(given)
        except ValueError as error:
            raise Refused(f"PILLAR: not JSON: {error}", 2) from error
        if not isinstance(overlay, dict):
            raise Refused(
                'PILLAR: must be a JSON object, such as \'{"counter": {"instances": 3}}\'', 2
            )
        fixed = sorted({"machine", "topology", "secrets"} & set(overlay))
        if fixed:
            raise Refused(f"PILLAR: {', '.join(fixed)} cannot be overlaid", 2)
        words.append(f"pillar={json.dumps(overlay, ensure_ascii=False)}")
    host = os.environ.get("HOST")
    if host == "local":
        return apply_here(where, words)
    hosts = [where.machine(host).name] if host else list(where.machines)
    if not lab.is_up(where):
        raise Refused(
            f"no machines of topology {where.name} are up: 'make up' first, or HOST=local to"
            " converge this very machine"
        )
    release = build_artifact()
    worst = 0
    for name in hosts:
        if len(hosts) > 1:
            print(f"==> {name}", flush=True)
        try:
            remote.carry(where, name, release)
            code = remote.stream(where, name, f"{remote.PLACE}/bootstrap/bootstrap.sh >/dev/null")
            code = code or converge(where, name, words)
        except Refused as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
        # Of ssh killed by a signal, the code is negative.
        worst = worst or (code if code >= 0 else 128 - code)
    return worst


def apply_here(where: Topology, words: list[str]) -> int:
    """Converge this very machine from this checkout: a bare server without any controller."""
    if os.geteuid() != 0:
        raise Refused("HOST=local converges this very machine and needs root: use sudo")
    name = socket.gethostname()
    if name not in where.machines:
        if len(where.machines) > 1:
            raise Refused(
                f"HOST=local: this host is called {name}, which is no machine of topology"
                f" {where.name} ({', '.join(where.machines)}): set its name, or TOPOLOGY",
                2,
            )
        name = next(iter(where.machines))
    remote.write_identity(where, name, build_artifact())
    for command in (["bootstrap.sh"], ["converge", *words]):
        code = subprocess.run(
            [str(ROOT / "bootstrap" / command[0]), *command[1:]], cwd=ROOT, check=False
        ).returncode
        if code:
            break
    if Path(UNCONFIRMED).exists():
        print(
            "the firewall has changed: run 'sudo firewall-confirm' from a NEW ssh connection to this"
            " machine, or the rules before come back by themselves ('sudo firewall-confirm --status')",
            file=sys.stderr,
        )
    if not code and "test=True" not in words:
        print("\n  curl --cacert /etc/stack/pki/ca.pem https://localhost/")
    return code


def command_status(where: Topology) -> int:
    if not lab.is_up(where):
        raise Refused(f"no machines of topology {where.name} are up: 'make up' first")
    text, well = table(where)
    print(text)
    return 0 if well else 1


def command_url(where: Topology) -> int:
    print(url(where))
    return 0


def command_ssh(where: Topology) -> int:
    host = os.environ.get("HOST") or next(iter(where.machines))
    where.machine(host)
    command = os.environ.get("CMD")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    code = subprocess.run(
        remote.ssh(where, host, command, terminal=terminal), check=False
    ).returncode
    if code == 255 and command and GOES_DOWN.match(command):
        # The machine took ssh down with it, as it was told to.
        print(f"{host} goes down")
        return 0
    return code


def command_rotate(where: Topology) -> int:
    """A new value for one secret, on every machine that has it, with no moment without one."""
    name = os.environ.get("SECRET") or ""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise Refused("SECRET=name is needed, such as SECRET=redis-counter", 2)
    holders = [
        host
        for host in where.machines
        if remote.run(where, host, f"test -e /etc/stack/secrets/{name} && echo yes || true").strip()
    ]
    if not holders:
        raise Refused(f"no machine of topology {where.name} has a secret {name}")

    def on_each(function: str) -> None:
        for host in holders:
            remote.run(where, host, f"cd {remote.PLACE} && salt-call secret.{function} {name}")

    on_each("rotate")
    print(f"==> {name}: new value, the old one still valid", flush=True)
    code = command_apply(where)
    if code:
        raise Refused(f"{name}: both values stay valid; mend the above and run this again", code)
    on_each("forget")
    print(f"==> {name}: dropping the old value", flush=True)
    return command_apply(where)


def command_down(where: Topology) -> int:
    lab.take_down(where)
    print(f"no machine of topology {where.name} is left")
    return 0


COMMANDS = {
    "up": command_up,
    "apply": command_apply,
    "status": command_status,
    "url": command_url,
    "rotate": command_rotate,
    "ssh": command_ssh,
    "down": command_down,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m control",
        description="What the Makefile's commands run; TOPOLOGY, HOST, TEST, PILLAR, SLS, CMD, SUITE and"
        " PROVIDER come from the environment.",
    )
    parser.add_argument("command", choices=sorted(COMMANDS))
    chosen = parser.parse_args().command
    try:
        return COMMANDS[chosen](topology.load(os.environ.get("TOPOLOGY") or "dev"))
    except Refused as refusal:
        print(f"{chosen}: {refusal}", file=sys.stderr)
        return refusal.code
    except OSError as error:
        print(f"{chosen}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{chosen}: interrupted; run it again and it goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
