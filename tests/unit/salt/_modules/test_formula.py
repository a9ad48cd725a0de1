"""A misspelt or mistyped pillar key stops the run before any change, with its path."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import salt.utils.yaml
import yaml
from salt.exceptions import CommandExecutionError

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "mode": {"enum": ["fast", "exact"]},
        "size": {"type": "string", "pattern": "^[0-9]+mb$", "description": "such as 128mb"},
        "list": {"type": "array", "items": {"type": "string"}},
        "inner": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"depth": {"type": ["integer", "null"]}, "name": {"type": "string"}},
        },
    },
}
DEFAULTS = {
    "port": 80,
    "mode": "fast",
    "size": "1mb",
    "list": ["a", "b"],
    "inner": {"depth": 1, "name": "default"},
}
# What else a schema may say of a setting.
MORE = {
    "rate": {"type": "number"},
    "certificate": {"type": "string", "format": "certificates"},
    "script": {"type": "string", "format": "script"},
    "key": {"type": "string", "format": "secret key"},
    "user": {"type": "string", "format": "secret"},
}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIBhidden\n-----END CERTIFICATE-----\n"
KEY = CERTIFICATE.replace("CERTIFICATE", "PRIVATE KEY")
IDENTITY = "# created: today\nAGE-SECRET-KEY-1X\n"
QUOTE = "quote it: without quotes YAML makes a number or a boolean of 0027, 12:30, 1.10, yes and no"


@pytest.fixture
def formula(formula_on: Callable[..., ModuleType], tmp_path: Path) -> ModuleType:
    """The execution module on a tree with the formulas `web` and `store`."""
    for name in ("web", "store"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
        (tmp_path / name / "defaults.yaml").write_text(yaml.safe_dump(DEFAULTS))
    (tmp_path / "_modules").mkdir()
    (tmp_path / "_modules" / "schema.yaml").write_text("not a formula")

    module = formula_on(tmp_path)
    module.tree = tmp_path  # type: ignore[attr-defined]
    return module


def test_a_pillar_that_is_right_has_no_problems(formula: ModuleType) -> None:
    assert formula.__salt__["tree.names"]() == ["store", "web"]
    pillar = {"web": {"port": 8080, "inner": {"depth": None}}, "topology": {"x": 1}, "machine": {}}
    assert formula.problems(pillar) == []
    assert formula.problems({}) == []


@pytest.mark.parametrize(
    ("pillar", "line"),
    [
        ({"wbe": {}}, "pillar wbe: unknown key; did you mean 'web'? known: store, web"),
        ({"zzzz": {}}, "pillar zzzz: unknown key; known: store, web"),
        (
            {"web": {"prot": 80}},
            "pillar web:prot: unknown key; did you mean 'port'? known: inner, list, mode,"
            " port, size",
        ),
        (
            {"web": {"inner": {"dept": 1}}},
            "pillar web:inner:dept: unknown key; did you mean 'depth'? known: depth, name",
        ),
        ({"web": {"port": "80"}}, "pillar web:port: '80' is not of type integer"),
        ({"web": {"port": True}}, "pillar web:port: True is not of type integer"),
        (
            {"web": {"inner": {"depth": "x"}}},
            "pillar web:inner:depth: 'x' is not of type integer or null",
        ),
        ({"web": None}, "pillar web: None is not of type object"),
        ({"web": {"port": 0}}, "pillar web:port: 0 is out of range; allowed: 1..65535"),
        ({"web": {"port": 65536}}, "pillar web:port: 65536 is out of range; allowed: 1..65535"),
        ({"web": {"mode": "quick"}}, "pillar web:mode: 'quick' is not one of fast, exact"),
        (
            {"web": {"size": "128"}},
            "pillar web:size: '128' does not look right; allowed: such as 128mb",
        ),
        ({"web": {"list": ["a", 5]}}, f"pillar web:list[1]: 5 is not of type string; {QUOTE}"),
    ],
)
def test_a_wrong_pillar_is_refused_with_its_path_and_what_is_right(
    formula: ModuleType, pillar: dict[str, Any], line: str
) -> None:
    assert formula.problems(pillar) == [line]


@pytest.fixture
def more(formula: ModuleType) -> ModuleType:
    """The same tree, with every kind of setting and of secret in formula `web`."""
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], **MORE}}  # type: ignore[dict-item]
    defaults = {**DEFAULTS, "key": "web-key", "user": "web-user"}
    (formula.tree / "web" / "schema.yaml").write_text(yaml.safe_dump(schema))
    (formula.tree / "web" / "defaults.yaml").write_text(yaml.safe_dump(defaults))
    secrets = {"web-identity": {"kind": "age"}, "pki": {"form": "pki"}}
    (formula.tree / "store" / "secrets.yaml").write_text(yaml.safe_dump(secrets))
    return formula


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("web: {list: [0027]}", f"pillar web:list[0]: 27 is not of type string; {QUOTE}"),
        (
            "web: {inner: {name: 12:30}}",
            f"pillar web:inner:name: 750 is not of type string; {QUOTE}",
        ),
        ("web: {mode: no}", f"pillar web:mode: False is not one of fast, exact; {QUOTE}"),
        ("web: {inner: {no: x}}", f"pillar web:inner:False: key False is not text; {QUOTE}"),
        ("web: {list: [{a: 1, 123: x}]}", f"pillar web:list[0]:123: key 123 is not text; {QUOTE}"),
        ("web: {port: 1, ~: 2}", f"pillar web:None: key None is not text; {QUOTE}"),
        ("123: x", f"pillar 123: key 123 is not text; {QUOTE}"),
        ("web: {port: 2.0}", "pillar web:port: 2.0 is not of type integer"),
        ("web: {port: 1e3}", "pillar web:port: '1e3' is not of type integer"),
        (
            "web: {inner: {depth: .inf}}",
            "pillar web:inner:depth: inf is not of type integer or null",
        ),
        ("web: {rate: .nan}", "pillar web:rate: nan is not of type number"),
        ("web: {size: !!binary aGk=}", "pillar web:size: b'hi' is not of type string"),
        ("web: {list: !!set {a}}", "pillar web:list: {'a'} is not of type array"),
        (
            'web: {size: "1mb\\n"}',
            "pillar web:size: '1mb\\n' does not look right; allowed: such as 128mb",
        ),
    ],
)
def test_whatever_yaml_makes_of_a_value_is_refused_in_one_line_with_its_path(
    more: ModuleType, text: str, line: str
) -> None:
    """As Salt reads the pillar. A traceback, or a line for each character, says nothing."""
    pillar = salt.utils.yaml.safe_load(text)
    assert line in more.problems(pillar)
    assert [said for said in more.problems(pillar) if "\n" in said] == []


@pytest.mark.parametrize("value", ["a\nb", "a\n", "a\r", "a\x00b", "a\x85b", "a\u2028b", "\ud800"])
def test_text_of_more_than_one_line_is_refused_where_nothing_takes_it(
    more: ModuleType, value: str
) -> None:
    assert more.problems({"web": {"inner": {"name": value}}}) == [
        f"pillar web:inner:name: {value!r} has a control character or more than one line;"
        " allowed: one line of text"
    ]
    assert more.problems({"web": {"script": "a\nb\n"}}) == []


def test_a_long_value_is_not_shown_in_full(formula: ModuleType) -> None:
    (line,) = formula.problems({"web": {"port": "x" * 5000}})
    assert line.startswith("pillar web:port: 'xxx")
    assert len(line) < 200


@pytest.mark.parametrize(
    "pem",
    [
        CERTIFICATE + KEY,
        CERTIFICATE + KEY.replace("PRIVATE", "EC PRIVATE"),
        CERTIFICATE + KEY.partition("-----END")[0],
        CERTIFICATE.replace("\n", "\r\n") + KEY,
        CERTIFICATE + KEY + CERTIFICATE,
    ],
)
def test_a_private_key_among_certificates_is_refused_and_not_shown(
    more: ModuleType, pem: str
) -> None:
    """Certificates are readable by everybody."""
    for pillar in (
        {"web": {"certificate": pem}},
        {"secrets": {"pki": {"ca": CERTIFICATE, "certificate": pem, "key": KEY}}},
        {"secrets": {"pki": {"ca": pem, "certificate": CERTIFICATE, "key": KEY}}},
        # In a place that takes no PEM at all.
        {"web": {"port": pem}},
        {"web": {"list": [[pem]]}},
    ):
        (line,) = more.problems(pillar)
        assert "holds a private key" in line
        assert "hidden" not in line
    assert more.problems({"web": {"certificate": CERTIFICATE + CERTIFICATE}}) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("web-user", "line1\nhidden", "needs text of one line"),
        ("web-user", "hidden\x00", "needs text of one line"),
        ("web-user", " hidden", "needs text of one line"),
        ("web-user", KEY, "needs text of one line"),
        ("web-user", {"hidden": "b"}, "is a mapping, not text"),
        ("web-user", ["hidden"], "is a list, not text"),
        ("web-user", True, "quote it"),
        ("web-user", 1234567, "quote it"),
        ("web-user", 1.5, "quote it"),
        ("web-user", None, "is empty, not text"),
        ("web-key", "hidden", "needs one private key in PEM"),
        ("web-key", CERTIFICATE, "needs one private key in PEM"),
        ("web-key", KEY[:60], "needs one private key in PEM"),
        ("web-key", KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"), "needs one private key in PEM"),
        ("web-identity", "hidden", "needs an identity of age(1)"),
        ("pki", "hidden", "needs ca, certificate, key"),
        (
            "pki",
            {"ca": CERTIFICATE, "certificate": ["hidden"], "key": KEY},
            "certificate: is not text",
        ),
    ],
)
def test_a_secret_in_a_form_that_its_users_cannot_have_is_refused_unseen(
    more: ModuleType, name: str, value: Any, said: str
) -> None:
    (line,) = more.problems({"secrets": {name: value}})
    assert line.startswith(f"pillar secrets:{name}: ")
    assert said in line
    for hidden in ("hidden", "True", "1234567", "1.5", "MIIB"):
        assert hidden not in line


def test_a_secret_in_the_form_of_its_kind_is_taken(more: ModuleType) -> None:
    pki = {"ca": CERTIFICATE, "certificate": CERTIFICATE, "key": KEY}
    good = {"web-user": "pass word\n", "web-key": KEY, "web-identity": IDENTITY, "pki": pki}
    assert more.problems({"secrets": good}) == []
    # Its own service is stopped by it, and no other (secret.pending).
    still = "-----BEGIN PGP MESSAGE-----\nx\n"
    assert more.problems({"secrets": {name: still for name in good if name != "pki"}}) == []
    assert more.problems({"secrets": ["web-user"]}) == [
        "pillar secrets: needs names with their values (docs/secrets.md)"
    ]


def test_every_problem_is_told_at_once_one_line_each(formula: ModuleType) -> None:
    pillar = {"wbe": 1, "web": {"prot": 1, "mdoe": 2, "port": 0}, "store": {"size": 5}}
    lines = formula.problems(pillar)
    paths = [line.removeprefix("pillar ").split(": ")[0] for line in lines]
    assert sorted(paths) == ["store:size", "wbe", "web:mdoe", "web:port", "web:prot"]
    assert all("\n" not in line for line in lines)


def test_another_formulas_mistake_refuses_this_one_too(formula: ModuleType) -> None:
    formula.__pillar__.update({"store": {"prot": 1}})
    with pytest.raises(CommandExecutionError, match="store:prot") as caught:
        formula.settings("web")
    assert "nothing was changed" in str(caught.value)
    with pytest.raises(CommandExecutionError, match="reasons: see above"):
        formula.settings("store")


def test_settings_are_defaults_then_family_then_release_then_pillar(formula: ModuleType) -> None:
    (formula.tree / "web" / "os.yaml").write_text(
        yaml.safe_dump(
            {
                "Debian": {"port": 1, "mode": "exact", "size": "2mb", "inner": {"name": "family"}},
                "bookworm": {"port": 2, "size": "3mb"},
                "trixie": {"port": 99},
                "RedHat": {"port": 98},
            }
        )
    )
    assert formula.settings("web") == {
        "port": 2,
        "mode": "exact",
        "size": "3mb",
        "list": ["a", "b"],
        "inner": {"depth": 1, "name": "family"},
    }
    formula.__pillar__.update({"web": {"port": 3, "inner": {"depth": 7}}})
    assert formula.settings("web")["port"] == 3
    assert formula.settings("web")["size"] == "3mb"
    assert formula.settings("web")["inner"] == {"depth": 7, "name": "family"}
    assert formula.settings("store") == DEFAULTS, "another formula's os.yaml and pillar"


def test_lists_are_replaced_not_joined(formula: ModuleType) -> None:
    formula.__pillar__.update({"web": {"list": ["z"]}})
    assert formula.settings("web")["list"] == ["z"]


def test_neither_defaults_nor_pillar_are_changed_by_reading(formula: ModuleType) -> None:
    formula.__pillar__.update({"web": {"list": ["z"], "inner": {"depth": 2}}})
    before = copy.deepcopy(formula.__pillar__)
    got = formula.settings("web")
    got["list"].append("mine")
    got["inner"]["depth"] = 9
    assert formula.__pillar__ == before
    assert formula.settings("web")["inner"] == {"depth": 2, "name": "default"}
    assert formula.settings("web")["list"] == ["z"]


def test_a_null_in_the_pillar_overrides_a_default(formula: ModuleType) -> None:
    formula.__pillar__.update({"web": {"inner": {"depth": None}}})
    assert formula.settings("web")["inner"]["depth"] is None


def test_a_file_that_is_not_in_the_tree_is_named(formula: ModuleType) -> None:
    with pytest.raises(CommandExecutionError, match="salt://web/nothing is not in the tree"):
        formula.__salt__["tree.file"]("salt://web/nothing")
    with pytest.raises(CommandExecutionError, match="nowhere has no defaults"):
        formula.settings("nowhere")


# --- through real Salt ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusals(ask_dev: Callable[..., list[Any]]) -> dict[str, str]:
    """What real Salt answers to a wrong pillar, for a whole apply and for one formula alone."""
    wrong = {
        "key": {"redis": {"prot": 1}},
        "top": {"haporxy": {}},
        "several": {
            "redis": {"port": "x"},
            "haproxy": {"backend": {"balance": "magic"}},
            "counter": {"health": {"redy": "/"}},
        },
        "certificate": {"haproxy": {"tls": {"certificate": "-----BEGIN CERTIFICATE-----"}}},
        "braces": {"counter": {"environment": {"JSON": '{"a": 1}'}}},
        "braces over tls": {"counter": {"over_tls": {"environment": {"JSON": "{prot}"}}}},
    }
    questions = [
        *(
            ["state.show_sls", ["counter" if "braces" in name else "base"], {"pillar": pillar}]
            for name, pillar in wrong.items()
        ),
        ["state.show_highstate", [], {"pillar": wrong["key"]}],
        ["state.show_sls", ["base"], {"pillar": {"redis": {"port": 6380}}}],
    ]
    answers = ask_dev(questions)
    return dict(zip([*wrong, "whole", "right"], map(str, answers), strict=True))


def test_one_formula_alone_is_refused_for_any_formulas_mistake(refusals: dict[str, str]) -> None:
    assert "pillar redis:prot: unknown key; did you mean 'port'?" in refusals["key"]
    assert "nothing was changed" in refusals["key"]
    assert "pillar haporxy: unknown key; did you mean 'haproxy'?" in refusals["top"]


def test_a_whole_apply_is_refused_with_the_path(refusals: dict[str, str]) -> None:
    assert "pillar redis:prot: unknown key" in refusals["whole"]
    assert "base packages" not in refusals["whole"], "states were made all the same"


def test_real_salt_tells_every_problem_at_once(refusals: dict[str, str]) -> None:
    for path in ("redis:port", "haproxy:backend:balance", "counter:health:redy"):
        assert f"pillar {path}: " in refusals["several"]


def test_an_environment_with_braces_of_its_own_is_refused_before_the_roll(
    refusals: dict[str, str],
) -> None:
    assert "pillar counter:environment:JSON: " in refusals["braces"]
    assert "own are doubled: {{ and }}" in refusals["braces"]
    assert "pillar counter:over_tls:environment:JSON: " in refusals["braces over tls"]


def test_a_right_overlay_is_taken(refusals: dict[str, str]) -> None:
    assert "base packages" in refusals["right"]
    assert "refused" not in refusals["right"]


def test_a_certificate_without_its_key_is_refused(refusals: dict[str, str]) -> None:
    assert "pillar haproxy:tls: certificate needs key too" in refusals["certificate"]


@pytest.mark.parametrize(
    ("machines", "line"),
    [
        (
            {"dev": {"address": "192.168.56.10", "roles": ["egde"]}},
            "machines:dev:roles: unknown role egde; did you mean edge?",
        ),
        (
            {
                "dev": {"address": "192.168.56.10", "roles": ["edge", "app", "store"]},
                "two": {"address": "192.168.56.10", "roles": ["app"]},
            },
            "machines:two:address: 192.168.56.10 is dev's already",
        ),
    ],
)
def test_a_wrong_topology_is_refused_on_the_machine_too(
    root: Path, tmp_path: Path, machines: dict[str, Any], line: str
) -> None:
    """The pillar file itself, as Salt's `py` renderer runs it."""
    pillar = tmp_path / "pillar"
    (pillar / "topologies").mkdir(parents=True)
    shutil.copytree(root / "salt/_utils", tmp_path / "salt/_utils")
    for name in ("topology_check.py", "topology.schema.yaml"):
        (pillar / name).write_text((root / "pillar" / name).read_text())
    topology = {"name": "dev", "domain": "d.test", "network": "192.168.56.0/24"}
    text = yaml.safe_dump({**topology, "machines": machines})
    (pillar / "topologies" / "dev.yaml").write_text(text)
    (pillar / "machine.yaml").write_text("{topology: dev, name: dev}")
    source = (root / "pillar" / "topology.sls").read_text()
    names: dict[str, Any] = {"__opts__": {"pillar_roots": {"base": [str(pillar)]}}}
    exec(compile(source, "topology.sls", "exec"), names)
    with pytest.raises(ValueError, match=re.escape(line)):
        names["run"]()


