"""Files that need each other in a circle are found, whichever way they name each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[[dict[str, str]], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    """`run({file: text})`: what lint/circles.py says of a tree of these files."""

    def look(files: dict[str, str]) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, str(root / "lint" / "circles.py"), str(tmp_path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return look


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {
                "control/a.py": "from . import b\n",
                "control/b.py": "from .cloud import c\n",
                "control/cloud/__init__.py": "",
                "control/cloud/c.py": "def f():\n    from ..a import x\n",
            },
            "control/a.py:1 -> control/b.py:1 -> control/cloud/c.py:2 -> control/a.py",
        ),
        (
            {"control/a.py": "import control.b\n", "control/b.py": "from control.a import x\n"},
            "control/a.py:1 -> control/b.py:1 -> control/a.py",
        ),
        (
            {
                "salt/_modules/a.py": "def f():\n    return __salt__['b.g']()\n",
                "salt/_modules/b.py": "def g():\n    return __utils__['c.h']()\n",
                "salt/_utils/c.py": "def h():\n    return __salt__['a.f']()\n",
            },
            "salt/_modules/a.py:2 -> salt/_modules/b.py:2 -> salt/_utils/c.py:2 -> salt/_modules/a.py",
        ),
    ],
)
def test_a_circle_is_named_with_its_files_and_lines(
    run: Run, files: dict[str, str], said: str
) -> None:
    done = run(files)
    assert (done.returncode, done.stdout) == (1, f"a circle: {said}\n")


def test_what_is_no_circle_passes(run: Run) -> None:
    """A file that two use, a state of the same name as its module, a module that calls itself."""
    done = run(
        {
            "control/a.py": "from . import b, c\nfrom .c import x\n",
            "control/b.py": "from . import c\nimport json\n",
            "control/c.py": "import os\n",
            "salt/_states/a.py": "def f():\n    __salt__['a.f']()\n",
            "salt/_modules/a.py": "def f():\n    __salt__['a.g']()\n    __salt__['test.ping']()\n",
        }
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
