"""
Whatever is put into whatever setting is refused with its path, or arrives as it was written.

Values are drawn by hypothesis from a seed, which a failure names; another one: --hypothesis-seed=N.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import hypothesis
import pytest
import salt.utils.yaml
import yaml
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from test_formula_shape import FORMULAS, TREE, schema, settings_of

from tests.unit.conftest import RELEASE, ask_salt, prepare

SEED = 14
# Of what each setting is given, and how often a machine is rendered with all of them.
VALUES, ROUNDS = 8, 1
SCHEMAS = {name: schema(TREE / name) for name in FORMULAS}
SETTINGS = {name: dict(settings_of(SCHEMAS[name])) for name in FORMULAS}
# What has a meaning in YAML, Jinja, a shell, systemd, INI, HAProxy, XML, or is read as something else.
ODD = [
    *("1.10", "0027", "12:30", "1e3", "2.0", "no", "yes", "null", "~", "", " ", "-", "a\nb", "a\n"),
    *("o'brien@example.org", '"', "'", "\\", "$HOME", "%h", "%%", "#x", "x # y", "a: b", "{", "}"),
    *(
        '{"a": 1}',
        "{{ 1 + 1 }}",
        "{% raw %}",
        "{# x #}",
        "{port}",
        "${x}",
        "`id`",
        "$(id)",
        ";",
        "|",
    ),
    *(
        "&a",
        "*a",
        "!x",
        "@a",
        "- a",
        "? a",
        "<b>",
        "&amp;",
        "\t",
        "\x00",
        "\x85",
        "\u2028",
        "\ud800",
    ),
    *("\ufeff", "é", "漢字", "🙂", "a" * 3000, "../../etc", "-----BEGIN PRIVATE KEY-----\nx"),
    *(0, -1, 27, 750, 2**64, 1.1, 2.0, 1e300, 1e-07, float("inf"), float("nan"), True, False, None),
    *(
        [],
        {},
        ["a"],
        [None],
        [[]],
        {"a": "b"},
        {False: "x"},
        {123: "x"},
        {None: 1, "a": 2},
        {"a\nb": 1},
    ),
]
# Settings that a schema takes only together, each with what lets the other one pass.
TOGETHER = {
    "backup:s3:endpoint": ("backup:s3:bucket", "bucket"),
    "backup:s3:bucket": ("backup:s3:endpoint", "https://s3.example"),
    "haproxy:tls:certificate": ("haproxy:tls:key", "site-key"),
    "haproxy:tls:key": ("haproxy:tls:certificate", None),
    "prometheus:alerts:email:to": ("prometheus:alerts:email", {"from": "a@b.c", "server": "d:25"}),
    "prometheus:alerts:email:user": ("prometheus:alerts:email:password", "mail"),
    "prometheus:alerts:email:password": ("prometheus:alerts:email:user", "me"),
}
MESSED = "".join(one for one in ODD if isinstance(one, str) and len(one) == 1)


@pytest.fixture(scope="module")
def seed(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("hypothesis_seed", None) or SEED)


def drawn(strategy: st.SearchStrategy[Any], number: int, seed: int) -> list[Any]:
    """So many values of the strategy, the same for the same seed."""
    found: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=number,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    # Hypothesis also draws what stands in the modules that are loaded, which depends on the other tests.
    with mock.patch.object(providers, "_get_local_constants", lambda: providers.GLOBAL_CONSTANTS):
        collect()
    return found


def valid(part: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a part of a schema is meant for; few that it refuses are among them."""
    if "$ref" in part:
        part = {**root["$defs"][part["$ref"].rpartition("/")[2]], **part}
    for key in ("oneOf", "anyOf"):
        if key in part:
            rest = {name: one for name, one in part.items() if name != key}
            return st.one_of(*(valid({**rest, **one}, root) for one in part[key]))
    if "const" in part:
        return st.just(part["const"])
    if "enum" in part:
        return st.sampled_from(part["enum"])
    kinds = part["type"] if isinstance(part.get("type"), list) else [part.get("type")]
    return st.one_of(*(_of_kind(kind, part, root) for kind in kinds))


