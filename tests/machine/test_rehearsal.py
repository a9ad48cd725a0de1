"""
Command blocks of the tickets that machines can carry out, typed in their order, from an empty account on.

DigitalOcean is the stand-in of its API; its droplets are lab machines that are there before they are asked for, and made
anew when a ticket destroys one. What is typed otherwise than the ticket says, what the rehearsal does in somebody's place
and what it leaves out is in docs/generate/rehearsal.py.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import layers
import networks
import outside_world
import pytest
import yaml
from bare_machine import BOOT, control
from lab_machine import ROOT, mark_as_made
from outside_world import World
from standin_digitalocean import TOKEN, Machines, Standin
from test_cloud import let_in, on_machine

from docs.generate import rehearsal, tickets
from docs.generate.runnable import Check
from docs.generate.tickets import Ticket
from tests.rehearse import Terminal, copy_with_packages, type_block

# Topologies that tickets make in the cloud -> which of the rehearsal's addresses are their machines'.
DROPLETS = {"live": 0, "staging": 5}
# And in the lab: `prod`, and the machine of `make up`.
LAB, SINGLE = 10, 15
PASSPHRASE = "rehearsed by heart"
# What wakes somebody in a ticket that says so, each once, and nothing else.
WAKES = {"T15": ["RedisDown"]}
# What asks, and what a person types then.
ANSWERS = (
    (r"type (\S+) to confirm: ", r"\1"),
    (r"Proceed\? \[N/y\] ", "y"),
    (r"its value \(not shown\): ", "given-in-the-rehearsal"),
    (r"(?:Enter|Confirm) passphrase[^\n]*: ", PASSPHRASE),
    (r"continue connecting \(yes/no/\[fingerprint\]\)\? ", "yes"),
)
# Machines that were given back, made anew beside those that are there.
MAKE_ANEW = """
from control import topology
from control.lab import vagrant
from control.options import Options
where, options = topology.load({topology!r}), Options.read()
for name in {names!r}:
    vagrant.forget(where, name, options)
vagrant.bring_up(where, options)
"""
# As a droplet's image knows public authorities: those of this rehearsal, where it says that they are.
TRUST = """
cat >/usr/local/share/ca-certificates/rehearsal.crt
update-ca-certificates >/dev/null 2>&1
echo '{address} {names}' >>/etc/hosts
"""
# Beside a clone of the repository: what `make` would install for minutes.
PROVIDE = """#!/bin/sh
(cd {root} && .venv/bin/python -c "from tests.rehearse import *; lend_packages(Path('$OLDPWD'))")
git config user.name Somebody && git config user.email somebody@example.org
"""
# Hooks of the repository: what is pushed to a branch is merged, and nothing is pushed to main.
HOOKS = {
    "update": "[ $1 != refs/heads/main ] || { echo 'You are not allowed to push code to protected branches'; exit 1; }",
    "post-receive": "while read -r _ new _; do git update-ref refs/heads/main $new; done",
}


def bare(topology: str) -> str:
    """Topology of the lab's machines that are the droplets of that one."""
    return networks.named(f"{topology}-droplets")


