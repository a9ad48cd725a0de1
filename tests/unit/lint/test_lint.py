"""`make lint` on some files, as pre-commit runs it for a commit: what they concern, and no more."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def lint(root: Path, *files: str) -> tuple[int, str]:
    done = subprocess.run(
        ["lint/run", *files], cwd=root, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout


@pytest.fixture
def scratch(root: Path) -> Path:
    """A folder of the checkout that git does not know."""
    folder = root / ".cache" / "lint-test"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_file_meets_the_linters_of_its_kind_alone(root: Path) -> None:
    code, said = lint(root, "salt/top.sls", "salt/redis/secrets.yaml", "removed/file.py")
    assert code == 0, said
    names = {line.removeprefix("ok      ") for line in said.splitlines()}
    assert names == {
        *("yamllint", "salt-lint", "quoting in states and templates"),
        *("small files: secrets.yaml", "spelling"),
    }


def test_a_file_with_a_flaw_fails_and_is_named(scratch: Path, root: Path) -> None:
    bad = scratch / "flawed.sh"
    bad.write_text("#!/bin/sh\necho $1\n")
    code, said = lint(root, str(bad.relative_to(root)))
    assert code == 1
    assert "FAILED  shellcheck" in said and "flawed.sh" in said


def test_a_wrong_small_file_fails(scratch: Path, root: Path) -> None:
    folder = scratch / "salt" / "shop"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secrets.yaml").write_text("shop-key: {kind: gievn}\n")
    done = subprocess.run(
        [root / ".venv/bin/check-jsonschema", "--schemafile",
         root / "salt/_schemas/secrets.schema.yaml", folder / "secrets.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "gievn" in done.stdout


def test_linters_are_in_lint_and_tools_in_tools(root: Path) -> None:
    text = (root / "lint" / "run").read_text(encoding="utf-8")
    for path in (root / "lint").iterdir():
        if path.name not in ("run", "__pycache__"):
            assert f"lint/{path.name}" in text, f"{path.name} lints nothing"
