"""The base box that lab machines are made from under lxc."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .. import local_state, shell
from ..errors import OperationError
from ..options import Options, child_environment, vagrant_home
from ..paths import ROOT


def ensure_box(suite: str, options: Options) -> None:
    """Build the base box unless it is cached, and make it known to Vagrant unless it is."""
    local_state.CACHE.mkdir(parents=True, exist_ok=True)
    # Through sudo nothing of the environment is left: what the build needs is named.
    passed = [f"LAB_CACHE={local_state.CACHE}", "DEBIAN_FRONTEND=noninteractive"]
    passed += [
        f"{name}={value}" for name, value in child_environment().items() if name.startswith("PIP_")
    ]
    built = subprocess.run(
        shell.sudo(["env", *passed, str(ROOT / "lab" / "box.sh"), suite]),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if built.returncode:
        raise OperationError(f"the base box for {suite} could not be built (see above)")
    path = Path(built.stdout.strip().splitlines()[-1])
    home = vagrant_home()
    known = home / "boxes" / f"counter-VAGRANTSLASH-{suite}" / "0" / "lxc" / "metadata.json"
    try:
        if json.loads(known.read_text(encoding="utf-8")).get("key") == path.stem:
            return
    except (OSError, ValueError):
        pass
    shell.run(
        [
            "vagrant",
            "box",
            "add",
            "--force",
            "--name",
            f"counter/{suite}",
            "--provider",
            "lxc",
            str(path),
        ],
        # Not here: Vagrant would read the Vagrantfile, which wants a topology.
        cwd="/",
    )
