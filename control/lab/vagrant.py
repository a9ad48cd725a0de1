"""
The lab's machines on this computer, made by Vagrant under whichever provider there is: virtualbox or libvirt
on a laptop; lxc where there is no hypervisor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence

from .. import local_state, shell
from ..errors import OperationError, UserError
from ..options import Options, child_environment
from ..paths import ROOT
from ..topology import Topology
from . import containers, host, network

SUITES = ("trixie", "bookworm")
# Seconds that a machine which was stopped may take until its sshd answers.
SSH_WAIT = 180


def choose_provider(topology: Topology, options: Options) -> str:
    """``virtualbox``, ``libvirt`` or ``lxc``: what the topology's machines were made with, else
    PROVIDER if given, else the first that is here."""
    asked = options.provider
    if asked and asked not in ("virtualbox", "libvirt", "lxc"):
        raise UserError(f"PROVIDER={asked}: use virtualbox, libvirt or lxc", 2)
    note = local_state.folder(topology) / "provider"
    if note.exists():
        made = note.read_text(encoding="utf-8").strip()
        if asked and asked != made:
            raise UserError(
                f"the machines of {topology.name} were made with {made}: 'make down' first, then"
                f" PROVIDER={asked}"
            )
        return made
    if asked:
        return asked
    if shutil.which("vagrant"):
        if shutil.which("VBoxManage"):
            return "virtualbox"
        if shutil.which("virsh") and host.has_plugin("vagrant-libvirt"):
            return "libvirt"
    return "lxc"


def choose_suite(topology: Topology, options: Options) -> str:
    """Debian release: what the machines were made with, SUITE, the topology's, or trixie."""
    suite = local_state.recorded_suite(topology) or options.suite or topology.suite
    if suite not in SUITES:
        raise UserError(f"SUITE={suite}: not supported; use {' or '.join(SUITES)}", 2)
    return suite


def _command_line(provider: str, *words: str) -> list[str]:
    """Of vagrant, run where lxc works."""
    command = ["vagrant", *words]
    return [str(ROOT / "lab" / "enter"), *command] if provider == "lxc" else command


def _environment(topology: Topology, options: Options, is_as_made: bool = False) -> dict[str, str]:
    """What the Vagrantfile reads. Each topology keeps its state apart. ``is_as_made``: the machines
    are those of the last 'make up', not those that the topology has now."""
    recorded = local_state.recorded_topology(topology)
    return child_environment(
        TOPOLOGY=topology.name,
        TOPOLOGY_FILE=str(recorded) if is_as_made and recorded.exists() else "",
        SUITE=choose_suite(topology, options),
        VAGRANT_DOTFILE_PATH=str(local_state.folder(topology) / "vagrant"),
        VAGRANT_CHECKPOINT_DISABLE="1",
    )


