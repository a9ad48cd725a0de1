"""A value that a template writes without quotes is found before YAML or a shell reads something else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def quoting(load_source: Callable[..., ModuleType]) -> ModuleType:
    return load_source("lint/quoting.py")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("init.sls", "a:\n  x.y:\n    - version: {{ version }}\n", [3]),
        ("init.sls", "a:\n  x.y:\n    - version: {{ version | json }}\n", []),
        ("init.sls", "- port: {{ port | int }}\n", []),
        ("init.sls", "{{ name }} is here:\n  x.y\n", [1]),
        ("init.sls", "- to: '{{ mail }}'\n", [1]),
        ("init.sls", "- to: {{ mail | quote }}\n", [1]),
        ("init.sls", "- to: {{ (mail | json) ~ x }}\n", [1]),
        ("init.sls", "- {{ 'archive' if x else 'pkg' }}: y\n", []),
        ("init.sls", "- {{ 'archive' if x else y }}: z\n", [1]),
        ("init.sls", "- {{ 'archive' if x }}: z\n", []),
        ("init.sls", "{% for a in b %}\n- {{ a }}\n- c\n- {{ a.b }}\n{% endfor %}\n", [2, 4]),
        ("init.sls", "{% do x.append(y) %}\n{# {{ z }} #}\n# {{ shown }}\n", [3]),
        (
            "init.sls",
            "{% macro m(x) %}{{ x | json }}{% endmacro %}\n- {{ m(1) }}\n- {{ n(1) }}\n",
            [3],
        ),
        ("status.yaml.j2", "a:\n  health: >-\n    run {{ x | quote }} {{ y | int }}\n", []),
        ("status.yaml.j2", "a:\n  health: >-\n    run\n      {{ x }}\n", [4]),
        ("status.yaml.j2", "a:\n  health: >-\n    run\n  port: {{ x | quote }}\n", [4]),
        ("alertmanager.yml.j2", "url: '{{ x }}'\n", [1]),
        (
            "profile.sh.j2",
            "A={{ x }}\nB={{ x | quote }}\nC={{ x | int }}\nD={{ x | json }}\n",
            [1, 4],
        ),
        ("check.j2", "#!/bin/sh\necho {{ x }}\n", [2]),
        ("redis.conf.j2", "port {{ x }}\n", []),
    ],
)
def test_every_value_without_quotes_is_found(
    quoting: ModuleType, name: str, text: str, found: list[int]
) -> None:
    assert [line for line, _ in quoting.unquoted(name, text)] == found


def test_an_exception_says_why_on_its_own_line(quoting: ModuleType) -> None:
    line = "- a: {{ x }} "
    assert list(quoting.unquoted("a.sls", line + "{# unquoted: a whole block of YAML #}\n")) == []
    assert list(quoting.unquoted("a.sls", line + "{# unquoted: #}\n"))
    assert list(quoting.unquoted("a.sls", line + "\n{# unquoted: on another line #}\n"))


def test_the_tree_is_quoted_with_hardly_an_exception(quoting: ModuleType, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "lint/quoting.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    files = [*(root / "salt").rglob("*.sls"), *(root / "salt").rglob("*.j2")]
    texts = [path.read_text(encoding="utf-8") for path in files]
    assert sum(len(quoting.EXCEPTION.findall(text)) for text in texts) <= 3


def test_the_lint_names_file_and_line_and_fails(root: Path, tmp_path: Path) -> None:
    folder = root / "salt" / "redis"
    bad = tmp_path / "init.sls"
    bad.write_text((folder / "init.sls").read_text() + "\n- a: {{ redis.port }}\n")
    done = subprocess.run(
        [sys.executable, str(root / "lint/quoting.py"), str(bad)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "init.sls:" in done.stdout
    assert "{{ redis.port }}" in done.stdout