class Droplets(Machines):
    """Lab machines for each topology of DROPLETS."""

    def __init__(self, world: World) -> None:
        self.world = world
        # One after the other: Vagrant finds a machine locked by itself.
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._jobs: dict[str, Future[None]] = {}
        self._used: dict[str, list[str]] = {name: [] for name in DROPLETS}

    def write(self, hosts: dict[str, list[str]]) -> None:
        """``{machine: roles}`` of each topology."""
        for name, first in DROPLETS.items():
            machines = {
                host: {"address": networks.address("rehearsal", first + number), "roles": roles, "memory": 768, "cpus": 1}
                for number, (host, roles) in enumerate(hosts.items())
            }  # fmt: skip
            networks.write(bare(name), machines)
            mark_as_made(ROOT / ".lab" / bare(name))

    def boot(self, topology: str, code: str = BOOT, **more: object) -> None:
        control(
            bare(topology), "-c", code.format(topology=bare(topology), **more), box=layers.box()
        )

    def is_ready(self, name: str) -> bool:
        topology = name.partition("-")[0]
        job = self._jobs.get(topology)
        if job is None:
            self._jobs[topology] = self._pool.submit(self.boot, topology)
        elif job.done():
            job.result()
            names, self._used[topology] = self._used[topology], []
            if not names:
                return True
            self._jobs[topology] = self._pool.submit(self.boot, topology, MAKE_ANEW, names=names)
        return False

    def wait(self) -> None:
        """Until what was begun has ended."""
        for job in self._jobs.values():
            job.result()

    def take(self, name: str, keys: list[str]) -> tuple[str, str]:
        topology, _, host = name.partition("-")
        found = let_in(keys, bare(topology), host)
        trust = TRUST.format(address=self.world.address, names=" ".join(outside_world.AUTHORITY))
        root = (self.world.folder / "root.pem").read_text()
        on_machine(f"sudo sh -c {shlex.quote(trust)}", root, bare(topology), host)
        return found

    def give_back(self, name: str) -> None:
        topology, _, host = name.partition("-")
        self._used[topology].append(host)

    def is_on(self, name: str) -> bool:
        topology, _, host = name.partition("-")
        container = f"counter_{bare(topology)}_{host}"
        line = [str(ROOT / "lab" / "enter"), "lxc-info", "--name", container, "--state"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
        return "RUNNING" in done.stdout

    def start(self, name: str) -> None:
        # Vagrant's `up`: what it lays over the container's configuration, such as eth1, is in no file.
        self._pool.submit(self.boot, name.partition("-")[0])

    def remove(self) -> None:
        self._pool.shutdown()
        for name in DROPLETS:
            control(bare(name), "-m", "control", "down")
            (ROOT / "pillar" / "topologies" / f"{bare(name)}.yaml").unlink(missing_ok=True)


class Values(Mapping[str, str]):
    """What is filled in, found out when it is typed."""

    def __init__(self, known: dict[str, Callable[[], str]]) -> None:
        self._known = known

    def __getitem__(self, name: str) -> str:
        return self._known[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class Stage:
    """Where tickets are typed: a checkout, the repository that it is pushed to, an account, machines."""

    def __init__(self, place: Path, world: World, api: Standin, droplets: Droplets) -> None:
        self.place, self.world, self.api, self.droplets = place, world, api, droplets
        self.folder = place / "counter"
        self.environment: dict[str, str] = {}
        self.terminal: Terminal | None = None
        self.ticket = ""

    def prepare(self, stack: ExitStack) -> None:
        self._write_topologies()
        programs = self.place / "bin"
        programs.mkdir()
        agent = self.place / "agent"
        scripts = {
            # The team's password store.
            "pass": f"case $2 in counter/digitalocean) echo {TOKEN} ;; *) echo given-in-the-rehearsal ;; esac",
            # An operator's own known hosts; what the controller calls has its own.
            "ssh": 'for word; do [ "$word" = -F ] && exec /usr/bin/ssh "$@"; done\n'
            f'exec /usr/bin/ssh -o UserKnownHostsFile={self.place}/known_hosts "$@"',
        }
        for name, text in scripts.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        process = stack.enter_context(
            subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
        )
        stack.callback(process.kill)
        outside_world.wait_until("the agent", agent.exists)
        unwanted = re.compile("GIT_|ARTIFACT_|AWS_|TOPOLOGY$|HOST$|SUITE$|MAKE|MFLAGS|PYTEST")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not unwanted.match(name)},
            **self.api.environment(),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SSH_AUTH_SOCK": str(agent),
            "ARTIFACT_STORE": str(self.place / "releases"),
            # A browser's, and Python's where it speaks to the site.
            "CURL_CA_BUNDLE": str(self.world.folder / "browser.pem"),
            "SSL_CERT_FILE": str(self.world.folder / "browser.pem"),
            "NAMES_PORT": str(self.world.names_port),
            "LAB_BOX": layers.box(),
            "LAB_TOPOLOGY": networks.named("rehearsed"),
            "RECOVERY": f"{ROOT}/lab/enter lxc-attach --name counter_{bare('staging')}_app2 --",
        }
        origin = self.place / "origin"
        begin = f"""
        git init -q -b main && git config user.name T && git config user.email t@example.org && git add -A && git commit -qm Begin
        git clone -q --bare . {origin} && git remote add origin {origin}
        git -C {origin} config receive.advertisePushOptions true
        ssh-keygen -q -t ed25519 -N '' -f {self.place}/operator && ssh-add -q {self.place}/operator
        """
        subprocess.run(["bash", "-ec", begin], cwd=self.folder, env=self.environment, check=True)
        for name, text in HOOKS.items():
            (origin / "hooks" / name).write_text(f"#!/bin/sh\n{text}\n")
            (origin / "hooks" / name).chmod(0o755)

    def _write_topologies(self) -> None:
        """`prod` and a machine of its own, at this run's addresses."""
        folder = self.folder / "pillar" / "topologies"
        data = yaml.safe_load((folder / "prod.yaml").read_text())
        machines = data["machines"]
        for number, machine in enumerate(machines.values()):
            machine["address"] = networks.address("rehearsal", LAB + number)
        network = {"network": networks.with_octet(0) + "/24", "trusted": [networks.with_octet(1)]}
        prod = {**data, **network, "name": networks.named("prod")}
        roles = ["edge", "app", "store", "monitor"]
        one = {
            "address": networks.address("rehearsal", SINGLE),
            "roles": roles,
            "memory": 1024,
            "cpus": 2,
        }
        single = {
            **data,
            **network,
            "name": networks.named("rehearsed"),
            "machines": {"rehearsed": one},
        }
        for topology in (prod, single):
            # A setting a line, as sed in a ticket expects.
            text = yaml.safe_dump(topology, sort_keys=False, default_flow_style=None)
            (folder / f"{topology['name']}.yaml").write_text(text)
        self.hosts = {name: machine["roles"] for name, machine in machines.items()}

    # --- what is filled in ------------------------------------------------------------------------

    def public(self, topology: str, machine: str) -> str:
        data = yaml.safe_load((self.folder / ".lab" / topology / "cloud.yaml").read_text())
        return str(data["machines"][machine]["public"])

    def release(self) -> str:
        """The newest that is stored, or for the handover one that does not run."""
        said = subprocess.run(
            ["make", "releases", f"TOPOLOGY={'staging' if self.ticket == 'T24' else 'live'}"],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        stored = re.findall(r"(?m)^  (\S+) +[0-9a-f]{16}  (.*)$", said)
        wanted = [version for version, rest in stored if self.ticket != "T24" or "<-" not in rest]
        assert wanted, said
        return str(wanted[-1])

    def number(self) -> str:
        """The value that a query of Prometheus has just answered."""
        assert self.terminal
        found = re.search(r'"(\d+)"\]', self.terminal.output)
        assert found, self.terminal.output
        return found[1]

    def values(self) -> Values:
        public_key = self.place / "operator.pub"
        known = {
            "prod": lambda: networks.named("prod"),
            "REPOSITORY": lambda: str(self.place / "origin"),
            "EDGE1-PUBLIC-ADDRESS": lambda: self.public("live", "edge1"),
            "APP1-PUBLIC-ADDRESS": lambda: self.public("live", "app1"),
            "RESERVED-ADDRESS": lambda: self.public("live", "edge1"),
            "STAGING-EDGE": lambda: self.public("staging", "edge1"),
            "OUTSIDER-ADDRESS": lambda: "192.0.2.7",
            "ADDRESS": lambda: self.public("live", "edge1").rpartition(".")[0] + ".1",
            "AUTHORITY-PORT": lambda: str(self.world.authority_port),
            "ENDPOINT": lambda: f"{self.world.address}:{self.world.s3_port}",
            "BUCKET": lambda: outside_world.BUCKET,
            "PAGER": lambda: f"{self.world.address}:{self.world.pager_port}/page",
            "WATCHDOG": lambda: f"{self.world.address}:{self.world.pager_port}/watchdog",
            "PUBLIC-KEY": lambda: public_key.read_text().strip(),
            "NAME": lambda: "rehearser",
            "NUMBER": self.number,
            "OLD-KEY": lambda: ".lab/cloud/old",
            "OLD": lambda: "100000",
            "v": self.release,
        }
        assert set(known) == set(rehearsal.FILLED)
        return Values(known)

    # --- typing -----------------------------------------------------------------------------------

    def _shell_folder(self, ticket: Ticket) -> Path:
        """The checkout, or where a ticket clones it: somebody else's computer, with the sealed copies."""
        blocks = rehearsal.steps(ticket, rehearsal.ON_MACHINES)
        if not any(block.text.count("git clone REPOSITORY") for block in blocks):
            return self.folder
        folder = self.place / f"host-of-{ticket.id}"
        folder.mkdir(exist_ok=True)
        shutil.rmtree(folder / "counter", ignore_errors=True)
        for sealed in self.folder.glob("*.state.age"):
            shutil.copy(sealed, folder)
        (folder / "provide").write_text(PROVIDE.format(root=ROOT))
        (folder / "provide").chmod(0o755)
        return folder

    def play(self, ticket: Ticket) -> list[str]:
        """Type a ticket; what is wrong, a line each."""
        self.ticket = ticket.id
        values, wrong = self.values(), list[str]()
        self.world.paged.clear()
        if (self.folder / ".lab" / "live" / "cloud.yaml").exists():
            self.world.lead_names_to(values["RESERVED-ADDRESS"])
        with ExitStack() as stack:

            def opened() -> Terminal:
                return stack.enter_context(
                    Terminal(self._shell_folder(ticket), self.environment, ANSWERS)
                )

            self.terminal = opened()
            beside: list[tuple[Check, Terminal]] = []
            for step in rehearsal.steps(ticket, rehearsal.ON_MACHINES):
                first, *more = step.checks()
                if not more and rehearsal.BESIDE.match(first.command):
                    check = first
                    second = opened()
                    second.begin(rehearsal.fill(rehearsal.typed(check.command), values))
                    beside.append((check, second))
                elif not self.terminal.is_closed:
                    wrong += type_block(step, self.terminal, values)
            for check, second in beside:
                if check.command.startswith("make dashboard"):
                    second.interrupt()
                    code, output = second.end(30)
                    if "http://127.0.0.1" not in output:
                        wrong.append(f"{ticket.id}: {check.command}: {code}: {output}")
                else:
                    code, output = second.end(900)
                    if trouble := check.wrong(code, output):
                        wrong.append(f"{ticket.id}: {check.command}: {trouble}")
        if (paged := self.world.paged) != WAKES.get(ticket.id, paged):
            wrong.append(f"{ticket.id}: somebody was woken by {', '.join(paged) or 'nothing'}")
        return wrong


@contextmanager
def staged(place: Path) -> Iterator[Stage]:
    """An empty account, and the machines that its droplets will be; removed in the end."""
    with ExitStack() as stack:
        # Before this run's own topologies are written into it.
        copy_with_packages(place / "counter")
        hosts = yaml.safe_load((ROOT / "pillar" / "topologies" / "prod.yaml").read_text())[
            "machines"
        ]
        droplets = Droplets(World(place, ""))
        stack.callback(droplets.remove)
        droplets.write({name: one["roles"] for name, one in hosts.items()})
        # The first of them bring this computer's side of their network.
        droplets.is_ready("live-edge1")
        droplets.wait()
        (place / "world").mkdir()
        droplets.world = stack.enter_context(
            outside_world.around(place / "world", networks.with_octet(1))
        )
        api = stack.enter_context(Standin(pace=0.5, machines=droplets, latency=0.02))
        stage = Stage(place, droplets.world, api, droplets)
        stage.prepare(stack)
        stack.callback(take_down_lab, stage)
        yield stage


def take_down_lab(stage: Stage) -> None:
    """What a ticket that failed halfway left up in the lab."""
    for name in (networks.named("prod"), networks.named("rehearsed")):
        for folder in (stage.folder, *stage.place.glob("host-of-*/counter")):
            if (folder / ".lab" / name).exists():
                subprocess.run(
                    ["make", "down", f"TOPOLOGY={name}"],
                    cwd=folder,
                    env=stage.environment,
                    check=False,
                )


@pytest.fixture(autouse=True)
def leave_it_well() -> None:
    """In place of the other tests': these machines begin with nothing on them."""


@pytest.mark.timeout(4 * 3600)
@pytest.mark.one_release
@pytest.mark.controller
@pytest.mark.nightly(
    "fifteen machines and every ticket, an hour or two; blocks that need no machine are a unit test's"
)
def test_the_tickets_are_rehearsed(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        for ticket in rehearsal.in_order(tickets.load()):
            # What comes after a command that failed says nothing.
            wrong = stage.play(ticket)
            assert not wrong, "\n".join(wrong)
        assert stage.api.names() == [] and not stage.api.firewalls
