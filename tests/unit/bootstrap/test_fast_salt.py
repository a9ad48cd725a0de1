"""What makes runs of Salt cheap changes nothing of what they come to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jinja2
import jinja2.sandbox
import pytest

ROOT = Path(__file__).resolve().parents[3]


def render(folder: Path, source: str, **values: object) -> tuple[str, bool]:
    """What a process of its own makes of a template, and whether it had to compile it."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import fast_salt, jinja2.sandbox;"
        "templates = fast_salt.Templates(sys.argv[2]); templates.install();"
        "source, values = json.load(sys.stdin);"
        "said = jinja2.sandbox.SandboxedEnvironment().from_string(source).render(**values);"
        "compiled = templates.is_changed; templates.save(); print(json.dumps([said, compiled]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "bootstrap"), str(folder / "templates")],
        input=json.dumps([source, values]),
        capture_output=True,
        text=True,
        check=True,
    )
    said, compiled = json.loads(done.stdout)
    return said, compiled


def test_a_template_is_compiled_once_and_one_that_changed_anew(tmp_path: Path) -> None:
    assert render(tmp_path, "a {{ x }}", x=1) == ("a 1", True)
    assert render(tmp_path, "a {{ x }}", x=2) == ("a 2", False)
    assert render(tmp_path, "b {{ x }}", x=2) == ("b 2", True)
    assert {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()} == {0o600}, (
        "code that root runs"
    )


def test_what_others_kept_meanwhile_is_kept(
    tmp_path: Path, load_source: Callable[..., ModuleType]
) -> None:
    fast_salt = load_source("bootstrap/fast_salt.py")
    runs = [fast_salt.Templates(str(tmp_path / "templates")) for _ in range(2)]
    for number, run in enumerate(runs):
        run.used, run.is_changed = {bytes([number]): "compiled"}, True
    for run in runs:
        run.save()
    assert set(fast_salt.Templates(str(tmp_path / "templates")).kept) == {b"\0", b"\1"}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("torn", marks=pytest.mark.nightly("make test has the one that reads well")),
        "other",
    ],
)
def test_compiled_templates_that_are_not_whole_are_not_used(tmp_path: Path, damage: str) -> None:
    render(tmp_path, "a {{ x }}", x=1)
    (kept,) = (one for one in tmp_path.iterdir() if one.suffix != ".lock")
    content = kept.read_bytes()
    kept.write_bytes(content[:-9] if damage == "torn" else content[:-1] + b"\xff")
    assert render(tmp_path, "a {{ x }}", x=1) == ("a 1", True)
    assert render(tmp_path, "a {{ x }}", x=1) == ("a 1", False), "and mended"


def test_templates_that_jinja_compiles_otherwise_are_told_apart(
    load_source: Callable[..., ModuleType],
) -> None:
    fast_salt = load_source("bootstrap/fast_salt.py")
    environments = [
        jinja2.Environment(),
        jinja2.sandbox.SandboxedEnvironment(),
        jinja2.Environment(trim_blocks=True),
        jinja2.Environment(variable_start_string="[["),
        jinja2.Environment(finalize=str),
        jinja2.Environment(autoescape=True),
        jinja2.Environment(extensions=["jinja2.ext.do"]),
    ]
    keys = {fast_salt.Templates._key(env, "a", None, None, False) for env in environments}
    assert len(keys) == len(environments)
