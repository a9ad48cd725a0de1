"""Every formula is a room: each has the same furniture, and the papers agree with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from control.by_path import load_yaml
from docs.generate import modules

TREE = Path(__file__).resolve().parents[3] / "salt"
FORMULAS = sorted(
    path.name for path in TREE.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))
)


@pytest.fixture(params=FORMULAS)
def formula(request: pytest.FixtureRequest) -> Path:
    return TREE / str(request.param)


def schema(formula: Path) -> dict[str, Any]:
    found = load_yaml(formula / "schema.yaml")
    assert isinstance(found, dict)
    return found


def settings_of(part: dict[str, Any], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """`(path, schema)` of every setting: what has `properties` is a group, the rest settings."""
    for name, inner in part.get("properties", {}).items():
        path = f"{where}:{name}".lstrip(":")
        if "properties" in inner:
            yield from settings_of(inner, path)
        else:
            yield path, inner


def keys_of(defaults: Any, part: dict[str, Any], where: str = "") -> Iterator[str]:
    """Paths of the defaults, as deep as the schema names keys; a map of free keys is one."""
    for name, value in defaults.items():
        path = f"{where}:{name}".lstrip(":")
        inner = part.get("properties", {}).get(name, {})
        if isinstance(value, dict) and "properties" in inner:
            yield from keys_of(value, inner, path)
        else:
            yield path


def test_a_formula_is_a_room(formula: Path) -> None:
    wanted = {"init.sls", "map.jinja", "defaults.yaml", "schema.yaml", "README.md"}
    assert wanted - {path.name for path in formula.iterdir()} == set()


def test_map_jinja_is_short_and_validates_the_pillar(formula: Path) -> None:
    text = (formula / "map.jinja").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 20
    assert f"salt['formula.settings']('{formula.name}')" in text


def test_every_sls_takes_its_settings_by_the_map(formula: Path) -> None:
    """An SLS that reads the pillar by itself is one that no schema guards."""
    for path in formula.glob("*.sls"):
        text = path.read_text(encoding="utf-8")
        assert f"from '{formula.name}/map.jinja' import {formula.name}" in text, path
        for key in re.findall(r"pillar(?:\[|\.get\()'([^']+)'", text):
            assert key.split(":")[0] in ("topology", "machine"), f"{path}: pillar {key}"


def test_schema_is_a_valid_schema_of_the_dialect_it_names(formula: Path) -> None:
    found = schema(formula)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["title"] == formula.name
    assert found["type"] == "object"


def test_schema_refuses_unknown_keys_and_describes_known_ones(formula: Path) -> None:
    def walk(part: Any, where: str) -> None:
        if isinstance(part, list):
            for item in part:
                walk(item, where)
        if not isinstance(part, dict):
            return
        if isinstance(part.get("properties"), dict):
            assert part.get("additionalProperties") is False, f"{where}: lets any key pass"
            for name, inner in part["properties"].items():
                assert inner.get("description"), f"{where}:{name}: no description"
                walk(inner, f"{where}:{name}")
        for keyword in ("additionalProperties", "items", "oneOf", "anyOf", "allOf"):
            walk(part.get(keyword), f"{where}:{keyword}")
        for name, inner in part.get("$defs", {}).items():
            walk(inner, f"$defs:{name}")
        if part.get("type") == "object":
            assert "additionalProperties" in part, f"{where}: lets any key pass"

    found = schema(formula)
    assert found.get("description")
    walk(found, formula.name)


def test_defaults_are_valid_by_the_formulas_own_schema(formula: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema(formula))
    problems = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(load_yaml(formula / "defaults.yaml"))
    ]
    assert problems == []


def test_defaults_and_schema_name_the_same_settings(formula: Path) -> None:
    given = set(keys_of(load_yaml(formula / "defaults.yaml"), schema(formula)))
    assert given == {path for path, _ in settings_of(schema(formula))}


def commented(lines: list[str], number: int) -> str:
    """Comment beside line `number` and in the block directly above it."""
    beside = re.search(r"\s#\s*(.*)", re.sub(r"'[^']*'|\"[^\"]*\"", "", lines[number]))
    words = [beside[1]] if beside else []
    while number > 0 and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        words.append(lines[number].lstrip("# "))
    return " ".join(words)


def test_every_default_has_its_comment_above_or_beside_it(formula: Path) -> None:
    text = (formula / "defaults.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    known = schema(formula)
    bare = []

    def walk(node: yaml.MappingNode, part: dict[str, Any], where: str, above: str) -> None:
        for key, value in node.value:
            path = f"{where}:{key.value}".lstrip(":")
            inner = part.get("properties", {}).get(key.value, {})
            said = commented(lines, key.start_mark.line)
            if isinstance(value, yaml.MappingNode) and "properties" in inner:
                walk(value, inner, path, said)
            # A group's own comment may speak for a key by naming it: `ready` is this, `alive` that.
            elif not said and f"`{key.value}`" not in above:
                bare.append(path)

    walk(yaml.compose(text), known, "", "")
    assert bare == []


def examples(formula: Path) -> list[Any]:
    text = (formula / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```", text)
    parsed = [yaml.safe_load(block) for block in blocks]
    return [one for one in parsed if isinstance(one, dict) and formula.name in one]


def test_readme_shows_a_pillar_that_is_valid(formula: Path) -> None:
    found = examples(formula)
    assert found, f"{formula.name}/README.md: no ```yaml block with the key {formula.name}"
    for one in found:
        for name, value in one.items():
            jsonschema.Draft202012Validator(schema(TREE / name)).validate(value)


def test_readme_says_how_to_check_by_hand(formula: Path) -> None:
    text = (formula / "README.md").read_text(encoding="utf-8")
    section = re.search(r"(?ims)^#+ .*check.*by hand.*?$(.*?)(?=^#+ |\Z)", text)
    assert section, "no section 'Check it by hand'"
    assert "```" in section[1] or "`" in section[1], "it names no command"


def test_a_daemon_says_how_its_status_is_asked(formula: Path) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in formula.glob("*.sls"))
    daemon = re.search(r"(?m)^\s+(checked\.service|service\.running|release\.rolled):", text)
    if daemon:
        assert (formula / "status.yaml.j2").is_file(), f"it runs a daemon ({daemon[1]})"


# The machine's certificate: what other machines reach includes it (salt/README.md).
EVERYBODYS = {"pki", "apps"}
# How a file gets at another formula's settings or files.
READS = (
    r"from ['\"]([a-z0-9]+)/",
    r"formula\.(?:settings|said)['\"]\]\(['\"]([a-z0-9]+)['\"]",
    r"salt://([a-z0-9]+)/",
    r"pillar(?:\[|\.get\()['\"]([a-z0-9]+)",
    r"(?m)^ +- ([a-z0-9]+)(?:\.[a-z0-9]+)?$",
)


def read_by(formula: Path) -> set[str]:
    """Formulas whose settings or files this one's files name."""
    found = set()
    for path in formula.rglob("*"):
        if path.is_file() and path.suffix in (".sls", ".j2", ".jinja"):
            lines = path.read_text(encoding="utf-8").splitlines()
            text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
            found |= {name for pattern in READS for name in re.findall(pattern, text)}
    return found & set(FORMULAS)


