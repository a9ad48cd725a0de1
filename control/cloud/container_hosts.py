"""
Hosts that run containers, on DigitalOcean: a custom image of Fedora CoreOS, which takes the Ignition file as user data. What
is uploaded is kept by DigitalOcean and can be read by every process on the host, so there is no secret in it: secrets,
images and certificate are handed over by ssh after the first boot, as in the lab (control/containers/handover.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from .. import local_state
from ..artifacts import build
from ..containers import images, lifecycle, rendering
from ..errors import UserError
from ..options import Options
from ..topology import Topology

# Bytes of user data that DigitalOcean takes.
MOST = 64 * 1024
PROFILE = "containers"
NO_IMAGE = (
    "; an image of Fedora CoreOS is the account's own: 'salt-cloud -f import_image digitalocean name=fedora-coreos"
    " url=https://…-digitalocean.x86_64.qcow2.gz' (docs/containers.md)"
)


def user_data_file(topology: Topology, machine: str) -> Path:
    return local_state.folder(topology) / f"{machine}.user-data"


def write_user_data(topology: Topology, options: Options) -> None:
    """
    The user data of each host, checked by Ignition's own validator, and the images that they will run: all that can fail
    without a host, before one is paid for.
    """
    rendering.refuse_several(topology)
    images.ensure(build.build_artifact(options), options)
    for name in topology.machines:
        path = lifecycle.ignition_file(topology, name, rendering.render(topology, name))
        # Without the spaces that make it readable.
        text = json.dumps(json.loads(path.read_text(encoding="utf-8")), separators=(",", ":"))
        if len(text.encode()) > MOST:
            raise UserError(
                f"{path}: {len(text.encode())} bytes, and DigitalOcean takes {MOST} of user data: leave large settings for"
                " what is handed over later (LATER in control/containers/ignition.py)"
            )
        user_data_file(topology, name).write_text(text, encoding="utf-8")
