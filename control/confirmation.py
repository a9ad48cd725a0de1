"""The name of what is about to be lost, typed, before anything that cannot be taken back."""

from __future__ import annotations

import sys

from .errors import UserError


def confirm(
    action: str,
    name: str,
    yes: str,
    *,
    is_lab: bool = False,
    instead: str = "",
    refused: str = "nothing was done",
) -> None:
    """
    Return only when ``name``, the object of ``action``, was typed, or given beforehand.

    yes
        YES as it was given: ``name``. In the lab (``is_lab``), whose machines are made to be thrown away, 1
        will do; elsewhere it might be left in a shell's environment for another command and another object.
    instead
        what there is besides confirming
    refused
        what another answer means
    """
    if yes == name or (is_lab and yes == "1"):
        return
    if yes:
        raise UserError(f"YES={yes}: {action}: pass YES={name} to confirm; {refused}", 2)
    if not sys.stdin.isatty():
        raise UserError(f"{action}: not a terminal: pass YES={name} to confirm{instead}", 2)
    print(f"{action}: type {name} to confirm: ", end="", flush=True)
    try:
        answer = input().strip()
    except EOFError:
        answer = ""
    if answer != name:
        raise UserError(f"{answer or 'nothing'} was typed, not {name}: {refused}")
