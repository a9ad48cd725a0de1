"""The rooms of control/, drawn from its imports: each file stands above all that it imports."""

from __future__ import annotations

import functools
from pathlib import Path

from control.by_path import load_module

from . import facts
from .svg import Canvas, width_of

WIDTH = 760
PACKAGE = facts.ROOT / "control"
# Where the names of a floor begin, and how far apart floors and lines are.
LEFT, LINE = 52, 22


def _imports() -> dict[Path, set[Path]]:
    """``{file of control/: files of it that it imports}``, as lint/circles.py finds them."""
    graph = load_module("lint/circles.py").read(facts.ROOT)
    return {path: set(graph[path]) for path in graph if PACKAGE in path.parents}


def floors() -> list[dict[str, list[str]]]:
    """
    From the top, ``{room: its files}`` of each floor: a file is one floor above the highest that it imports.
    The room of a file is its folder in control/, `` `` that of control/ itself.
    """
    imports = _imports()

    @functools.cache
    def floor(path: Path) -> int:
        return 1 + max((floor(other) for other in imports[path]), default=-1)

    # The commands stand together: nothing but their list uses one.
    commands = [path for path in imports if path.parent.name == "commands" and path.stem[0] != "_"]
    highest = max(map(floor, commands))
    levels: dict[int, dict[str, list[str]]] = {}
    for path in sorted(imports):
        if path.name == "__init__.py" and not imports[path]:
            continue
        room, _, name = str(path.relative_to(PACKAGE)).rpartition("/")
        level = highest if path in commands else floor(path)
        levels.setdefault(level, {}).setdefault(room, []).append(name.removesuffix(".py"))
    return [levels[level] for level in sorted(levels, reverse=True)]


def picture() -> str:
    canvas = Canvas(
        WIDTH,
        "The controller, from its imports",
        "Floors of files: each file imports only files of the floors below it.",
    )
    canvas.text(24, 34, "The controller: each file imports only files below it", "h")
    y = 56.0
    for number, rooms in enumerate(floors()):
        top, x = y, float(LEFT + 12)
        y += 24
        for room, names in rooms.items():
            words = [(f"{room}/", "b s"), *((name, "c") for name in names)] if room else [
                (name, "c") for name in names
            ]  # fmt: skip
            for text, style in words:
                width = width_of(text, style)
                if x + width > WIDTH - 34:
                    x, y = LEFT + 28.0, y + LINE
                canvas.text(x, y, text, style)
                x += width + 12
            x += 14
        y += 12
        canvas.box(LEFT, top, WIDTH - LEFT - 20, y - top, "zone", f"floor {number}", "zone")
        y += 8
    canvas.arrow((34, 66), (34, y - 16))
    return str(canvas)
