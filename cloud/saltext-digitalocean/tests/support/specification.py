"""
Requests and answers against DigitalOcean's published OpenAPI specification, which is data and no part
of this project: the variable DIGITALOCEAN_SPEC names a file with it, JSON or YAML, in one document
(README.md says where to get it). A name that it does not know is refused.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

VARIABLE = "DIGITALOCEAN_SPEC"
_ROOT = "urn:specification"


def _loose(schema: Any) -> Any:
    """An OpenAPI 3.0 schema as one of JSON Schema 2020-12; names it does not know are let pass, for
    it may be a part of another."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"{_ROOT}{schema['$ref']}"}
    kept = ("type", "enum", "pattern", "required", "minimum", "maximum", "minLength", "maxLength",
            "minItems", "maxItems", "multipleOf", "format")  # fmt: skip
    found: dict[str, Any] = {key: schema[key] for key in kept if key in schema}
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            found[key] = [_loose(one) for one in schema[key]]
    if "properties" in schema:
        found["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
    if "items" in schema:
        found["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = _strict(schema["additionalProperties"])
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") else found


def _strict(schema: Any) -> Any:
    """As `_loose`, where a whole value stands: it has no name that the schema does not know."""
    found = _loose(schema)
    whole = ("$ref", "properties", "additionalProperties", "allOf", "anyOf", "oneOf")
    if any(key in found for key in whole):
        return {**found, "unevaluatedProperties": False}
    return found


class Specification:
    def __init__(self, path: Path) -> None:
        from jsonschema import Draft202012Validator, FormatChecker
        from referencing import Registry
        from referencing.jsonschema import DRAFT202012

        text = path.read_text(encoding="utf-8")
        self._document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        schemas = self._document["components"]["schemas"]
        root = {"components": {"schemas": {name: _loose(one) for name, one in schemas.items()}}}
        registry: Any = Registry().with_resource(_ROOT, DRAFT202012.create_resource(root))
        self._validator = functools.partial(
            Draft202012Validator, registry=registry, format_checker=FormatChecker()
        )
        self._validators: dict[str, Any] = {}
        self._checked: dict[tuple[str, str], list[str]] = {}
        # Those without a variable part first: /v2/droplets/actions is no droplet.
        self._paths = [
            (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))), operations)
            for path, operations in sorted(
                self._document["paths"].items(), key=lambda one: one[0].count("{")
            )
        ]

    def _resolved(self, item: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in item:
            found = self._document
            for key in item["$ref"].removeprefix("#/").split("/"):
                found = found[key]
            item = found
        return item

    def _check(self, what: str, schema: dict[str, Any], value: Any) -> list[str]:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            self._validators[key] = self._validator(_strict(schema))
        # What is said again and again, such as the sizes, is checked once.
        text = (key, json.dumps(value, sort_keys=True))
        if text not in self._checked:
            self._checked[text] = [
                f"{''.join(f'[{step!r}]' for step in error.absolute_path)}: {error.message[:300]}"
                for error in self._validators[key].iter_errors(value)
            ]
        return [f"{what}{one}" for one in self._checked[text]]

    def problems(
        self, method: str, path: str, query: dict[str, str], body: Any, status: int, answer: Any
    ) -> list[str]:
        """What is not as specified in a request (with its ``body`` as JSON, None without one) and its
        answer."""
        for pattern, operations in self._paths:
            match = pattern.fullmatch(path)
            if match and method.lower() in operations:
                break
        else:
            return [f"{method} {path}: no such operation"]
        operation, found = operations[method.lower()], list[str]()
        known = [
            self._resolved(one)
            for one in [*operations.get("parameters", ()), *operation.get("parameters", ())]
        ]
        for name, value in query.items():
            schema = next((one["schema"] for one in known if (one["in"], one["name"]) == ("query", name)), None)  # fmt: skip
            if schema is None:
                found.append(f"query {name}: no such parameter")
                continue
            number = schema.get("type") == "integer" and re.fullmatch(r"\d+", value)
            found += self._check(f"query {name}", schema, int(value) if number else value)
        content = self._resolved(operation.get("requestBody", {})).get("content")
        if body is not None and content is None:
            found.append("request: has a body, and should have none")
        elif content is not None and (body is not None or operation["requestBody"].get("required")):
            found += self._check("request", content["application/json"]["schema"], body)
        responses = operation["responses"]
        response = self._resolved(responses.get(str(status)) or responses["default"])
        if "content" in response:
            schema = response["content"]["application/json"]["schema"]
            found += self._check(f"answer {status}", schema, answer)
        elif answer is not None:
            found.append(f"answer {status}: has a body, and should have none")
        return [f"{method} {path}: {one}" for one in found]


@functools.cache
def given() -> Specification | None:
    """The specification that the environment names, or None."""
    path = os.environ.get(VARIABLE)
    return Specification(Path(path)) if path else None
