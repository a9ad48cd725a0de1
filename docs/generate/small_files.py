"""The reference of the small files that formulas hand to each other, from ``salt/_schemas/``. Gives Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from control.by_path import load_yaml

from . import facts, reference

FOLDER = facts.ROOT / "salt" / "_schemas"
COLLECTORS = ("collectd", "shipper", "fail2ban", "firewalld", "keepalived", "stunnel", "prometheus")


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """``schema`` with what its ``$ref`` leads to; what it says itself comes first."""
    if "$ref" not in schema:
        return schema
    found = {**root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], **schema}
    del found["$ref"]
    return found


def _rows(schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[tuple[str, ...]]:
    """``(path, needed, allowed, description)`` of every key below ``path``."""
    schema = _resolved(schema, root)
    for name, part in schema.get("properties", {}).items():
        inner = _resolved(part, root)
        where = f"{path}{'.' if path else ''}{name}"
        needed = "yes" if name in schema.get("required", []) else ""
        allowed = reference.described({**inner, "description": ""}, root)
        yield where, needed, "" if _is_nested(inner, root) else allowed, inner["description"]
        yield from _rows(inner, root, where)
    if isinstance(schema.get("items"), dict):
        yield from _rows(schema["items"], root, f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _rows(schema["additionalProperties"], root, f"{path}{'.' if path else ''}NAME")


def _is_nested(schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether keys of it have rows of their own, or its description says which shapes there are."""
    return "oneOf" in schema or any(_rows(schema, root, ""))


def small_files_page() -> str:
    """Every small file: what it is for, who has one, and its keys."""
    lines = [
        "# Small files",
        "",
        "What a formula (`salt/SERVICE/`) hands to those that serve all services and know none by name."
        " Made from `salt/_schemas/`, by which each file is checked before any change; a key or a value that is"
        " not allowed is refused with its file and path. `.j2`: Jinja, then YAML. NAME stands for a name of"
        " your choice, `[]` for each item of a list. Examples are in the READMEs of the formulas that collect them: "
        + ", ".join(f"[{name}](../../salt/{name}/README.md)" for name in COLLECTORS)
        + ".",
        "",
    ]
    for path in sorted(FOLDER.glob("*.schema.yaml")):
        schema = load_yaml(path)
        users = [one.name for one in facts.formulas() if (one / schema["title"]).exists()]
        lines += [f"## {schema['title']}", "", reference.prose(schema["description"]), ""]
        names = schema.get("propertyNames", {}).get("description")
        if names:
            lines += [f"Names: {names}.", ""]
        lines += ["| key | needed | allowed | what it is |", "| --- | --- | --- | --- |"]
        for where, needed, allowed, about in _rows(schema, schema, ""):
            shown = (allowed.replace("|", "\\|"), reference.prose(about))
            lines.append(f"| `{where}` | {needed} | {' | '.join(shown)} |")
        links = ", ".join(f"[{one}](../../salt/{one}/{schema['title']})" for one in users)
        lines += ["", f"Formulas that have one: {links}.", ""]
    return "\n".join(lines)
