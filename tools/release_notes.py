#!/usr/bin/env -S python3 -EXutf8
"""Release notes from CHANGELOG.md: the section of a version, or what is yet unreleased.

tools/release_notes.py [v1.2.3]
"""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"


def section(text: str, version: str) -> str | None:
    """What stands below the heading of ``version``, without it; None without such a heading."""
    found = re.search(
        rf"^## \[?v?{re.escape(version)}\]?(?: .*)?$\n(.*?)(?=^## |\Z)", text, re.M | re.S
    )
    return found[1].strip() if found else None


def main() -> int:
    wanted = sys.argv[1].removeprefix("v") if sys.argv[1:] else "Unreleased"
    text = CHANGELOG.read_text(encoding="utf-8")
    notes = section(text, wanted) or section(text, "Unreleased")
    if not notes:
        print(f"notes: CHANGELOG.md says nothing of {wanted}", file=sys.stderr)
        return 1
    print(notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
