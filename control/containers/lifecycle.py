"""A topology whose hosts run containers: made, converged, and brought to a release."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from .. import local_state, releases, ssh
from ..application import APPS, NAME, Application
from ..artifacts import build, repository
from ..credentials import shared_secrets
from ..errors import OperationError, UserError
from ..lab import container_host, containers, host, network, vagrant
from ..options import Options
from ..paths import ROOT
from ..steps import Steps
from ..topology import Topology
from . import handover, ignition, images, rendering
from .rendering import Host

# Units of the services, by image.
UNITS = {
    "redis": "redis-server",
    "haproxy": "haproxy",
    "prometheus": "prometheus",
    "alertmanager": "prometheus-alertmanager",
}


def login_key(topology: Topology) -> Path:
    """The controller's own ssh key for these hosts; made at first need."""
    path = shared_secrets.folder(topology) / "login"
    if not path.exists():
        words = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            f"controller of {topology.name}",
        ]
        done = subprocess.run(
            [*words, "-f", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OperationError(f"ssh-keygen: {done.stderr.strip()}")
    return path


def ignition_file(topology: Topology, name: str, rendered: Host) -> Path:
    """The Ignition file of a host, written and accepted by Ignition's own validator."""
    key = login_key(topology).with_suffix(".pub").read_text(encoding="utf-8").strip()
    path = local_state.folder(topology) / f"{name}.ign"
    path.write_text(ignition.make(name, rendered, [key]), encoding="utf-8")
    ignition.validate(path)
    return path


def roll(topology: Topology, name: str, built: str, rendered: Host) -> int:
    """Bring the instances of every application to their release, with progress; the exit code. ``built``: what of the counter a
    host gets that never had one."""
    code = 0
    names = [app["name"] for app in rendered.facts["applications"]]
    listed = ssh.run(topology, name, "cd /etc/stack/applications && ls *.conf").split()
    for former in sorted({one.removesuffix(".conf") for one in listed} - set(names)):
        # Its record and folder stay.
        ssh.run(topology, name, f"stack-roll --remove {shlex.quote(former)}")
    for app in rendered.facts["applications"]:
        first = f"STACK_RELEASE={shlex.quote(built)} " if app["is_counter"] else ""
        command = f"{first}exec /usr/local/sbin/stack-roll {app['name']}"
        code = ssh.stream(topology, name, command) or code
    return code


def bring_images(
    topology: Topology, name: str, built: str, rendered: Host, options: Options
) -> list[str]:
    """Those of the services, and of the releases that the host runs, or ``built``; services whose image is another now."""
    known, changed = images.read(), []
    for service in images.SERVICES:
        if images.bring(topology, name, known[service], ["current"]):
            print(f"  {service}: {known[service].digest}", flush=True)
            changed.append(service)
    version = releases.read_current(topology, name) or built
    has = f"podman image exists localhost/{NAME}:{version} && echo yes || true"
    if version == built or not ssh.run(topology, name, has):
        # A host that is made anew gets the version that its disk tells of.
        _, folder = releases.choose_for_host(name, built, {version: ""}, options)
        images.bring_release(topology, name, version, folder or ROOT / "dist")
    for one in rendered.facts["applications"]:
        app = Application(one["name"], APPS)
        version = "" if one["is_counter"] else releases.read_current(topology, name, app) or ""
        has = f"podman image exists localhost/{one['image']}:{version} && echo yes || true"
        if version and not ssh.run(topology, name, has):
            stored = repository.open_repository(options, app.name)
            repository.fetch(stored, version, releases.FETCHED)
            images.bring_release(topology, name, version, releases.FETCHED, app)
    return changed


def converge(topology: Topology, name: str, built: str, options: Options) -> int:
    """Files, secrets, images and release of one host; the exit code."""
    rendered = rendering.render(topology, name)
    if options.test:
        changed = handover.bring(topology, name, rendered, is_test=True)
        print(f"{len(changed)} would change, 0 failed")
        return 0
    changed = handover.bring(topology, name, rendered)
    new_images = bring_images(topology, name, built, rendered, options)

    def start(service: str) -> None:
        # It may wait for its image or its secrets since the first boot.
        action = "restart" if service in new_images else "start"
        ssh.run(topology, name, f"systemctl {action} {UNITS[service]}")

    start("redis")
    code = roll(topology, name, built, rendered)
    for service in ("haproxy", "alertmanager", "prometheus"):
        start(service)
    print(f"{len(changed)} changed, {int(code != 0)} failed")
    return code


def apply(topology: Topology, options: Options) -> int:
    """Converge the hosts again."""
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    if options.sls or options.pillar:
        raise UserError(
            "SLS and PILLAR are not for hosts that run containers: settings go into pillar/", 2
        )
    if options.host == "local":
        raise UserError(
            "HOST=local: a host that runs containers has no Salt and converges nothing by itself", 2
        )
    names = [topology.machine(options.host).name] if options.host else list(topology.machines)
    built = build.build_artifact(options)
    return max(converge(topology, name, built, options) for name in names)


def up(topology: Topology, options: Options, steps: Steps) -> None:
    """Make the hosts in the lab and converge them, in six steps."""
    rendering.refuse_several(topology)
    if vagrant.choose_provider(topology, options) != "lxc":
        raise UserError("container hosts of the lab are made with lxc: PROVIDER=lxc", 2)
    steps.begin("packages", "host packages (provider lxc)")
    with host.lock_host():
        host.install_packages()
    steps.begin("box", "box of container hosts")
    box = container_host.ensure_box(vagrant.choose_suite(topology, options), options)
    steps.begin("images", "artifact of the application, and its images")
    built = build.build_artifact(options)
    print(f"  {NAME} {built}", flush=True)
    images.ensure(built, options)
    steps.begin("ignition", "Ignition files, by Salt")
    files = {}
    for name in topology.machines:
        files[name] = ignition_file(topology, name, rendering.render(topology, name))
        print(
            f"  {files[name].relative_to(Path.cwd())}, {files[name].stat().st_size / 1024:.0f} KiB",
            flush=True,
        )
    steps.begin("boot", f"machines: {', '.join(topology.machines)}")
    with host.lock_host():
        network.ensure_network(topology)
        containers.take_ownership(topology)
    container_host.bring_up(topology, options, box, files, login_key(topology))
    steps.begin("hand over", "secrets, images and services")
    for name in topology.machines:
        if code := converge(topology, name, built, options):
            raise OperationError(
                f"{name}: not converged (see above); mend it and run 'make up' again", code
            )
    local_state.record_topology(topology)


def rotate_secret(topology: Topology, name: str, options: Options) -> int:
    """A new value for a secret of the host; old and new are both accepted until everybody uses the new one."""
    place = shared_secrets.folder(topology) / name
    if not place.is_file() or name in ("login", "login.pub"):
        raise UserError(f"no machine of topology {topology.name} has a secret {name}")
    rendering.change_secret(topology, "rotate", name)
    print(f"==> {name}: new value, the old one still valid", flush=True)
    if code := apply(topology, options):
        raise OperationError(
            f"{name}: both values stay valid; mend the above and run this again", code
        )
    rendering.change_secret(topology, "forget", name)
    print(f"==> {name}: dropping the old value", flush=True)
    return apply(topology, options)
