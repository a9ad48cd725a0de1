"""docs/develop/add-a-service.md as what it says to write, for the tests that type it."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "develop" / "add-a-service.md"
_BLOCK = re.compile(r"(?ms)^(`{3,})\{code-block\} \w+\n:caption: (\S+)\n(.*?)^\1$")


def files() -> dict[str, str]:
    """`{path: content}` of the page's blocks, in their order."""
    return {path: text for _, path, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8"))}


def type_into(root: Path) -> None:
    """Write the page's files below ``root``. Of top.sls it shows the part that grows by a line."""
    for name, text in files().items():
        path = root / name
        if name == "salt/top.sls":
            before = text.replace("    - memcached\n", "")
            whole = path.read_text(encoding="utf-8")
            assert whole.count(before) == 1, f"{name} is not as {PAGE.name} shows it"
            text = whole.replace(before, text)
        path.write_text(text, encoding="utf-8")
