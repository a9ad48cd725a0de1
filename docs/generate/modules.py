"""
Which of salt/_modules, _states and _utils serves which formula: read from the files, for salt/README.md, and for
whoever lifts a formula out of this tree.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from . import facts

TREE = facts.ROOT / "salt"
README = TREE / "README.md"
BEGIN, END = "<!-- made from the code: {} -->", "<!-- end -->"
# `salt['topology.machine']` in a template, `checked.service:` in an SLS, `__salt__["secret.path"]` in a module,
# `salt://_utils/haproxy_socket.py` of a program.
_CALL = re.compile(
    r"""(?:\bsalt|__salt__|__utils__)\[['"](\w+)\.|^\s+(\w+)\.\w+:\s*$|salt://_utils/(\w+)\.py""",
    re.M,
)
_TEMPLATES = {".sls", ".j2", ".jinja"}


@functools.cache
def sources() -> dict[str, list[Path]]:
    """`{module: its files}`: execution module, state and utility of one name are one."""
    found: dict[str, list[Path]] = {}
    for folder in ("_modules", "_states", "_utils"):
        for path in sorted((TREE / folder).glob("*.py")):
            found.setdefault(path.stem, []).append(path)
    return found


def summary(module: str) -> str:
    """The first sentence of its documentation."""
    said = ast.get_docstring(ast.parse(sources()[module][0].read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s|\n\n", said)[0].replace("\n", " ").rstrip(".:")


def _called(text: str) -> set[str]:
    return {name for groups in _CALL.findall(text) for name in groups if name in sources()}


def _closure(names: set[str]) -> set[str]:
    found: set[str] = set()
    while names - found:
        name = min(names - found)
        found.add(name)
        for path in sources()[name]:
            names = names | _called(path.read_text(encoding="utf-8"))
    return found


@functools.cache
def needs(formula: str) -> list[str]:
    """Modules that a formula needs to be applied, with those that they need, sorted."""
    texts = [
        path.read_text(encoding="utf-8")
        for path in (TREE / formula).rglob("*")
        if path.is_file() and path.suffix in _TEMPLATES
    ]
    return sorted(_closure(set().union(*map(_called, texts))))


def users(module: str) -> list[str]:
    """Formulas that need the module."""
    return [folder.name for folder in facts.formulas() if module in needs(folder.name)]


def owner(module: str) -> str | None:
    """The one formula that a module belongs to: whose settings it reads, or else its only user."""
    text = "".join(path.read_text(encoding="utf-8") for path in sources()[module])
    read = set(re.findall(r"""\[["']formula\.settings["']\]\(["'](\w+)["']""", text))
    one = read or set(users(module))
    return one.pop() if len(one) == 1 else None


def _tables() -> dict[str, list[str]]:
    shared, own = [], []
    for module in sources():
        line = f"| `{module}` | {summary(module)} |"
        whose = owner(module)
        if whose:
            own.append(f"| `{module}` | [{whose}]({whose}/) |")
        else:
            shared.append(line)
    lifted = [
        f"| [{folder.name}]({folder.name}/) | {', '.join(f'`{one}`' for one in needs(folder.name))} |"
        for folder in facts.formulas()
    ]
    return {
        "shared modules": ["| module | what |", "| --- | --- |", *shared],
        "modules of one formula": ["| module | formula |", "| --- | --- |", *own],
        "what a formula needs": ["| formula | modules |", "| --- | --- |", *lifted],
    }


def readme() -> str:
    """salt/README.md with its tables made anew."""
    text = README.read_text(encoding="utf-8")
    for name, lines in _tables().items():
        begin = BEGIN.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        text = f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"
    return text
