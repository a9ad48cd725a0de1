"""Settings that are no YAML are refused with their file and line, before any machine is asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from control import machine_pillar, settings
from control.errors import UserError

WHERE: Any = SimpleNamespace(name="dev", machines=["dev"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("apps:\n  a:\n\n\thosts: [x]\n", "dev.sls:4: a tab; use spaces"),
        ("apps:\n  a: [x\n  b: 1\n", "dev.sls:3: expected ',' or ']', but got ':'"),
        ("apps: a: b\n", "dev.sls:1: mapping values are not allowed here"),
        ("{% if x %}\n\tb\n", ""),
        ("apps: {}\n", ""),
    ],
)
def test_a_mistake_has_its_file_and_line(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Salt says neither, and each problem twice."""
    (tmp_path / "pillar/settings").mkdir(parents=True)
    (tmp_path / "pillar/settings/dev.sls").write_text(text)
    for module in (settings, machine_pillar):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    if not says:
        machine_pillar.check_files(WHERE)
        return
    with pytest.raises(UserError) as refusal:
        machine_pillar.check_files(WHERE)
    assert str(refusal.value) == f"pillar/settings/{says}"
