"""A yes before what cannot be taken back."""

from __future__ import annotations

import sys

from .errors import UserError


def confirm(question: str, instead: str = "", refused: str = "nothing was done") -> None:
    """Return only after a typed yes. ``instead``: what there is besides YES=1; ``refused``: what a no means."""
    if not sys.stdin.isatty():
        raise UserError(f"{question} Not a terminal: pass YES=1 to confirm{instead}", 2)
    print(f"{question} [y/N] ", end="", flush=True)
    if input().strip().lower() not in ("y", "yes"):
        raise UserError(refused)
