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
from collections.abc import Sequence
from pathlib import Path

from . import (
    backup,
    cloud,
    dashboard,
    deploy,
    environment,
    fleet,
    given,
    lab,
    logs,
    machines,
    pillar,
    remote,
    status,
    store,
    terminal,
    topology,
)
from .certificates import WITHOUT_KEYS
from .errors import Refused
from .topology import ROOT, Topology

# Commands after which a connection that breaks is no failure.
GOES_DOWN = re.compile(r"\s*(systemctl\s+)?(reboot|poweroff|halt|shutdown)\b")
# There while a change of a machine's firewall waits to be confirmed.
UNCONFIRMED = "/var/lib/stack/firewall/unconfirmed"
# There after one that nobody confirmed.
REVERTED = "/var/lib/stack/firewall/reverted"


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
    version = subprocess.run(
        [*command, "--print-version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    store.sign_built(ROOT / "dist" / store.archive(version))
    return version


def converge(where: Topology, host: str, words: list[str]) -> int:
    line = " ".join(shlex.quote(word) for word in words)
    command = f"cd {remote.PLACE} && exec bootstrap/converge {line}"
    code = remote.stream(where, host, command, fleet.label(where, host))
    if "test=True" in words:
        return code
    # Also after a failure: whether one can still get in has nothing to do with another state.
    parts = [part for word in words if "=" not in word for part in word.split(",")]
    return max(code, confirm_firewall(where, host, not parts or "firewalld" in parts))


def confirm_firewall(where: Topology, host: str, its_own: bool = True) -> int:
    """
    Keep changed firewall rules, now that a new connection has come in through them; without it
    they take themselves back (salt/firewalld). 0, or 1 when they could not be confirmed.
    ``its_own``: whether this apply was of the firewall; one of another formula has nothing to do with a
    change that took itself back before.

    On stderr: the last line of stdout is what the apply did.
    """
    try:
        told = remote.run(where, host, f"ls {UNCONFIRMED} {REVERTED} 2>/dev/null || true")
        if REVERTED in told:
            print(
                f"{host}: the change of the firewall was not confirmed in time and has taken itself"
                " back: 'make apply' (all of it) applies it again",
                file=sys.stderr,
            )
            return int(its_own)
        if not told:
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
    """
    What clients verify the edge with, as a local file: its own CA's certificate, or the certificate
    that the pillar gives with its chain (salt/haproxy/tls.sls).
    """
    path = lab.state(where) / "ca.pem"
    # `||` would take a file that can't be read for one that is not there.
    ask = "cd /etc/stack/pki && if [ -e site.pem ]; then pem=site.pem; else pem=ca.pem; fi"
    ask += f" && {WITHOUT_KEYS} $pem"
    path.write_text(remote.run(where, where.edge.name, ask), encoding="utf-8")
    return path


def url(where: Topology) -> str:
    return f"https://{cloud.public(where) or where.edge.address}/"


def command_up(where: Topology) -> int:
    cloud.refuse_here(where)
    steps = Steps(6)
    gone = machines.refuse_swap(where)
    pillar.notice(where)
    which = lab.provider(where)
    steps.begin("packages", f"host packages (provider {which})")
    if which == "lxc":
        with lab.host_lock():
            lab.install_packages()
    steps.begin("box", f"base box {lab.suite(where)}")
    if which == "lxc":
        with lab.host_lock():
            lab.box(lab.suite(where))
    steps.begin("artifact", "artifact of the application")
    release = build_artifact()
    print(f"  counter {release}", flush=True)
    steps.begin("boot", f"machines: {', '.join(where.machines)}")
    if which == "lxc":
        with lab.host_lock():
            lab.prepare_network(where)
            lab.claim(where)
    lab.bring_up(where)
    steps.begin("salt", "Salt on the machines")
    new, failed = machines.prepare(where, list(where.machines), release)
    steps.begin("states", "states")
    failed |= machines.converge(
        where,
        [host for host in where.machines if host not in failed],
        [],
        converge,
        new,
        bool(gone),
        failed,
    )
    if failed:
        raise Refused(
            f"{', '.join(fleet.order(where, failed))}: not converged (see above); mend it and run"
            " 'make up' again",
            max(failed.values()),
        )
    machines.remove(where, gone)
    lab.remember(where)
    deploy.notice(where, release)
    authority = fetch_ca(where)
    text, well, _ = status.table(where)
    print(f"\n{text}\n\n{steps.summary()}\n")
    print(f"  curl --cacert {authority.relative_to(ROOT)} {url(where)}\n")
    print(url(where))
    return 0 if well else 1


def overlay() -> list[str]:
    """PILLAR, JSON laid over the pillar for this run, as arguments of converge."""
    given = os.environ.get("PILLAR")
    if not given:
        return []
    try:
        laid = json.loads(given)
    except ValueError as error:
        raise Refused(f"PILLAR: not JSON: {error}", 2) from error
    if not isinstance(laid, dict):
        raise Refused('PILLAR: must be a JSON object, such as \'{"counter": {"instances": 3}}\'', 2)
    fixed = sorted({"machine", "topology", "secrets"} & set(laid))
    if fixed:
        raise Refused(f"PILLAR: {', '.join(fixed)} cannot be overlaid", 2)
    return [f"pillar={json.dumps(laid, ensure_ascii=False)}"]


def refuse_settings(command: str, *names: str) -> None:
    """Refused when one of these is set: they narrow an apply, and this command's must be whole."""
    given = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    if given:
        raise Refused(f"{', '.join(given)}: not with {command}, which is for all machines", 2)


def command_apply(where: Topology, gone: Sequence[str] = ()) -> int:
    """``gone``: machines that are no longer in the topology and are about to be removed."""
    words = []
    test = os.environ.get("TEST") or "0"
    if test not in ("0", "1"):
        raise Refused(f"TEST={test}: use TEST=1 to only show what would change", 2)
    if test == "1":
        words.append("test=True")
    if (os.environ.get("VERBOSE") or "0") == "0":
        words.append("verbose=False")
    words += overlay()
    host, formulas = os.environ.get("HOST"), os.environ.get("SLS")
    if host == "local":
        return apply_here(where, [formulas, *words] if formulas else words)
    hosts = [where.machine(host).name] if host else list(where.machines)
    own: dict[str, list[str]] = {}
    if formulas:
        own = machines.having(where, hosts, formulas)
        hosts = list(own)
    if not lab.is_up(where):
        raise lab.not_up(where, ", or HOST=local to converge this very machine")
    if own and len(own) < len(where.machines):
        print(f"{formulas}: on {', '.join(own)}", flush=True)
    cloud.notice(where)
    pillar.notice(where)
    release = build_artifact()
    left_over = machines.refuse_swap(where, booted=True)
    new, failed = machines.prepare(where, hosts, release, quiet=True)

    def one(where: Topology, name: str, words: list[str]) -> int:
        return converge(where, name, [*own.get(name, ()), *words])

    failed |= machines.converge(
        where,
        [name for name in hosts if name not in failed],
        words,
        one,
        new,
        bool(gone or left_over),
        failed,
    )
    if left_over:
        print(
            f"no longer in the topology, and still there: {', '.join(left_over)}; 'make up' removes it"
        )
    deploy.notice(where, release)
    return machines.summary(where, hosts, failed)


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
        raise lab.not_up(where)
    return status.command(where)


def command_url(where: Topology) -> int:
    print(url(where))
    return 0


def command_ssh(where: Topology) -> int:
    host = os.environ.get("HOST") or next(iter(where.machines))
    where.machine(host)
    command = os.environ.get("CMD")
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    code = subprocess.run(
        remote.ssh(where, host, command, terminal=interactive), check=False
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
    # A machine left out, or only shown, would be left without the new value once the old one is dropped.
    refuse_settings("rotate", "HOST", "TEST", "SLS")
    return machines.rotate(where, name, command_apply)


def command_down(where: Topology) -> int:
    cloud.refuse_here(where, down=True)
    lab.take_down(where)
    print(f"no machine of topology {where.name} is left")
    return 0


def command_cloud_up(where: Topology) -> int:
    # It destroys what has left the topology once the others have forgotten it: all of them.
    refuse_settings("cloud-up", "HOST", "TEST", "SLS")
    code = cloud.up(where, command_apply)
    where = cloud.resolved(where)
    authority = fetch_ca(where)
    text, well, _ = status.table(where)
    print(f"\n{text}\n\n  curl --cacert {authority.relative_to(ROOT)} {url(where)}\n\n{url(where)}")
    return code if well else code or 1


def command_cloud_down(where: Topology) -> int:
    refuse_settings("cloud-down", "HOST", "TEST")
    return cloud.down(where)


COMMANDS = {
    "up": command_up,
    "apply": command_apply,
    "status": command_status,
    "url": command_url,
    "dashboard": dashboard.command,
    "rotate": command_rotate,
    "secret": given.command,
    "ssh": command_ssh,
    "backup": backup.take,
    "restore": backup.restore,
    "down": command_down,
    "logs": logs.command,
    **deploy.COMMANDS,
    "cloud-plan": cloud.plan,
    "cloud-up": command_cloud_up,
    "cloud-down": command_cloud_down,
    # Run by salt-cloud (cloud/): a single droplet is what `dev` is, whatever TOPOLOGY says.
    "cloud-prepare": lambda _: cloud.prepare(topology.load("dev"), build_artifact),
    "cloud-check": cloud.check,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m control",
        description="What the Makefile's commands run; TOPOLOGY, HOST, TEST, PILLAR, SLS, CMD, SUITE and"
        " PROVIDER come from the environment.",
    )
    parser.add_argument("command", choices=sorted(COMMANDS))
    chosen = parser.parse_args().command
    terminal.guard()
    try:
        where = topology.load(os.environ.get("TOPOLOGY") or "dev")
        environment.settle(machine.address for machine in where.machines.values())
        # The cloud-* commands start from the topology as it is written.
        return COMMANDS[chosen](where if chosen.startswith("cloud-") else cloud.resolved(where))
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
