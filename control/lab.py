"""
The lab: machines on this computer, made by Vagrant under whichever provider there is.

virtualbox or libvirt on a laptop; lxc where there is no hypervisor. For lxc this prepares what
Vagrant's provider needs of the host (a bridge, lxc's own network) and takes it back with the
last machine. It ends and removes only what it made.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import Refused
from .topology import FOLDER, ROOT, Topology, read

CACHE = Path(
    os.environ.get("LAB_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counter-lab"
)
SUITES = ("trixie", "bookworm")
BRIDGE = "counterbr0"
# Locally administered (IEEE 802c); the rest spells "count".
BRIDGE_ADDRESS = "02:63:6f:75:6e:74"
# What this host was given for the lab and gets rid of with the last machine.
_RUN = Path("/run/counter-lab")
# A machine that has just booted may be updating itself.
LOCK_WAIT = ("-o", "DPkg::Lock::Timeout=300")
PLUGIN = "vagrant-lxc"
PLUGIN_VERSION = "1.4.3"
# Seconds that a machine which was stopped may take until its sshd answers.
SSH_WAIT = 180
# Debian package -> why it is needed.
PACKAGES = {
    "vagrant": "makes the machines",
    "vagrant-lxc": "Vagrant's provider for containers",
    "lxc": "runs them",
    "iptables": "the machines' way out",
    "dnsmasq-base": "their addresses and names",
    "mmdebstrap": "builds their base box out of distribution packages",
    "iproute2": "the bridge between them",
    "openssh-client": "how they are reached",
    "ca-certificates": "packages are fetched over TLS",
}


def say(text: str) -> None:
    print(text, flush=True)


def sudo(command: Sequence[str]) -> list[str]:
    """``command`` as root: as it is for root, through sudo for anybody else."""
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


@contextlib.contextmanager
def host_lock() -> Iterator[None]:
    """
    One at a time for what all topologies on this host share: packages, boxes, the network. Two
    ``make up`` may run side by side, and a ``make down`` takes nothing from under the other.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    # Who can open it can hold it, and with it everybody else's commands.
    with open(CACHE / "host.lock", "w", opener=lambda p, f: os.open(p, f, 0o600)) as handle:
        os.fchmod(handle.fileno(), 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("  waiting: another command prepares this host")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def provider(topology: Topology) -> str:
    """``virtualbox``, ``libvirt`` or ``lxc``: what the topology's machines were made with, else
    PROVIDER if given, else the first that is here."""
    given = os.environ.get("PROVIDER")
    if given and given not in ("virtualbox", "libvirt", "lxc"):
        raise Refused(f"PROVIDER={given}: use virtualbox, libvirt or lxc", 2)
    note = state(topology) / "provider"
    if note.exists():
        made = note.read_text(encoding="utf-8").strip()
        if given and given != made:
            raise Refused(
                f"the machines of {topology.name} were made with {made}: 'make down' first, then"
                f" PROVIDER={given}"
            )
        return made
    if given:
        return given
    if shutil.which("vagrant"):
        if shutil.which("VBoxManage"):
            return "virtualbox"
        if shutil.which("virsh") and _has_plugin("vagrant-libvirt"):
            return "libvirt"
    return "lxc"


def suite(topology: Topology) -> str:
    """Debian release: what the machines were made with, SUITE, the topology's, or trixie."""
    given = made_suite(topology) or os.environ.get("SUITE") or topology.suite
    if given not in SUITES:
        raise Refused(f"SUITE={given}: not supported; use {' or '.join(SUITES)}", 2)
    return given


def _apt(words: list[str], why: str) -> None:
    done = subprocess.run(
        sudo(
            [
                "env",
                "DEBIAN_FRONTEND=noninteractive",
                "RUNLEVEL=1",
                "apt-get",
                "-q",
                *LOCK_WAIT,
                *words,
            ]
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise Refused(f"{why} failed (network?):\n{tail}")


def install_packages() -> None:
    """Debian packages that the lxc lab needs and this host lacks; says what and why."""
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Abbrev}\n", *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    there = {line.split()[0] for line in listed.splitlines() if line.split()[1:2] == ["ii"]}
    missing = [package for package in PACKAGES if package not in there]
    if PLUGIN in missing and _has_plugin(PLUGIN):
        missing.remove(PLUGIN)
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Refused(
            f"this host lacks {', '.join(missing)} and has no apt-get: install Vagrant with"
            " VirtualBox or libvirt, or run on Debian or Ubuntu"
        )
    say("installing system packages for the lab:")
    for package in missing:
        say(f"  {package:<16} {PACKAGES[package]}")
    _apt(["update"], "apt-get update")
    policy = subprocess.run(
        ["apt-cache", "policy", PLUGIN], capture_output=True, text=True, check=False
    ).stdout
    from_gems = PLUGIN in missing and ("Candidate:" not in policy or "Candidate: (none)" in policy)
    if from_gems:
        missing.remove(PLUGIN)
    if missing:
        _apt(["install", "-y", "--no-install-recommends", *missing], "apt-get install")
    if from_gems:
        # Debian 13 has Vagrant but not this plugin.
        say(f"  this release has no package {PLUGIN}: asking Vagrant for {PLUGIN} {PLUGIN_VERSION}")
        run_quiet(
            ["vagrant", "plugin", "install", PLUGIN, "--plugin-version", PLUGIN_VERSION], cwd="/"
        )


def _has_plugin(name: str) -> bool:
    if not shutil.which("vagrant"):
        return False
    plugins = subprocess.run(
        ["vagrant", "plugin", "list"], capture_output=True, text=True, check=False, cwd="/"
    )
    return name in plugins.stdout


def _link_exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def prepare_network(topology: Topology) -> None:
    """The bridge that is the topology's private network, and lxc's network for the way out."""
    if os.geteuid() != 0 and not shutil.which("sudo"):
        raise Refused("preparing the lab's network needs root: install sudo or run as root")
    for route in subprocess.run(
        ["ip", "-4", "-o", "addr", "show"], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        fields = route.split()
        if fields[1] != BRIDGE and fields[3].split("/")[0] == topology.gateway:
            raise Refused(
                f"{topology.gateway} is in use on this host ({fields[1]}): choose another"
                f" network in pillar/topologies/{topology.name}.yaml"
            )
    subprocess.run(sudo(["mkdir", "-p", str(_RUN)]), check=True)
    if not _link_exists(BRIDGE):
        run_quiet(sudo(["ip", "link", "add", BRIDGE, "type", "bridge"]))
        run_quiet(sudo(["touch", str(_RUN / "bridge")]))
    # Its own, not the lowest of its ports': with that, a machine that goes away would change it, and
    # the others would send to nobody for seconds, long enough for ssh to give up.
    run_quiet(sudo(["ip", "link", "set", BRIDGE, "address", BRIDGE_ADDRESS]))
    run_quiet(
        sudo(
            [
                "ip",
                "addr",
                "replace",
                f"{topology.gateway}/{topology.network.prefixlen}",
                "dev",
                BRIDGE,
            ]
        )
    )
    run_quiet(sudo(["ip", "link", "set", BRIDGE, "up"]))
    if _link_exists("lxcbr0"):
        return
    if Path("/run/systemd/system").exists():
        run_quiet(sudo(["systemctl", "start", "lxc-net"]))
    else:
        # No systemd here: the same start script by hand.
        _lxc_net("start")
        run_quiet(sudo(["touch", str(_RUN / "lxc-net")]))
    if not _link_exists("lxcbr0"):
        raise Refused("lxc's network lxcbr0 did not come up: see /etc/default/lxc-net")


def _lxc_net(word: str) -> None:
    for script in ("/usr/libexec/lxc/lxc-net", "/usr/lib/x86_64-linux-gnu/lxc/lxc-net"):
        if Path(script).exists():
            run_quiet(sudo([script, word]))
            return
    raise Refused("lxc's network script lxc-net was not found: is the package lxc whole?")


def _destroy(container: str) -> None:
    run_quiet(sudo([str(ROOT / "lab" / "enter"), "lxc-destroy", "--force", "--name", container]))


def release_network() -> None:
    """Take back what :func:`prepare_network` made, once no machine of the lab is left or due."""
    if not shutil.which("lxc-ls") or containers() or _due():
        return
    if (_RUN / "bridge").exists() and _link_exists(BRIDGE):
        run_quiet(sudo(["ip", "link", "del", BRIDGE]))
        run_quiet(sudo(["rm", "-f", str(_RUN / "bridge")]))
    if (_RUN / "lxc-net").exists():
        _lxc_net("stop")
        run_quiet(sudo(["rm", "-f", str(_RUN / "lxc-net")]))


def run_quiet(command: Sequence[str], cwd: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise Refused(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


def container_name(topology: Topology, machine: str) -> str:
    """Name of a machine's container on this host. No topology's and no machine's name has a ``_``,
    so that machine ``eu-web1`` of topology ``bz`` is never ``web1`` of ``bz-eu``."""
    return f"counter_{topology.name}_{machine}"


def containers() -> list[str]:
    """Names of the lab's containers on this host, whichever checkout made them."""
    listed = subprocess.run(sudo(["lxc-ls", "-1"]), capture_output=True, text=True, check=False)
    if listed.returncode:
        raise Refused(
            f"lxc-ls failed, so nothing is known of the machines: {listed.stderr.strip()}"
        )
    return [name for name in listed.stdout.split() if name.startswith(("counter_", "counter-"))]


def vagrant(*words: str, provider_name: str) -> list[str]:
    """Command line of vagrant, run where lxc works; see :func:`environment`."""
    command = ["vagrant", *words]
    if provider_name == "lxc":
        command = [str(ROOT / "lab" / "enter"), *command]
    return command


def environment(topology: Topology, as_made: bool = False) -> dict[str, str]:
    """What the Vagrantfile reads. Each topology keeps its state apart. ``as_made``: the machines
    are those of the last 'make up', not those that the topology has now."""
    made = as_made and _made(topology).exists()
    return {
        **os.environ,
        "TOPOLOGY": topology.name,
        "TOPOLOGY_FILE": str(_made(topology)) if made else "",
        "SUITE": suite(topology),
        "VAGRANT_DOTFILE_PATH": str(state(topology) / "vagrant"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }


def state(topology: Topology) -> Path:
    """Folder of what is known of a topology's machines on this computer; git ignores it."""
    return ROOT / ".lab" / topology.name


def _made(topology: Topology) -> Path:
    """The topology's file as it was when its machines were made."""
    return state(topology) / "topology.yaml"


def gone(topology: Topology) -> list[str]:
    """Machines that 'make up' made and that the topology no longer has."""
    if not _made(topology).exists():
        return []
    return [
        name
        for name in read(_made(topology), topology.name).machines
        if name not in topology.machines
    ]


def added(topology: Topology) -> list[str]:
    """Machines that the topology has and 'make up' has not yet made, of a topology that is up."""
    if not _made(topology).exists():
        return []
    made = read(_made(topology), topology.name).machines
    return [name for name in topology.machines if name not in made]


def remember(topology: Topology) -> None:
    """The machines are what the topology says."""
    shutil.copyfile(FOLDER / f"{topology.name}.yaml", _made(topology))


def remove(topology: Topology, names: Sequence[str]) -> None:
    """Destroy machines that the topology no longer has."""
    which = provider(topology)
    done = subprocess.run(
        vagrant("destroy", "--force", *names, provider_name=which),
        cwd=ROOT,
        env=environment(topology, as_made=True),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refused(f"vagrant destroy failed:\n{(done.stderr or done.stdout).strip()}")
    for name in names:
        _note(container_name(topology, name)).unlink(missing_ok=True)


def made_suite(topology: Topology) -> str | None:
    path = state(topology) / "suite"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def ssh_config(topology: Topology) -> Path:
    return state(topology) / "ssh_config"


def is_up(topology: Topology) -> bool:
    return ssh_config(topology).exists()


def access_hint(topology: Topology) -> str:
    """How this checkout comes to know machines that another one made."""
    return (
        "bring what the checkout that made them knows: '.venv/bin/python -m control.access unpack"
        f" {topology.name} FILE' (docs/many-machines.md)"
    )


def not_up(topology: Topology, instead: str = "") -> Refused:
    """No machine is known here: one of the lab is to be made, one of elsewhere must not be."""
    return Refused(
        f"no machines of topology {topology.name} are up: 'make up' first, for a lab on this computer"
        f"{instead}; where they are in a cloud, or another checkout made them, {access_hint(topology)}"
    )


def box(suite_name: str) -> None:
    """Build the base box unless it is cached, and make it known to Vagrant unless it is."""
    CACHE.mkdir(parents=True, exist_ok=True)
    # Through sudo nothing of the environment is left: what the build needs is named.
    passed = [f"LAB_CACHE={CACHE}", "DEBIAN_FRONTEND=noninteractive"]
    passed += [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
    built = subprocess.run(
        sudo(["env", *passed, str(ROOT / "lab" / "box.sh"), suite_name]),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if built.returncode:
        raise Refused(f"the base box for {suite_name} could not be built (see above)")
    path = Path(built.stdout.strip().splitlines()[-1])
    home = Path(os.environ.get("VAGRANT_HOME") or Path.home() / ".vagrant.d")
    known = home / "boxes" / f"counter-VAGRANTSLASH-{suite_name}" / "0" / "lxc" / "metadata.json"
    try:
        if json.loads(known.read_text(encoding="utf-8")).get("key") == path.stem:
            return
    except (OSError, ValueError):
        pass
    run_quiet(
        [
            "vagrant",
            "box",
            "add",
            "--force",
            "--name",
            f"counter/{suite_name}",
            "--provider",
            "lxc",
            str(path),
        ],
        # Not here: Vagrant would read the Vagrantfile, which wants a topology.
        cwd="/",
    )


@dataclass(frozen=True)
class Claim:
    """Who made a container on this host: a checkout, for a topology's machine at an address."""

    checkout: Path
    topology: str
    machine: str
    address: str

    @property
    def is_in_force(self) -> bool:
        """Whether the checkout is still there and still has machines of that topology."""
        return (self.checkout / ".lab" / self.topology).exists()


def _note(container: str) -> Path:
    """File that says whose a container is; all checkouts of this user share the folder."""
    return CACHE / "machines" / container


def claims() -> dict[str, Claim]:
    """``{container: claim}`` of all checkouts on this host."""
    found = {}
    for note in sorted((CACHE / "machines").glob("counter_*_*")):
        _, topology, machine = note.name.split("_")
        checkout, address = (*note.read_text(encoding="utf-8").splitlines(), "", "")[:2]
        found[note.name] = Claim(Path(checkout), topology, machine, address)
    return found


def _due() -> list[str]:
    """Containers that a checkout has claimed and may be making right now."""
    return [container for container, claim in claims().items() if claim.is_in_force]


def claim(topology: Topology) -> None:
    """
    Make sure that the machines to be are ours: a container left by an interrupted run of this
    checkout, or of one that is gone, is removed; one of another checkout is named and left.

    Refused, before anything is made, when a machine of another topology has one of the addresses.
    """
    existing, known = containers(), claims()
    ours = {container_name(topology, name): machine for name, machine in topology.machines.items()}
    addresses = {machine.address: name for name, machine in topology.machines.items()}
    for container, other in known.items():
        taken = container in existing and container not in ours and other.address in addresses
        if taken and other.is_in_force:
            raise Refused(
                f"{topology.name}: machine {addresses[other.address]} has address {other.address},"
                f" which machine {other.machine} of topology {other.topology} uses on this host:"
                f" 'make down TOPOLOGY={other.topology}' in {other.checkout}, or another address in"
                f" pillar/topologies/{topology.name}.yaml"
            )
    for container, machine in ours.items():
        owner = known.get(container)
        made = state(topology) / "vagrant" / "machines" / machine.name / "lxc" / "id"
        if container in existing and not made.exists():
            if owner is None:
                # A note is written before the first container: this one is somebody else's.
                raise Refused(
                    f"machine {container} is there but was not made by you: whoever made it runs"
                    f" 'make down TOPOLOGY={topology.name}', or remove it with lxc-destroy"
                )
            if owner.checkout != ROOT and owner.is_in_force:
                raise Refused(
                    f"machine {container} runs already, for the checkout in {owner.checkout}:"
                    f" 'make down TOPOLOGY={topology.name}' there first"
                )
            say(f"removing {container}, left half-made by an interrupted run")
            _destroy(container)
        _note(container).parent.mkdir(parents=True, exist_ok=True)
        _note(container).write_text(f"{ROOT}\n{machine.address}\n", encoding="utf-8")


def _made_machines(topology: Topology) -> dict[str, str]:
    """``{name: Vagrant's word for its state}`` of machines that have been up: they have their own keys
    and, as a rule, our sshd."""
    if not is_up(topology):
        return {}
    config = ssh_config(topology).read_text(encoding="utf-8")
    asked = subprocess.run(
        vagrant("status", "--machine-readable", provider_name=provider(topology)),
        cwd=ROOT,
        env=environment(topology),
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        raise Refused(f"vagrant status failed:\n{(asked.stderr or asked.stdout).strip()}")
    fields = [line.split(",") for line in asked.stdout.splitlines()]
    return {
        name: state
        for _, name, kind, state, *_ in (field for field in fields if len(field) > 3)
        if kind == "state" and state != "not_created" and f"Host {name}\n" in config
    }


def _vagrant_up(
    topology: Topology, which: str, names: Sequence[str], boot_timeout: int | None = None
) -> tuple[int, list[str]]:
    """Exit code and output of ``vagrant up`` without provisioning; it says itself what it does,
    indented as part of a step. ``boot_timeout``: seconds that it waits for its own ssh."""
    given = {} if boot_timeout is None else {"BOOT_TIMEOUT": str(boot_timeout)}
    lines = []
    with subprocess.Popen(
        vagrant("up", f"--provider={which}", "--no-provision", *names, provider_name=which),
        cwd=ROOT,
        env={**environment(topology), **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("==>"):
                say("  " + line.rstrip().removeprefix("==> "))
    return process.returncode, lines


def answers(topology: Topology, name: str) -> bool:
    """Whether a machine that was just started lets us in, within SSH_WAIT seconds."""
    line = ["ssh", "-F", str(ssh_config(topology)), "-o", "ControlPath=none", name, "true"]
    deadline = time.monotonic() + SSH_WAIT
    while subprocess.run(line, capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def bring_up(topology: Topology) -> None:
    """Machines that are not there made, those that are stopped started, by Vagrant without
    provisioning; then the ssh configuration."""
    which = provider(topology)
    folder = state(topology)
    folder.mkdir(parents=True, exist_ok=True)
    made, wanted = made_suite(topology), os.environ.get("SUITE")
    if made and wanted and wanted != made:
        raise Refused(
            f"the machines of {topology.name} run {made}: 'make down' first, then SUITE={wanted}"
        )
    (folder / "suite").write_text(f"{suite(topology)}\n", encoding="utf-8")
    (folder / "provider").write_text(f"{which}\n", encoding="utf-8")
    known = _made_machines(topology)
    stopped = [name for name, state in known.items() if state != "running"]
    new = [name for name in topology.machines if name not in known]
    if stopped:
        # Its own ssh may not know what a hardened sshd speaks: whether ours does is asked below.
        _, lines = _vagrant_up(topology, which, stopped, boot_timeout=1)
    if new:
        code, lines = _vagrant_up(topology, which, new)
        if code:
            raise Refused("vagrant up failed:\n" + "".join(lines[-15:]).rstrip())
    # A hypervisor may have given what was started another port; a container has its own address.
    if new or (stopped and which != "lxc"):
        _write_ssh_config(topology, which)
    away = [name for name in stopped if not answers(topology, name)]
    if away:
        raise Refused(
            f"{', '.join(away)}: started, and no answer over ssh within {SSH_WAIT} s:\n"
            + "".join(lines[-15:]).rstrip()
        )


def _write_ssh_config(topology: Topology, which: str) -> None:
    written = subprocess.run(
        vagrant("ssh-config", provider_name=which),
        cwd=ROOT,
        env=environment(topology),
        capture_output=True,
        text=True,
        check=False,
    )
    if written.returncode or "HostName" not in written.stdout:
        raise Refused(f"vagrant ssh-config failed: {written.stderr.strip()}")
    # One connection serves many commands; a machine that went away is noticed.
    control = CACHE / "ssh"
    control.mkdir(parents=True, exist_ok=True, mode=0o700)
    extra = (
        "Host *\n  ControlMaster auto\n"
        f"  ControlPath {control}/%C\n"
        "  ControlPersist 60\n  ServerAliveInterval 3\n  ServerAliveCountMax 3\n  ConnectTimeout 10\n"
    )
    ssh_config(topology).write_text(written.stdout.strip() + "\n\n" + extra, encoding="utf-8")


def take_down(topology: Topology) -> None:
    """Destroy the topology's machines and all that was kept about them."""
    folder = state(topology)
    if (folder / "vagrant").exists():
        which = (
            (folder / "provider").read_text(encoding="utf-8").strip()
            if (folder / "provider").exists()
            else "lxc"
        )
        for name in topology.machines:
            if ssh_config(topology).exists():
                subprocess.run(
                    ["ssh", "-F", str(ssh_config(topology)), "-O", "exit", name],
                    capture_output=True,
                    check=False,
                )
        if not shutil.which("vagrant"):
            raise Refused("vagrant is not on the PATH, so the machines cannot be removed")
        left = gone(topology)
        if left:
            remove(topology, left)
        done = subprocess.run(
            vagrant("destroy", "--force", provider_name=which),
            cwd=ROOT,
            env=environment(topology),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Refused(f"vagrant destroy failed:\n{(done.stderr or done.stdout).strip()}")
    if shutil.which("lxc-ls"):
        existing, known = containers(), claims()
        for name in topology.machines:
            container = container_name(topology, name)
            owner = known.get(container)
            if owner and owner.checkout == ROOT:
                if container in existing:
                    _destroy(container)
                _note(container).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    with host_lock():
        release_network()
