"""One machine of the lab and the ways to reach it, for the tests that talk to it."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra

from control import topology
from control.lab import containers
from tests.timings import measured

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import controller  # noqa: E402
import layers  # noqa: E402
import networks  # noqa: E402
import pace  # noqa: E402
import turns  # noqa: E402
from checked_load import LoadHandle, Result, run_load, start_load  # noqa: E402

TEXT = re.compile(r"Hello World! I have been seen (\d+) times\.\n")
# Seconds. Only so that what hangs ends: it bounds a wait for a condition, it is no claim about speed.
PATIENCE = 300
# Pillar for an apply that has something to change on an edge: its HAProxy gets another configuration.
CHANGED = json.dumps({"haproxy": {"timeouts": {"queue": "6s"}}})
# What is typed each time makes and removes machines, and may first have to install what that takes.
COPIED = controller.commands() - {"up", "down"}
# Words of make that were typed before.
_typed: set[str] = set()
_controller = functools.cache(controller.Controller)


class Lab:
    """One machine of the lab and the ways to reach it."""

    # What `make up` printed.
    up_output = ""
    # Vagrant's box for its machines; empty: the base box.
    box = ""
    # The last commands with what they printed, for who has to understand a failure.
    commands: collections.deque[tuple[str, subprocess.CompletedProcess[str]]]

    def __init__(self, topology: str) -> None:
        self.topology = topology
        self.host = self.name = topology
        self.commands = collections.deque(maxlen=5)
        self.state = ROOT / ".lab" / topology
        self.ca = str(self.state / "ca.pem")
        self.url = self.make("-s", "url").stdout.strip()
        self.address = self.url.removeprefix("https://").rstrip("/")

    @property
    def environment(self) -> dict[str, str]:
        """What the controller's commands run in, to be about this topology."""
        return {**os.environ, "TOPOLOGY": self.topology, "SUITE": "", "LAB_BOX": self.box}

    def make(
        self, *words: str, timeout: int = 600, check: bool = True, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """
        `make WORDS` for this topology, settings as environment variables. Typed the first time; from then on done by a copy of the
        controller, where the target is a command of it and no more (controller.py).
        """
        environment = {**self.environment, **settings}
        is_copied = set(words) <= _typed and words[-1] in COPIED
        _typed.update(words)
        with measured("make", " ".join(words)):
            if is_copied:
                done = _controller().run(words[-1], environment, timeout)
            else:
                done = subprocess.run(
                    ["make", *words],
                    cwd=ROOT,
                    text=True,
                    capture_output=True,
                    timeout=timeout,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                )
        self.commands.append((" ".join(words), done))
        if check and done.returncode:
            raise AssertionError(
                f"make {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def wait_for_status(self) -> None:
        """Until `make status` finds all well: a metric, a line in the central logs or the end of an alert may be a moment away."""
        self.wait("status is good", lambda: self.make("status", check=False).returncode == 0)

    def apply(self, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.make("apply", check=check, **settings)

    def run(self, command: str, check: bool = True, timeout: int = 120, data: str = "") -> str:
        """
        Output of a shell command as root on the machine. What is secret goes through ``data``, its
        standard input: sudo writes every command into the journal.
        """
        with measured("ssh", command.split("\n")[0][:60]):
            done = subprocess.run(
                [
                    "ssh",
                    "-F",
                    str(self.state / "ssh_config"),
                    self.host,
                    f"sudo -n sh -c {shlex.quote(command)}",
                ],
                capture_output=True,
                text=True,
                timeout=timeout,
                input=data,
            )
        if check and done.returncode:
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @property
    def testinfra(self) -> testinfra.host.Host:
        return testinfra.get_host(
            f"ssh://{self.host}", ssh_config=str(self.state / "ssh_config"), sudo=True
        )

    def curl(self, path: str = "", *words: str) -> str:
        """Output of curl for a path of the service, its CA trusted and nothing else."""
        done = subprocess.run(
            [
                "curl",
                "-sS",
                "--connect-timeout",
                "10",
                "--max-time",
                "60",
                "--cacert",
                self.ca,
                *words,
                self.url + path.lstrip("/"),
            ],
            capture_output=True,
            text=True,
            # Of all of a path's [1-N].
            timeout=120,
        )
        return done.stdout

    def haproxy(self, command: str) -> str:
        """What HAProxy answers on its admin socket (management.txt, 9.3)."""
        code = (
            "import socket,sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy-admin/admin.sock');"
            " s.sendall(sys.argv[1].encode() + b'\\n'); print(s.makefile().read())"
        )
        return self.run(f'python3 -c "{code}" "{command}"')

    def status(self, path: str = "", *words: str) -> int:
        return int(self.curl(path, "-o", "/dev/null", "-w", "%{http_code}", *words) or 0)

    def count(self) -> int:
        """The count as Redis has it, which counts nothing."""
        return int(self.run("redis-admin GET counter:seen").strip() or 0)

    def moment(self) -> str:
        """
        Now, by the machine's clock, for journalctl's ``--since``: what a wait looks back at must not end
        before the wait does.
        """
        return self.run("date +@%s").strip()

    def see(self) -> int:
        """GET / and the number it says."""
        text = self.curl()
        found = TEXT.fullmatch(text)
        assert found, f"not the text: {text!r}"
        return int(found.group(1))

    async def load(self, **options: object) -> Result:
        with turns.one_load():
            return await run_load(self.url, cacert=self.ca, **options)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def under_load(self, **options: object) -> Iterator[LoadHandle]:
        """
        A checked load that runs as long as the block, at most as long as a test may take.

        ``rate``: requests a second of all its clients, for what takes longer than a moment: as fast as
        it can, it takes the computer's time from what it is to watch.
        """
        with turns.one_load() if not options.get("rate") else contextlib.nullcontext():
            handle = start_load(self.url, cacert=self.ca, **{"seconds": 500, **options})  # type: ignore[arg-type]
            try:
                handle.wait_for(50)
                yield handle
            finally:
                handle.stop()

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """
        Wait until the condition holds. ``seconds``, by the computer's pace, are given where the time is
        what is promised, and nowhere else.
        """
        with measured("wait", what):
            began = time.monotonic()
            while not condition():
                if pace.is_over(began, seconds):
                    raise AssertionError(f"{what}: not within {seconds} s")
                # To ask costs the computer more than to wait: what takes longer is asked for less often.
                time.sleep(min(1.0, 0.1 + (time.monotonic() - began) / 20))

    @contextlib.contextmanager
    def needle(self, name: str) -> Iterator[str]:
        """
        File on the machine, root's alone, with what is secret of the secret ``name``, a line each:
        not a key's armour, nor what age says about one. For ``grep -F -f``, so that it is in no
        argument.
        """
        path = f"/run/needle-{name}"
        self.run(f"umask 077; grep -vE '^(-----|#)' /etc/stack/secrets/{name} >{path}")
        try:
            assert int(self.run(f"wc -c <{path}")) > 20, "a needle of its own"
            yield path
        finally:
            self.run(f"rm -f {path}")

    def lxc(self, tool: str, host: str, *words: str) -> str:
        container = f"counter_{self.topology}_{host}"
        line = [str(ROOT / "lab" / "enter"), tool, "--name", container, *words]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=120).stdout

    def reboot(self) -> None:
        """
        Reboot the machine and wait until it serves again. That it was unreachable is seen by its next boot, not
        by a look at the right moment: a container is back within seconds.
        """
        boot = "cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1"
        before = self.run(boot)
        # Its end may cut the connection that asked for it.
        self.run("systemctl reboot", check=False)

        def is_back() -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.run(boot, check=False, timeout=15) not in ("", before)
            return False

        self.wait("the machine is back", is_back)
        self.wait("it serves again", self.serving)

    def serving(self) -> bool:
        """
        Whoever asks is answered. One answer would say so of one instance only, which HAProxy may just be about to
        take out for the checks that failed before.
        """
        return self.all_ready() and self.status("readyz") == 200

    def all_ready(self) -> bool:
        """Every instance takes requests, as HAProxy sees it, and its last check was good (else it says UP 3/4)."""
        states = self.instances()
        return bool(states) and all(state == "UP" for state in states)

    def instances(self) -> list[str]:
        """What HAProxy's checks say of each: UP, DOWN, NOLB, UP 3/4 after the first bad one, …."""
        said = self.run(
            "curl -s 'http://127.0.0.1:8405/;csv' | grep '^app,' | grep -v BACKEND | cut -d, -f18",
            check=False,
        )
        return said.splitlines()

    def listening(self) -> list[str]:
        """``ADDRESS:PORT`` of each TCP socket on which a program of the machine listens."""
        return self.run("ss -Hltn | awk '{print $4}'").split()


MARK = "made-by-tests"


def remove_left(name: str) -> None:
    """
    Machines that a killed run of a checkout which is gone has left: of a topology of the tests' own. One that people
    use too may be a person's, with a count, and `make up` says so.
    """
    where = topology.load(name)
    if name not in ("dev", "dev12") and shutil.which("lxc-ls"):
        for container in containers.list_left(where):
            containers.destroy(container)


def mark_as_made(state: Path) -> None:
    """Note that tests made the machines with this state folder: the next run may remove them."""
    state.mkdir(parents=True, exist_ok=True)
    (state / MARK).touch()


@contextlib.contextmanager
def made(machine: Lab, timeout: int = 1500, bare: bool = False) -> Iterator[Lab]:
    """The machine (or machines), up and converged; removed at the end unless somebody else's `make
    up` made it. A run that is killed leaves its mark, by which the next removes them first (conftest.py). ``bare``:
    from nothing, else with the packages installed already (layers.py)."""
    mark = machine.state / MARK
    ours = mark.exists() or not (machine.state / "ssh_config").exists()
    if ours:
        remove_left(machine.topology)
        mark_as_made(machine.state)
        machine.box = "" if bare else layers.box()
    try:
        machine.up_output = machine.make("up", timeout=timeout).stdout
        yield machine
    finally:
        if ours:
            machine.make("down", check=False)


class Machines(Lab):
    """A topology of several machines, of which ``host`` is in the place of the one."""

    def __init__(self, topology: str, host: str) -> None:
        super().__init__(topology)
        self.host = self.name = host

    def on(self, host: str, command: str, **options: Any) -> str:
        """`run` on another of them."""
        self.host = host
        try:
            return self.run(command, **options)
        finally:
            self.host = self.name


class Outsider:
    """
    Another computer on the machines' network, which the topology does not trust: a network
    namespace of this host on the lab's bridge. ``number`` is the last of its address.
    """

    BRIDGE = "counterbr0"

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.number = networks.outsider(number)
        network = lab.address.rpartition(".")[0]
        self.address = f"{network}.{self.number}"
        # Not those of another checkout, whose tests run in another network of the same bridge.
        self.network = network.rpartition(".")[2]
        self.space = f"outsider{self.network}-{self.number}"
        self.link = f"lab-s{self.network}-{self.number}"

    @classmethod
    def missing(cls, *programs: str) -> str | None:
        """Why there can be none here; None when there can."""
        if os.geteuid() != 0:
            return "a network namespace on the lab's bridge needs root"
        # Asked when the machine is up: before that, there is no bridge.
        if not Path("/sys/class/net", cls.BRIDGE).exists():
            return f"this lab has no bridge {cls.BRIDGE} to attach an outside view to"
        lacking = [program for program in ("ip", *programs) if not shutil.which(program)]
        return f"no {', '.join(lacking)}: `make tests-need` installs it" if lacking else None

    def __enter__(self) -> Outsider:
        if reason := self.missing():
            pytest.skip(reason)
        self.__exit__()
        for words in (
            f"netns add {self.space}",
            f"link add {self.link} type veth peer name e0 netns {self.space}",
            f"link set {self.link} master {self.BRIDGE} up",
            f"-n {self.space} addr add {self.address}/24 dev e0",
            f"-n {self.space} link set lo up",
            f"-n {self.space} link set e0 up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        for words in (["link", "del", self.link], ["netns", "del", self.space]):
            subprocess.run(["ip", *words], capture_output=True, check=False)

    @contextlib.contextmanager
    def with_ipv6(self) -> Iterator[tuple[str, str]]:
        """
        ``(machine's, outsider's)`` unique local addresses on the lab's bridge (RFC 4193), for a
        while: the lab's own network is IPv4 alone. ``nodad``: to be used at once.
        """
        prefix = f"fd5a:1c7e:{self.network}::"
        machine, own = prefix + self.lab.address.rpartition(".")[2], f"{prefix}{self.number}"
        device = "eth1"
        self.lab.run(f"ip -6 addr replace {machine}/64 dev {device} nodad")
        try:
            words = f"-n {self.space} -6 addr add {own}/64 dev e0 nodad"
            subprocess.run(["ip", *words.split()], check=True)
            yield machine, own
        finally:
            self.lab.run(f"ip -6 addr del {machine}/64 dev {device}", check=False)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.space, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
        """Both outputs in ``stdout``."""
        process = self.start(*words)
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(words, process.returncode, said)

    def connects(self, port: int, address: str = "") -> bool:
        """Whether a TCP connection opens, to the topology's address of the machine by default."""
        code = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
        words = (sys.executable, "-c", code, address or self.lab.address, str(port))
        return self.run(*words).returncode == 0


class KitchenLab(Lab):
    """A machine that Test Kitchen made, as its verifier describes it in the environment."""

    def __init__(self) -> None:
        self.topology = "kitchen"
        self.commands = collections.deque(maxlen=5)
        self.state = ROOT / ".lab" / "kitchen"
        self.state.mkdir(parents=True, exist_ok=True)
        self.host = os.environ["KITCHEN_HOSTNAME"]
        (self.state / "ssh_config").write_text(
            f"Host {self.host}\n  User {os.environ['KITCHEN_USERNAME']}\n"
            f"  Port {os.environ.get('KITCHEN_PORT', '22')}\n"
            f"  IdentityFile {os.environ['KITCHEN_SSH_KEY']}\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        )
        self.ca = str(self.state / "ca.pem")
        Path(self.ca).write_text(self.run("cat /etc/stack/pki/ca.pem"))
        self.address = self.host
        self.url = f"https://{self.host}/"
        self.name = self.run("hostname").strip()


class Scanner(Outsider):
    """An outsider with nmap."""

    def nmap(self, *words: str, address: str = "") -> set[int]:
        """Ports that nmap finds open, of those that `words` say."""
        done = self.run(
            *("nmap", "-n", "-Pn", "-T4", "--max-retries", "1", "--open", *words),
            address or self.lab.address,
        )
        assert done.returncode == 0, done.stdout
        assert "scanned in" in done.stdout, done.stdout
        return {int(port) for port in re.findall(r"(?m)^(\d+)/\w+ +open ", done.stdout)}

    def every_tcp_port(self) -> set[int]:
        return self.nmap("-p-", "--min-rate", "10000")

    def listening_tcp_ports(self) -> set[int]:
        """Those of the ports on which any program of the machine listens, on whatever address, that are open."""
        ports = {one.rpartition(":")[2] for one in self.lab.listening()}
        assert ports > {"22", "80", "443"}, "more than what is let in"
        return self.nmap("-p", ",".join(ports))
