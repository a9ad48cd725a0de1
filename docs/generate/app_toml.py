"""The reference of app.toml, made from its schema."""

from __future__ import annotations

import json
from typing import Any

from . import facts

SCHEMA = facts.ROOT / "webapp" / "src" / "serving" / "app.schema.json"


def app_toml_page() -> str:
    """Every key that an app.toml may have: type, default, meaning."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    required = schema["required"]
    tables = {name: each for name, each in schema["properties"].items() if "properties" in each}
    lines = [
        "# app.toml",
        "",
        "What an application says of itself, in the root of its folder"
        " ([Your application](../your-application.md)). A key that is not listed is refused, with the"
        " line and the one that was probably meant.",
        "",
        *_table({k: v for k, v in schema["properties"].items() if k not in tables}, required),
    ]
    cron = schema["properties"]["cron"]["additionalProperties"]
    lines += ["", "## A job of `[cron]`", "", *_table(cron["properties"], cron["required"])]
    for name, table in tables.items():
        lines += ["", f"## `[{name}]`", "", table["description"], ""]
        lines += _table(table["properties"], [])
    return "\n".join([*lines, ""])


def _table(properties: dict[str, Any], required: list[str]) -> list[str]:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, schema in properties.items():
        default = "needed" if name in required else _default(schema.get("default"))
        meaning = schema["description"].replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(schema)} | {default} | {meaning} |")
    return lines


def _default(value: object) -> str:
    return "-" if value is None or value == {} else f"`{json.dumps(value)}`"


def _type(schema: dict[str, Any]) -> str:
    kind = schema["type"]
    kinds = [one for one in (kind if isinstance(kind, list) else [kind]) if one != "null"]
    words = {"string": "text", "array": "list", "object": "table", "boolean": "true or false"}
    words["integer"] = "whole number"
    limits = ""
    if "minimum" in schema:
        limits = f" from {schema['minimum']} to {schema['maximum']}"
    elif "items" in schema and "enum" in schema["items"]:
        limits = " of " + ", ".join(schema["items"]["enum"])
    return ", ".join(words[one] for one in kinds) + limits