def _of_kind(kind: str, part: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    low, high = part.get("minimum"), part.get("maximum")
    if kind == "null":
        return st.none()
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(low, high)
    if kind == "number":
        low = part.get("exclusiveMinimum", low)
        return st.floats(low, high, allow_nan=False).map(lambda one: round(one, 2))
    if kind == "array":
        return st.lists(valid(part["items"], root), min_size=part.get("minItems", 0), max_size=3)
    if kind == "object" and "properties" in part:
        every = {name: valid(one, root) for name, one in part["properties"].items()}
        needed = {name: every.pop(name) for name in part.get("required", ())}
        return st.fixed_dictionaries(needed, optional=every)
    if kind == "object":
        keys = valid({"type": "string", **part.get("propertyNames", {})}, root)
        return st.dictionaries(keys, valid(part["additionalProperties"], root), max_size=2)
    if part.get("format") == "network":
        return st.sampled_from(["192.0.2.1", "2001:db8::/32"])
    if part.get("format") == "key of jail.yaml.j2":
        return st.sampled_from(["haproxy-limit", "recidive"])
    if "pattern" in part:
        return st.from_regex(part["pattern"])
    return st.one_of(st.sampled_from([one for one in ODD if isinstance(one, str)]), st.text())


def messed(value: Any) -> st.SearchStrategy[Any]:
    """A value with something odd in it."""
    if not isinstance(value, str):
        return st.just(value)
    return st.tuples(st.integers(0, len(value)), st.sampled_from(MESSED)).map(
        lambda where: value[: where[0]] + where[1] + value[where[0] :]
    )


def lay(pillar: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """The pillar with this setting in it."""
    *above, last = where.split(":")
    part = pillar
    for key in above:
        part = part.setdefault(key, {})
    part[last] = value
    return pillar


@pytest.fixture(scope="module")
def formula(formula_of_tree: ModuleType) -> ModuleType:
    """The module that refuses, on the project's own tree."""
    return formula_of_tree


@pytest.fixture(scope="module")
def values(seed: int) -> dict[str, list[Any]]:
    """Of every setting what it is given: odd ones, and those that it is meant for, some with a flaw."""
    found = {}
    for name, settings in SETTINGS.items():
        meant = {path: valid(part, SCHEMAS[name]) for path, part in settings.items()}
        each = {path: one | one.flatmap(messed) for path, one in meant.items()}
        given = drawn(st.fixed_dictionaries(each), VALUES, seed)
        defaults = salt.utils.yaml.safe_load((TREE / name / "defaults.yaml").read_text("utf-8"))
        for path in settings:
            usual: Any = defaults
            for key in path.split(":"):
                usual = usual.get(key) if isinstance(usual, dict) else None
            found[f"{name}:{path}"] = [*ODD, *(one[path] for one in given), usual]
    return found


@pytest.fixture(scope="module")
def refusals(
    formula: ModuleType, values: dict[str, list[Any]]
) -> dict[str, list[tuple[Any, list[str]]]]:
    """Of every setting each value that it is given, with the lines that refuse it, if any."""

    def refusal(where: str, value: Any) -> list[str]:
        name = where.partition(":")[0]
        pillar = lay({}, *copy.deepcopy(TOGETHER.get(where, (name, {}))))
        lines: list[str] = formula.problems(lay(pillar, where, value))
        return lines

    return {
        where: [(value, refusal(where, value)) for value in given]
        for where, given in values.items()
    }


def test_every_setting_refuses_in_one_line_with_its_path_or_takes_the_value_as_it_is(
    refusals: dict[str, list[tuple[Any, list[str]]]], seed: int
) -> None:
    for where, given in refusals.items():
        taken = 0
        for value, lines in given:
            told = f"{where} = {value!r} (--hypothesis-seed={seed})"
            for line in lines:
                assert line.isprintable(), f"{told}: {line!r}"
                # Two that need each other are named by the group that they are in, or a rule names both.
                group = where.rpartition(":")[0]
                named = line.startswith((f"pillar {where}", f"pillar {group}:"))
                named = named or where.rpartition(":")[2] in line
                assert named, f"{told}: {line}"
                assert "PRIVATE KEY" not in line, told
            if not lines:
                taken += 1
                # What `| json` writes into an SLS or a YAML file, as YAML reads it.
                again = salt.utils.yaml.safe_load(json.dumps(value, ensure_ascii=False))
                assert repr(again) == repr(value), told
        assert taken, f"{where}: nothing was taken: the strategy fits no more"


# --- through real Salt ----------------------------------------------------------------------------

# Said in no state and no file of machine dev, and why.
ELSEWHERE = {
    "counter:over_tls:": "where Redis is another machine",
    "counter:tunnel_port": "where an edge is another machine",
    "counter:rotation_seconds": "where the edge is another machine",
    "keepalived:": "where several edges share an address",
    "sentinel:": "where there are several stores",
    "stunnel:": "where a machine has tunnels",
    "firewalld:confirm_seconds": "0 is not said",
    "firewalld:log_per_minute": "only where there is a kernel log of its own",
    "firewalld:replace": "openings in place of others",
    "fail2ban:jails": "of a jail that is off nothing is said",
    "base:protected_users": "only compared",
    "base:time:": "where the clock is the machine's own",
    "haproxy:limit:": "of a limit that is off nothing is said",
}
# What must hold for the rest to be looked at; odd names of people are for what is told of them.
TELLING = 'O\'Brien "x" \\\\ $HOME %h # {{ 1 }} {% raw %} é &amp; <b>'
FIXED: dict[str, Any] = {
    "base:users": {"o-brien": {"full_name": TELLING, "keys": []}},
    "counter:environment": {"TELLING": TELLING.replace("{", "").replace("}", "") + "{{}}"},
    "counter:drain_seconds": 61.5,
    "counter:rotation_seconds": 30,
    "counter:version": "1.10",
    "filebeat:install:from": "archive",
    "filebeat:install:archive": "/srv/f.tar.gz",
    "filebeat:install:sha256": "1234567890e1" + "0" * 52,
    "filebeat:output:kind": "elasticsearch",
    "filebeat:output:api_key": None,
    "filebeat:output:tls:certificate": None,
    "filebeat:output:tls:key": None,
    "haproxy:backend:check:interval": "2s",
    "pki:renew_days": 1,
    "prometheus:alerts:email:server": "mail.example.org:25",
    "filebeat:output:hosts": ["https://e.example:9200"],
    "filebeat:services": ["system"],
    "firewalld:openings": [{"port": 8042, "protocol": "tcp", "from": {"network": "192.0.2.0/24"}}],
    "haproxy:limit:enabled": True,
    "prometheus:alerts:email:to": "o'brien@example.org",
    "prometheus:alerts:email:from": "o'brien+#:x@example.org",
    "prometheus:alerts:webhook": "https://example.org/o'brien?a=1&b=%20#x",
}


def leaves(value: Any) -> Iterator[Any]:
    """Every key and every value of a structure."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def parsed(path: str, text: str) -> Any:
    """A file as its own reader has it, where this one can read it; its text else."""
    if path.endswith((".yml", ".yaml")):
        return yaml.safe_load(text)
    if path.endswith(".json"):
        return json.loads(text)
    if path.endswith(".xml"):
        return [list(one.attrib.values()) for one in ElementTree.fromstring(text.encode()).iter()]
    return text


def said(rendered: dict[str, Any]) -> tuple[set[tuple[str, str]], str]:
    """What a machine's states and files say: every value with its type; and the text of the files."""
    files = {
        path: base64.b64decode(one["data"]).decode() for path, one in rendered["files"].items()
    }
    read = [parsed(path, text) for path, text in files.items()]
    every = leaves([rendered["low"], rendered["status"], read])
    return {(type(one).__name__, repr(one)) for one in every}, "\n".join(files.values())


def drop_one_of(pillar: dict[str, Any], line: str, settings: Iterable[str]) -> bool:
    """Take out of the pillar the first setting that a refusal names; whether there was one."""
    for where in settings:
        _, _, inner = where.partition(":")
        if where in FIXED or not (line.startswith(f"pillar {where}: ") or inner in line):
            continue
        part: Any = pillar
        *outer, last = where.split(":")
        for key in outer:
            part = part.get(key, {}) if isinstance(part, dict) else {}
        if isinstance(part, dict) and part.pop(last, None) is not None:
            return True
    return False


@pytest.fixture(scope="module")
def machines(
    formula: ModuleType,
    refusals: dict[str, list[tuple[Any, list[str]]]],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """Machine dev with all settings at once, each with something that its schema takes, some times."""
    tree = tmp_path_factory.mktemp("property") / "dev"
    prepare(tree, {"topology": "dev", "name": "dev", "release": RELEASE})
    questions = []
    for number in range(1, ROUNDS + 1):
        pillar: dict[str, Any] = {}
        for where, given in refusals.items():
            if where in FIXED:
                lay(pillar, where, copy.deepcopy(FIXED[where]))
            elif where not in TOGETHER:
                taken = [value for value, lines in given if not lines]
                if taken:
                    lay(pillar, where, taken[-number % len(taken)])
        # What a rule forbids together is left at its default, one after the other.
        while lines := formula.problems(pillar):
            assert drop_one_of(pillar, lines[0], refusals), f"--hypothesis-seed={seed}: {lines[0]}"
        questions.append(["render settings", [pillar], {}])
    answers = ask_salt(tree, questions)
    for one in answers:
        assert "error" not in one, f"--hypothesis-seed={seed}: {one['error'][-3000:]}"
    return answers


def test_what_is_taken_arrives_on_a_machine_unchanged(
    machines: list[dict[str, Any]], values: dict[str, list[Any]], seed: int
) -> None:
    for machine in machines:
        every, text = said(machine["rendered"])
        assert set(machine["settings"]) == {where.partition(":")[0] for where in values}
        for where in values:
            part: Any = machine["settings"]
            for key in where.split(":"):
                part = part.get(key, {}) if isinstance(part, dict) else {}
            if where.startswith(tuple(ELSEWHERE)):
                continue
            for value in leaves(part):
                there = (type(value).__name__, repr(value)) in every
                assert there or (isinstance(value, str) and value in text), (
                    f"{where}: {value!r} is nowhere to be found (--hypothesis-seed={seed})"
                )


def test_a_version_that_looks_like_a_number_is_installed_and_run_as_it_is_written(
    machines: list[dict[str, Any]],
) -> None:
    for machine in machines:
        states = [one for one in machine["rendered"]["low"] if one["state"] == "release"]
        assert [one["version"] for one in states] == ["1.10", "1.10"]
        (archive,) = [one for one in machine["rendered"]["low"] if one["state"] == "archive"]
        assert archive["name"] == "/opt/filebeat/1234567890e1"


def test_an_apostrophe_in_an_address_of_a_receiver_stays_one(
    machines: list[dict[str, Any]],
) -> None:
    for machine in machines:
        data = machine["rendered"]["files"]["/etc/prometheus/alertmanager.yml"]["data"]
        found = yaml.safe_load(base64.b64decode(data))
        people = next(one for one in found["receivers"] if one["name"] == "people")
        assert people["webhook_configs"][0]["url"] == FIXED["prometheus:alerts:webhook"]
        assert people["email_configs"][0]["to"] == FIXED["prometheus:alerts:email:to"]
        assert found["global"]["smtp_from"] == FIXED["prometheus:alerts:email:from"]


def environment_of(text: str) -> dict[str, str]:
    """An EnvironmentFile= as systemd reads it (systemd.exec(5)): all values are in double quotes."""
    found = {}
    for key, value in re.findall(r'(?m)^([A-Z_]+)="((?:[^"\\]|\\.)*)"$', text):
        found[key] = re.sub(r'\\(["\\`$])', r"\1", value)
    return found


def test_an_environment_reaches_an_instance_as_it_is_written(
    load_source: Callable[..., ModuleType], formula: ModuleType, tmp_path: Path, seed: int
) -> None:
    instance = load_source("salt/_modules/instance.py")
    texts = [one for one in ODD if isinstance(one, str)] + drawn(st.text(), 100, seed)
    taken = [one for one in texts if not formula.problems({"counter": {"environment": {"A": one}}})]
    assert len(taken) > len(texts) / 3
    for value in taken:
        instance.assign(str(tmp_path), 1, "v1", {"A": value})
        text = (tmp_path / "instances/1/env").read_text(encoding="utf-8")
        assert environment_of(text) == {"A": value}, f"--hypothesis-seed={seed}"


# Settings whose text may hold what means something to a shell, to systemd or in a configuration, and what
# keeps it as it is where it goes. Every other one's schema takes nothing of the kind.
FREE = {
    "base:login:notice": "a file of text alone",
    "base:origin": "a file of text alone",
    "base:updates:origins": "$, { and } for apt's own ${distro_codename}, within its quotes",
    "haproxy:acme:ca": "a file of text alone",
    "haproxy:maintenance:page": "a file of text alone",
    "haproxy:scans": "quotes of HAProxy's in which only their own end means something",
    "prometheus:alerts:email:from": "YAML, | json",
    "prometheus:alerts:email:to": "YAML, | json",
    "prometheus:alerts:email:user": "YAML, | json",
    "prometheus:alerts:watchdog": "YAML, | json",
    "prometheus:alerts:webhook": "YAML, | json",
}


def test_only_settings_that_are_quoted_where_they_go_take_what_needs_quotes(
    formula: ModuleType,
) -> None:
    """A text, and a list of texts; what a map holds, the tests above have seen arrive."""
    free = set()
    for name, settings in SETTINGS.items():
        for path, part in settings.items():
            where = f"{name}:{path}"
            samples = [one for one in drawn(valid(part, SCHEMAS[name]), 10, SEED) if one]
            if "-----BEGIN" in str(samples):
                # A file of its own.
                continue
            for sample in samples[:3]:
                one = sample[0] if isinstance(sample, list) else sample
                for char in "\"'\\$%#;{<&|" if isinstance(one, str) else "":
                    odd: Any = one[:-1] + char + one[-1:]
                    odd = [odd] if isinstance(sample, list) else odd
                    pillar = lay({}, *copy.deepcopy(TOGETHER.get(where, (name, {}))))
                    lines = formula.problems(lay(pillar, where, odd))
                    if not any(line.startswith(f"pillar {where}") for line in lines):
                        free.add(where)
    assert free == set(FREE)