def _run(
    topology: Topology, options: Options, provider: str, *words: str, is_as_made: bool = False
) -> str:
    """Output of vagrant; OperationError with its words when it fails."""
    done = subprocess.run(
        _command_line(provider, *words),
        cwd=ROOT,
        env=_environment(topology, options, is_as_made),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        answer = (done.stderr or done.stdout).strip()
        raise OperationError(f"vagrant {words[0]} failed:\n{answer}")
    return done.stdout


def _destroy(
    topology: Topology,
    options: Options,
    provider: str,
    names: Sequence[str],
    is_as_made: bool = False,
) -> None:
    if provider == "lxc":
        containers.power_off(topology, names)
    _run(topology, options, provider, "destroy", "--force", *names, is_as_made=is_as_made)


def remove_machines(topology: Topology, names: Sequence[str], options: Options) -> None:
    """Destroy machines that the topology no longer has."""
    provider = choose_provider(topology, options)
    _destroy(topology, options, provider, names, is_as_made=True)
    for name in names:
        containers.owner_file(containers.container_name(topology, name)).unlink(missing_ok=True)


def forget(topology: Topology, name: str, options: Options) -> None:
    """Destroy a machine that an interrupted run left between two steps; nothing where there is none."""
    if (local_state.folder(topology) / "vagrant").exists():
        _destroy(topology, options, choose_provider(topology, options), [name])
        local_state.ssh_config(topology).unlink(missing_ok=True)


def _read_states(topology: Topology, options: Options) -> dict[str, str]:
    """``{name: Vagrant's word for its state}`` of machines that have been up: they have their own keys
    and, as a rule, our sshd."""
    if not local_state.is_up(topology):
        return {}
    config = local_state.ssh_config(topology).read_text(encoding="utf-8")
    provider = choose_provider(topology, options)
    answer = _run(topology, options, provider, "status", "--machine-readable")
    fields = [line.split(",") for line in answer.splitlines()]
    return {
        name: state
        for _, name, kind, state, *_ in (field for field in fields if len(field) > 3)
        if kind == "state" and state != "not_created" and f"Host {name}\n" in config
    }


def _vagrant_up(
    topology: Topology,
    options: Options,
    provider: str,
    names: Sequence[str],
    boot_timeout: int | None = None,
    more: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Exit code and output of ``vagrant up`` without provisioning; it says itself what it does,
    indented as part of a step. ``boot_timeout``: seconds that it waits for its own ssh."""
    environment = {**_environment(topology, options), **(more or {})}
    if boot_timeout is not None:
        environment["BOOT_TIMEOUT"] = str(boot_timeout)
    lines = []
    with subprocess.Popen(
        # One after the other: of several at once Vagrant 2.3 now and then finds one locked by itself, the likelier
        # the busier the computer is.
        _command_line(
            provider, "up", f"--provider={provider}", "--no-provision", "--no-parallel", *names
        ),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("==>"):
                shell.say("  " + line.rstrip().removeprefix("==> "))
    return process.returncode, lines


def is_reachable(topology: Topology, name: str) -> bool:
    """Whether a machine that was just started lets us in, within SSH_WAIT seconds."""
    line = [
        "ssh",
        "-F",
        str(local_state.ssh_config(topology)),
        "-o",
        "ControlPath=none",
        name,
        "true",
    ]
    deadline = time.monotonic() + SSH_WAIT
    while subprocess.run(line, capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def bring_up(topology: Topology, options: Options, more: Mapping[str, str] | None = None) -> None:
    """Machines that are not there made, those that are stopped started, by Vagrant without
    provisioning; then the ssh configuration. ``more``: what the Vagrantfile reads besides."""
    provider = choose_provider(topology, options)
    folder = local_state.folder(topology)
    folder.mkdir(parents=True, exist_ok=True)
    recorded = local_state.recorded_suite(topology)
    if recorded and options.suite and options.suite != recorded:
        raise UserError(
            f"the machines of {topology.name} run {recorded}: 'make down' first, then"
            f" SUITE={options.suite}"
        )
    (folder / "suite").write_text(f"{choose_suite(topology, options)}\n", encoding="utf-8")
    (folder / "provider").write_text(f"{provider}\n", encoding="utf-8")
    states = _read_states(topology, options)
    stopped = [name for name, state in states.items() if state != "running"]
    new = [name for name in topology.machines if name not in states]
    if stopped:
        # Its own ssh may not know what a hardened sshd speaks: whether ours does is asked below.
        _, lines = _vagrant_up(topology, options, provider, stopped, boot_timeout=1)
    if new:
        code, lines = _vagrant_up(topology, options, provider, new, more=more)
        if code:
            # What went wrong stands above Ruby's trace of where.
            said = [line for line in lines if not re.match(r"\S+\.rb:\d+:in ", line)]
            raise OperationError("vagrant up failed:\n" + "".join(said[-15:]).rstrip())
    # A hypervisor may have given what was started another port; a container has its own address.
    if new or (stopped and provider != "lxc"):
        _write_ssh_config(topology, options, provider)
    unreachable = [name for name in stopped if not is_reachable(topology, name)]
    if unreachable:
        raise OperationError(
            f"{', '.join(unreachable)}: started, and no answer over ssh within {SSH_WAIT} s:\n"
            + "".join(lines[-15:]).rstrip()
        )


def _write_ssh_config(topology: Topology, options: Options, provider: str) -> None:
    config = _run(topology, options, provider, "ssh-config")
    if "HostName" not in config:
        raise OperationError("vagrant ssh-config failed: it names no machine")
    common = local_state.common_ssh_options("ConnectTimeout 10")
    local_state.ssh_config(topology).write_text(f"{config.strip()}\n\n{common}", encoding="utf-8")


def take_down(topology: Topology, options: Options) -> None:
    """
    Destroy the topology's machines and all that was kept about them, also when the checkout that made them is gone.
    UserError, before anything is removed, when another one has them.
    """
    folder = local_state.folder(topology)
    if shutil.which("lxc-ls") and (others := containers.of_others(topology)):
        raise UserError(f"{'; '.join(others)}: 'make down' there, nothing was removed")
    if (folder / "vagrant").exists():
        note = folder / "provider"
        provider = note.read_text(encoding="utf-8").strip() if note.exists() else "lxc"
        if local_state.is_up(topology):
            config = str(local_state.ssh_config(topology))
            for name in topology.machines:
                subprocess.run(
                    ["ssh", "-F", config, "-O", "exit", name], capture_output=True, check=False
                )
        if not shutil.which("vagrant"):
            raise UserError("vagrant is not on the PATH, so the machines cannot be removed")
        if removed := local_state.removed_machines(topology):
            remove_machines(topology, removed, options)
        _destroy(topology, options, provider, list(topology.machines))
    if shutil.which("lxc-ls"):
        existing, owners = containers.list_containers(), containers.read_owners()
        for name in topology.machines:
            container = containers.container_name(topology, name)
            owner = owners.get(container)
            if owner and not owner.is_another:
                if container in existing:
                    containers.destroy(container)
                containers.owner_file(container).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    with host.lock_host():
        network.release_network()
