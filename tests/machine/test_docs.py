"""Commands that the pages say can be typed: they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import runbooks
from alarm import query
from lab_machine import ROOT, Lab

sys.path.insert(0, str(ROOT))

from docs.generate import runnable, site

pytestmark = [pytest.mark.controller, pytest.mark.one_release]

PAGES = [page for page in [Path("README.md"), *site.pages()] if runnable.blocks(ROOT / page)]


@pytest.fixture(autouse=True)
def nothing_is_alerted(lab: Lab) -> None:
    """
    A refused apply is an alert until the next good one; pages show refused ones. What is measured
    lags behind: that nothing is alerted yet says nothing before the last apply's result is read.
    """
    last = json.loads(lab.run("cat /var/lib/stack/last-apply.json"))
    if last["result"] != "ok" or "running" in last:
        lab.apply()
        last = json.loads(lab.run("cat /var/lib/stack/last-apply.json"))
    good = f"collectd_apply_time == {last['time']} and on (machine) collectd_apply_ok == 1"
    lab.wait("the good apply is read", lambda: bool(query(lab, good)))
    lab.wait(
        "nothing is alerted",
        lambda: lab.make("status", check=False).returncode == 0,
        seconds=120,
    )


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_runnable_blocks_do_what_the_page_says(lab: Lab, page: Path) -> None:
    for line, steps in runnable.blocks(ROOT / page):
        for step in steps:
            where = f"{page}:{line}: {step.command}"
            if step.where == "there":
                done = subprocess.run(
                    ["ssh", "-F", str(lab.state / "ssh_config"), lab.host, "sudo", "-n", "-i", "sh"],
                    input=step.command, capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
            else:
                done = subprocess.run(
                    ["bash", "-o", "pipefail", "-c", step.command],
                    cwd=ROOT, env=lab.environment, stdin=subprocess.DEVNULL,
                    capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
            printed = done.stdout + done.stderr
            assert done.returncode == 0, f"{where}: exit {done.returncode}\n{printed}"
            gone = runnable.missing(step.expected, printed)
            assert gone == [], f"{where}: does not print that; it prints\n{printed}"


# Not on this machine; test_apps.py, test_filebeat.py, test_floating.py and test_stores.py type their pages'.
ELSEWHERE = runbooks.pages_of("apps", "filebeat", "keepalived", "sentinel")
PAGES_WITH_COMMANDS = [page for page in runbooks.PAGES if page not in ELSEWHERE]


def test_commands_of_every_runbook_work_on_a_machine_that_is_well(lab: Lab) -> None:
    wrong = runbooks.failing(lab, PAGES_WITH_COMMANDS)
    assert wrong == [], "\n".join(wrong)


@pytest.mark.nightly(
    "installs Sphinx, for minutes; what pages must hold is in tests/unit/test_docs.py"
)
def test_the_site_builds_without_a_warning(lab: Lab) -> None:
    lab.make("docs", timeout=300)
    assert "How it works" in (ROOT / "site" / "index.html").read_text(encoding="utf-8")
