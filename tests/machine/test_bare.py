"""A bare server without any controller: the checkout on it, and one command."""

from __future__ import annotations

import re
import subprocess

import pytest
from lab_machine import ROOT, Lab

CHECKOUT = "/root/checkout"


@pytest.mark.controller
@pytest.mark.one_release
def test_a_server_converges_itself_from_a_checkout(lab: Lab) -> None:
    before = lab.see()
    # As a clone has it: what git knows of, and no more.
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    archive = subprocess.run(
        ["tar", "-cz", "--null", "--ignore-failed-read", "-T", "-"],
        cwd=ROOT, input=files, capture_output=True, check=True,
    ).stdout  # fmt: skip
    ssh = ["ssh", "-F", str(lab.state / "ssh_config"), lab.host]
    subprocess.run(
        [*ssh, f"sudo rm -rf {CHECKOUT}; sudo mkdir {CHECKOUT}; sudo tar -xz -C {CHECKOUT}"],
        input=archive, check=True, timeout=120,
    )  # fmt: skip
    try:
        lab.run("command -v make >/dev/null || apt-get install -qq -y make >/dev/null", timeout=300)
        said = lab.run(f"cd {CHECKOUT} && make apply HOST=local", timeout=600)
        assert re.search(r"(?m)^\d+ changed, 0 failed$", said), said
        bare = lab.run(f"cd {CHECKOUT} && salt-call state.apply")
        assert re.search(r"Failed: +0\n", bare), bare
        assert "changed=" not in bare, "nothing was left to change"
        assert lab.see() == before + 1
    finally:
        lab.run(f"rm -rf {CHECKOUT}")
        lab.apply()