def test_no_formula_reads_another(formula: Path) -> None:
    """What one must know of another is handed over in a small file (salt/README.md)."""
    assert read_by(formula) - EVERYBODYS - {formula.name} == set()


def test_a_formula_that_reads_another_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    for number, line in enumerate(
        (
            "{% from 'redis/map.jinja' import redis with context %}",
            "{% set port = salt['formula.settings']('haproxy').port %}",
            "- source: salt://counter/files/unit.j2",
            "{{ pillar['fail2ban'] }}",
            "include:\n  - base.ssh",
        )
    ):
        (folder / f"{number}.sls").write_text(f"{line}\n# salt://shipper/x", encoding="utf-8")
    assert read_by(folder) == {"redis", "haproxy", "counter", "fail2ban", "base"}


@pytest.mark.parametrize("module", sorted(modules.sources()))
def test_a_module_of_one_formula_says_so_in_its_first_line(module: str) -> None:
    """And one that is shared does not; the tables of salt/README.md are made from the same."""
    owner = modules.owner(module)
    said = re.match(r"For formula (\w+): ", modules.summary(module))
    assert (said and said[1]) == owner


def test_the_readme_of_the_tree_names_every_small_file() -> None:
    """Which are all the YAML of a formula but what is its own."""
    own = {"defaults.yaml", "schema.yaml", "rules.yaml", "os.yaml", "application.yaml"}
    written = {path.name for path in TREE.glob("[a-z]*/*.yaml*")} - own
    rows = re.findall(r"(?m)^\| (`.+?) \|", (TREE / "README.md").read_text(encoding="utf-8"))
    assert written <= {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    readers = [
        path
        for pattern in ("_modules/*.py", "[a-z]*/*.j2", "[a-z]*/map.jinja")
        for path in TREE.glob(pattern)
    ]
    asked = " ".join(re.sub("#.*", "", path.read_text(encoding="utf-8")) for path in readers)
    for name in written:
        assert name in asked or not name.endswith(".j2"), f"nothing reads {name}"
