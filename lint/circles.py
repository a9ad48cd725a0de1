#!/usr/bin/env python3
"""
No circle of files: each can be read, tested and changed without those that use it.

    lint/circles.py [ROOT]      1 and a line for each circle, with its files and where each names the next

Looks at what the files of control/ import, also inside of functions, and at what the Salt modules of
salt/_modules, _states and _utils import or call through Salt's loader (``__salt__['module.function']``).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

# Salt's dictionaries of functions, and the folder whose modules are in each.
LOADED = {"__salt__": "_modules", "__states__": "_states", "__utils__": "_utils"}
# {file: {file that it names: line}}
Graph = dict[Path, dict[Path, int]]


def imported(tree: ast.AST, path: Path, package: Path) -> Iterator[tuple[Path, int]]:
    """What a file of ``package`` imports of it, as files: ``(file, line)``."""

    def find(folder: Path, names: list[str]) -> Path | None:
        place = folder.joinpath(*names)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            words = (node.module or "").split(".") if node.module else []
            if node.level:
                folder = path.parents[node.level - 1]
            elif words[:1] == [package.name]:
                folder, words = package, words[1:]
            else:
                continue
            for name in node.names:
                file = find(folder, [*words, name.name]) or find(folder, words)
                if file:
                    yield file, node.lineno
        elif isinstance(node, ast.Import):
            for name in node.names:
                words = name.name.split(".")
                if words[0] == package.name and (file := find(package, words[1:])):
                    yield file, node.lineno


def called(tree: ast.AST, salt: Path) -> Iterator[tuple[Path, int]]:
    """What a Salt module calls through the loader, as files."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, ast.Name)
            and node.value.id in LOADED
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            name = node.slice.value.partition(".")[0]
            file = salt / LOADED[node.value.id] / f"{name}.py"
            if file.is_file():
                yield file, node.lineno


def read(root: Path) -> Graph:
    graph: Graph = {}
    package, salt = root / "control", root / "salt"
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[path] = dict(imported(tree, path, package))
    for folder in LOADED.values():
        for path in sorted((salt / folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            graph[path] = {**dict(imported(tree, path, salt)), **dict(called(tree, salt))}
    # A module may call its own functions through the loader.
    return {
        path: {to: line for to, line in edges.items() if to != path}
        for path, edges in graph.items()
    }


def circles(graph: Graph) -> list[list[Path]]:
    """A shortest circle through each file that is in one, each circle once."""
    found: dict[frozenset[Path], list[Path]] = {}
    for start in graph:
        ways, reached = [[start]], {start}
        while ways:
            way = ways.pop(0)
            for to in graph.get(way[-1], {}):
                if to == start:
                    found.setdefault(frozenset(way), way)
                    ways = []
                    break
                if to not in reached:
                    reached.add(to)
                    ways.append([*way, to])
    return list(found.values())


def main() -> int:
    root = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parents[1]).resolve()
    graph = read(root)
    found = circles(graph)
    for circle in found:
        steps = [f"{path.relative_to(root)}:{graph[path][to]}"
                 for path, to in zip(circle, [*circle[1:], circle[0]], strict=True)]  # fmt: skip
        print(f"a circle: {' -> '.join(steps)} -> {circle[0].relative_to(root)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
