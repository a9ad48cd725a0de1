"""`make test` shows every promise of the README's table; what it leaves out says why."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import order

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/machine", "webapp/tests", "cloud/saltext-digitalocean/tests", "tests/unit")


def collect(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


# What each tier runs of these folders, as the plugin decides: {tier: [node ids]}.
LISTS = """
import json, sys, pytest
from tests import tiers

class Lists:
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        self.of = {t: [i.nodeid for i in items if not tiers.left_out(i, t)] for t in tiers.TIERS}
        self.of["everywhere"] = [i.nodeid for i in items if not tiers.left_out(i, None)]

lists = Lists()
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[2:]], [lists])
open(sys.argv[1], "w").write(json.dumps(lists.of))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """``{tier: {test function@release}}``, collected once."""
    path = tmp_path_factory.mktemp("tiers") / "lists.json"
    done = subprocess.run(
        [sys.executable, "-c", LISTS, str(path), *FOLDERS],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return {
        tier: {
            f"{name}@{'dev12' if '[dev12' in node else 'main'}"
            for node in nodes
            for name in re.findall(r"::(test_\w+)", node)
        }
        for tier, nodes in json.loads(path.read_text(encoding="utf-8")).items()
    }


@pytest.fixture(scope="module")
def in_make_test(tiers: dict[str, set[str]]) -> set[str]:
    return tiers["test"]


@pytest.fixture(scope="module")
def promised() -> list[str]:
    """Names of the table's second column; one that ends with … stands for all that begin so."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## What is promised")[1].split("\n## ")[0]
    return [name for line in table.splitlines() if line.startswith("| ")
            for name in re.findall(r"`(test_\w+…?)`", line)]  # fmt: skip


def test_make_test_shows_every_promise(in_make_test: set[str], promised: list[str]) -> None:
    assert len(promised) >= 50
    shown = {name.partition("@")[0] for name in in_make_test}
    missing = [
        name
        for name in promised
        if not any(one.startswith(name.rstrip("…")) if name.endswith("…") else one == name for one in shown)
    ]  # fmt: skip
    assert missing == [], "in the README's table, but make test does not run it"


def test_make_test_runs_on_debian_12_what_differs_there(in_make_test: set[str]) -> None:
    second = {name for name in in_make_test if name.endswith("@dev12")}
    assert 30 <= len(second) < len(in_make_test) / 3
    assert "test_second_apply_changes_nothing@dev12" in second


def test_make_test_all_leaves_nothing_out(tiers: dict[str, set[str]]) -> None:
    assert tiers["test"] < tiers["all"] == tiers["everywhere"]
    assert tiers["faults"] and tiers["faults"] < tiers["all"]


def test_the_option_runs_what_the_lists_say() -> None:
    """And what is left out is told of, with its command."""
    done = collect(ROOT, "--tier=test", "tests/machine/test_cloud.py")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert re.findall(r"::(test_\w+)", done.stdout) == [
        "test_salt_cloud_makes_a_droplet_that_serves_over_https"
    ]
    assert "1 more tests: make test-all" in done.stdout


def test_what_is_left_to_the_night_says_why(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.nightly\ndef test_it():\n    pass\n"
    )
    done = collect(ROOT, "-c", "/dev/null", "-p", "tests.tiers", "--tier=test", str(tmp_path))
    assert done.returncode == 4
    assert "test_it: nightly wants its reason" in done.stderr


def test_files_that_begin_first_are_there() -> None:
    """One that has moved would begin last, and nobody would know why a run takes longer."""
    assert [one for one in order.FIRST if "/" in one and not (ROOT / one).is_file()] == []
