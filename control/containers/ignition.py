"""
The Ignition file of a host (spec 3.3.0): accounts, files, units. Nothing in it is a secret, for it is uploaded and kept:
what is one is handed over by ssh after the first boot (control/containers/handover.py).
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ..cloud.addresses import LOGIN
from ..errors import OperationError, UserError
from .rendering import ACCOUNTS, File, Host

VERSION = "3.3.0"
VALIDATOR = "ignition-validate"
# Too much for a cloud's user data, and not needed before the secrets, with which they come: rules, pages, scripts.
LATER = ("/etc/prometheus/", "/usr/local/sbin/stack-")


def _contents(data: bytes) -> dict[str, str]:
    # Without a time: the same file gives the same text. A cloud takes 64 KiB of user data.
    packed = base64.b64encode(gzip.compress(data, mtime=0)).decode()
    return {"compression": "gzip", "source": f"data:;base64,{packed}"}


def _file(path: str, file: File) -> dict[str, Any]:
    return {
        "path": path,
        "mode": file.mode,
        "overwrite": True,
        "user": {"name": file.user},
        "group": {"name": file.group},
        "contents": _contents(file.data),
    }


def make(host_name: str, host: Host, keys: list[str]) -> str:
    """The Ignition file of a host, as JSON; ``keys`` are ssh's, of those who may come in as LOGIN."""
    files = {
        path: file
        for path, file in host.files.items()
        if not file.secret and not path.startswith(("/etc/systemd/system/", *LATER))
    }
    files["/etc/hostname"] = File(f"{host_name}\n".encode())
    units = [
        {
            "name": Path(path).name,
            "contents": file.data.decode(),
            **({"enabled": True} if Path(path).name in host.units else {}),
        }
        for path, file in sorted(host.files.items())
        if path.startswith("/etc/systemd/system/")
    ]
    # Images come by the controller, by digest, and change by a deploy or an apply.
    units.append({"name": "podman-auto-update.timer", "mask": True})
    accounts = [
        {
            "name": name,
            "uid": number,
            "primaryGroup": name,
            "system": True,
            "noCreateHome": True,
            "shell": "/usr/sbin/nologin",
        }
        for name, number in ACCOUNTS.items()
    ]
    config = {
        "ignition": {"version": VERSION},
        "passwd": {
            "groups": [
                {"name": name, "gid": number, "system": True} for name, number in ACCOUNTS.items()
            ],
            "users": [{"name": LOGIN, "sshAuthorizedKeys": keys}, *accounts],
        },
        "storage": {
            "files": [_file(path, file) for path, file in sorted(files.items())],
            "links": [
                {"path": path, "target": target, "hard": False, "overwrite": True}
                for path, target in sorted(host.links.items())
            ],
        },
        "systemd": {"units": units},
    }
    return json.dumps(config, indent=1) + "\n"


def validate(path: Path) -> None:
    """OperationError with the words of Ignition's own validator, also for what it calls a warning: a misspelt key
    is one, and would be left out in silence."""
    if not shutil.which(VALIDATOR):
        raise UserError(
            f"{VALIDATOR} is not on the PATH: install Debian's or Fedora's package ignition"
        )
    done = subprocess.run([VALIDATOR, str(path)], capture_output=True, text=True, check=False)
    answer = (done.stdout + done.stderr).strip()
    if done.returncode or answer:
        raise OperationError(f"{path}: refused by {VALIDATOR}: {answer or done.returncode}")
