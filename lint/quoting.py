#!/usr/bin/env python3
"""
Finds every value that a template of the state tree puts into a file without quotes that fit.

    lint/quoting.py [FILE…]        by default all of salt/ and pillar/

YAML makes a number of an unquoted 1.10, a boolean of no, and an error of an apostrophe; a shell runs what
it is given. Looked at is what Jinja itself parses, so that `{{ x if y else z }}` is two values, and a
constant is none.

- YAML (.sls, .yaml.j2, .yml.j2, .json.j2): `| json`, or `| int`; in a block scalar (`>-`, `|`), which is a
  command's text, `| quote`.
- Shell (.sh.j2, or a first line that names sh): `| quote`, or `| int`.

Other syntaxes have no quotes for most of what is written there: a setting's schema must allow no character that
means something where it goes, which tests/unit/salt/test_property.py tries.

A line that must differ says why: `{# unquoted: REASON #}`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, nodes

ROOT = Path(__file__).resolve().parents[1]
YAML = re.compile(r"\.(sls|ya?ml\.j2|json\.j2)$")
SHELL = re.compile(r"\.sh\.j2$")
EXCEPTION = re.compile(r"\{#-? unquoted: \S.* -?#\}")


def values(node: nodes.Node, macros: set[str]) -> Iterator[nodes.Node]:
    """What may come out of an expression, without constants and the template's own macros."""
    if isinstance(node, nodes.CondExpr):
        for branch in (node.expr1, node.expr2):
            if branch is not None:
                yield from values(branch, macros)
    elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
        if node.node.name not in macros:
            yield node
    elif not isinstance(node, (nodes.Const, nodes.TemplateData)):
        yield node


def in_block(lines: list[str], number: int) -> bool:
    """Whether line `number`, from 0, is text of a YAML block scalar."""
    indent = len(lines[number]) - len(lines[number].lstrip())
    for line in reversed(lines[:number]):
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth < indent:
            if re.search(r"(^|[:-] )[|>][-+]?\s*$", line):
                return True
            indent = depth
    return False


def unquoted(name: str, text: str) -> Iterator[tuple[int, str]]:
    """`(line from 1, what is wrong)` of every value without quotes that fit."""
    tree = Environment(extensions=["jinja2.ext.do"]).parse(text)
    lines = text.splitlines()
    macros = {one.name for one in tree.find_all(nodes.Macro)}
    shell = SHELL.search(name) or re.match(r"#!.*\bsh\b", text)
    if not shell and not YAML.search(name):
        return
    for output in tree.find_all(nodes.Output):
        for part in output.nodes:
            for value in values(part, macros):
                block = not shell and in_block(lines, value.lineno - 1)
                fits = {"int", "quote"} if shell else {"int", "json", *(["quote"] if block else [])}
                filtered = isinstance(value, nodes.Filter) and value.name in fits
                if not filtered and not EXCEPTION.search(lines[value.lineno - 1]):
                    yield (
                        value.lineno,
                        f"a value without quotes: needs | {' or | '.join(sorted(fits))}",
                    )


def main() -> int:
    tree = [*(ROOT / "salt").rglob("*"), *(ROOT / "pillar").rglob("*.sls")]
    given = [Path(one).resolve() for one in sys.argv[1:]]
    wrong = 0
    for path in given or sorted(tree):
        if not path.is_file() or path.suffix not in (".sls", ".j2", ".jinja"):
            continue
        text = path.read_text(encoding="utf-8")
        if text.startswith("#!py"):
            continue
        for line, said in unquoted(path.name, text):
            print(
                f"{os.path.relpath(path, ROOT)}:{line}: {said}: {text.splitlines()[line - 1].strip()}"
            )
            wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
