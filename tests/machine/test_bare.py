"""A bare server without any controller: the checkout on it, and one command."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from bare_machine import upload
from lab_machine import Lab

from control.topology import FOLDER
from tests.checkout import copy_checkout

CHECKOUT = "/root/checkout"


@pytest.mark.controller
@pytest.mark.one_release
def test_a_server_converges_itself_from_a_checkout(lab: Lab, tmp_path: Path) -> None:
    before = lab.see()
    copy_checkout(tmp_path / "checkout")
    # In another network than the first the machine's topology is none that git knows of (networks.py).
    shutil.copy(FOLDER / f"{lab.topology}.yaml", tmp_path / "checkout" / "pillar" / "topologies")
    upload(lab, tmp_path / "checkout", CHECKOUT)
    try:
        said = lab.run(
            f"cd {CHECKOUT} && make apply HOST=local TOPOLOGY={lab.topology}", timeout=600
        )
        assert re.search(r"(?m)^\d+ changed, 0 failed$", said), said
        bare = lab.run(f"cd {CHECKOUT} && salt-call state.apply")
        assert re.search(r"Failed: +0\n", bare), bare
        assert "changed=" not in bare, "nothing was left to change"
        assert lab.see() == before + 1
    finally:
        lab.run(f"rm -rf {CHECKOUT}")
        lab.apply()
