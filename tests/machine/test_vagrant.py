"""What the lab asks of Vagrant itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab_machine import ROOT, Lab


@pytest.mark.one_release
def test_a_watcher_that_is_ended_leaves_no_machine_locked(lab: Lab) -> None:
    """Vagrant ends its watcher of a booting machine at any moment, also when it holds the machine's lock."""
    script = Path(__file__).with_name("ended_watcher.rb")
    done = subprocess.run(
        ["ruby", str(script), str(ROOT / "lab" / "whole_state.rb")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "running\n"), done.stderr
