"""
What reaches the operator's terminal. Whatever a machine, a store or a file says of itself may hold what a
terminal obeys: all that the controller writes passes through here, and such characters as escapes.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import IO

from .by_path import load_module

# What programs of this project write where they see a terminal: the end of a line, its beginning anew,
# erased (bootstrap/converge), and colours (central-logs).
_OBEYED = re.compile(r"(\r?\n|\r(?:\x1b\[K)?|\x1b\[[0-9;]{0,8}m)")
# The beginning of such, where the rest has not come yet.
_BEGUN = re.compile(r"(\r|\r?\x1b(\[[0-9;]{0,8})?)$")


_SHARED = load_module("salt/_utils/printable.py")
# A stream of text of which only newlines are obeyed; `write_obeyed` writes what `pieces` has left in it.
Printable = _SHARED.Printable


def printable(text: str, keep: str = "") -> str:
    """Each character that a terminal obeys, that ends a line or reverses what is read, as its escape, but
    those of ``keep``."""
    escaped: str = _SHARED.escape(text, keep)
    return escaped


def guard() -> None:
    """From here on, nothing that this process writes reaches the terminal but as text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, Printable):
            line_buffering = stream.line_buffering or name == "stderr"
            safe = Printable(
                stream.buffer, stream.encoding, "backslashreplace", line_buffering=line_buffering
            )
            setattr(sys, name, safe)


def pieces(source: IO[bytes], terminal: bool) -> Iterator[str]:
    """
    What a program writes, as text to be shown, as it comes: whole lines; to a ``terminal`` also parts of
    them, with what this project's programs tell it to do.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    rest, over = "", False
    while not over:
        got = source.read1(65536)  # type: ignore[attr-defined]
        over = not got
        rest += decoder.decode(got, final=over)
        if terminal:
            begun = None if over else _BEGUN.search(rest)
            end = begun.start() if begun else len(rest)
        else:
            end = len(rest) if over else rest.rfind("\n") + 1
        ready, rest = rest[:end], rest[end:]
        if terminal:
            # Odd ones are what is obeyed.
            parts = _OBEYED.split(ready)
            parts[::2] = map(printable, parts[::2])
            yield "".join(parts)
        else:
            # As ssh itself ends its lines.
            ready = ready.replace("\r\n", "\n")
            yield from (printable(line, "\n") for line in re.findall(r".+\n?|\n", ready))


def show(text: str) -> None:
    """Write what :func:`pieces` gave, at once."""
    if isinstance(sys.stdout, Printable):
        sys.stdout.write_obeyed(text)
    else:
        sys.stdout.write(text)
    with contextlib.suppress(ValueError):
        sys.stdout.flush()
