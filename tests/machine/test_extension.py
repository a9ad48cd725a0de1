"""
The driver's wheel in a plain Salt, as anybody would install it: nothing of this tree is on its path. No machine is
needed, but half an hour of somebody's index and a compiler for Salt's own requirements.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from salt_cloud import PUBLIC_KEY, Cloud
from standin_digitalocean import Standin

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cloud" / "saltext-digitalocean"
# Salt's releases, and what each is installed with.
LOCKS = {"3008": ROOT / "requirements/cloud.lock", "3007": PACKAGE / "tests/salt-3007.lock"}

pytestmark = pytest.mark.nightly("installs two Salts with all that they need from an index")


def run(*words: object, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(one) for one in words],
        cwd="/", env={**kept, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves its own files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(PACKAGE, folder / "source", ignore=ignore)
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "-w", folder, folder / "source",
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=LOCKS)
def programs(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`bin` of an environment with that Salt and the wheel in it."""
    folder = tmp_path_factory.mktemp(f"salt-{request.param}") / "venv"
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, ROOT / "bootstrap" / "install.py", LOCKS[request.param])
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    assert f"salt-cloud {request.param}." in run(folder / "bin" / "salt-cloud", "--version")
    return folder / "bin"


@pytest.fixture(autouse=True)
def leave_it_well() -> None:
    """There is no machine."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with Standin(pace=0.05, lag=0.02) as standin:
        standin.add_key("ops", PUBLIC_KEY)
        yield standin


def test_the_wheel_makes_lists_and_removes_a_machine_from_a_plain_salt(
    programs: Path, api: Standin, tmp_path: Path, wheel: Path
) -> None:
    cloud = Cloud(tmp_path, api, programs)
    place = run(programs / "python", "-c", "import saltext.digitalocean as e; print(e.__file__, e.__version__)")  # fmt: skip
    assert str(programs.parent) in place and wheel.name.split("-")[1] in place

    def done(*words: str) -> str:
        said = cloud.command(*words)
        assert said.returncode == 0, said.stdout
        return said.stdout

    assert "digitalocean" in done("--list-providers")
    assert "active" in done("-p", "web", "web1") and api.names() == ["web1"]
    assert "web1" in done("-Q") and "debian-13-x64" in done("--list-images", "do")
    done("-y", "-d", "web1")
    assert not api.droplets
    refused = cloud.command("-Q", token="wrong")
    assert refused.returncode == 1 and "401" in refused.stdout