def test_a_secret_or_a_jail_that_nobody_has_is_refused_by_its_name(formula: ModuleType) -> None:
    """A misspelt secret would be made anew, a misspelt jail would change nothing, both in silence."""
    tree = formula.tree
    schema = copy.deepcopy(SCHEMA)
    properties = schema["properties"]
    assert isinstance(properties, dict)
    properties["password"] = {"type": ["string", "null"], "format": "secret"}
    properties["ignore"] = {"type": "array", "items": {"type": "string", "format": "network"}}
    properties["jails"] = {"type": "object", "propertyNames": {"format": "key of jail.yaml.j2"}}
    (tree / "web" / "schema.yaml").write_text(yaml.safe_dump(schema))
    defaults = {**DEFAULTS, "password": "web-user", "jails": {}}
    (tree / "web" / "defaults.yaml").write_text(yaml.safe_dump(defaults))
    (tree / "store" / "secrets.yaml").write_text("store-admin: {}\n")
    # Of a formula that this machine need not have, and in a branch that is not taken.
    (tree / "store" / "jail.yaml.j2").write_text(
        "{% if false %}\nstore-scan:\n  a: b\n{% endif %}\n"
    )

    assert formula.problems({"secrets": {"web-user": "x", "store-admin": "y"}}) == []
    assert formula.problems({"secrets": {"web-usr": "hidden"}}) == [
        "pillar secrets:web-usr: unknown key; did you mean 'web-user'? known: store-admin, web-user"
    ]
    own = {"web": {"password": "mine"}, "secrets": {"mine": "x"}}
    assert formula.problems(own) == []
    # The controller has checked it when it was given: to take a setting back refuses nothing.
    kept = {"secrets": {"unused": "x"}, "machine": {"secrets": ["unused"]}}
    assert formula.problems(kept) == []
    assert formula.problems({**own, "secrets": {"web-user": "x"}}) == [
        "pillar secrets:web-user: unknown key; known: mine, store-admin"
    ]
    networks = ["192.0.2.1", "2001:db8::/32", "999.1.1.1", "192.0.2.1/24", "::/0"]
    allowed = "; allowed: an address, or a network such as 192.0.2.0/24"
    assert formula.problems({"web": {"ignore": networks}}) == [
        f"pillar web:ignore[2]: '999.1.1.1' does not appear to be an IPv4 or IPv6 network{allowed}",
        f"pillar web:ignore[3]: 192.0.2.1/24 has host bits set{allowed}",
        f"pillar web:ignore[4]: ::/0 is everybody{allowed}",
    ]
    assert formula.problems({"web": {"jails": {"store-scan": {}}}}) == []
    assert formula.problems({"web": {"jails": {"store-scn": {}}}}) == [
        "pillar web:jails:store-scn: unknown key; did you mean 'store-scan'? known: store-scan"
    ]
