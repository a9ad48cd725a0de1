"""What a comment says must hold between two settings is enforced, and the defaults themselves keep to it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from control.by_path import load_yaml

TREE = Path(__file__).resolve().parents[4] / "salt"
FORMULAS = sorted(path.parent.name for path in TREE.glob("*/defaults.yaml"))
RULES = [
    (path.parent.name, rule)
    for path in [TREE / "rules.yaml", *sorted(TREE.glob("*/rules.yaml"))]
    for rule in load_yaml(path)
]
IDS = [rule["setting"] for _, rule in RULES]
DEFAULTS = {name: load_yaml(TREE / name / "defaults.yaml") for name in FORMULAS}
# Of the form alone: whether it could be served is asked later.
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
# Each rule broken: what the pillar says, and part of the line that refuses it.
BROKEN: list[tuple[dict[str, Any], str]] = [
    (
        {"haproxy": {"hard_stop_after": "25s"}},
        "pillar haproxy:hard_stop_after: '25s' must be longer than timeouts:http_keep_alive +"
        " timeouts:server = 25 s, or a reload cuts clients off",
    ),
    ({"haproxy": {"timeouts": {"server": "1m"}}}, "pillar haproxy:hard_stop_after: '60s' must be"),
    ({"haproxy": {"tls": {"key": "site-key", "certificate": None}}}, "pillar haproxy:tls:key: "),
    (
        {
            "haproxy": {
                "trusted_proxies": {"proxy_protocol": ["10.1.2.0/24"], "forwarded": ["10.1.2.7"]}
            }
        },
        "pillar haproxy:trusted_proxies: 10.1.2.0/24 and 10.1.2.7 overlap: a network can be in one list once",
    ),
    (
        {"haproxy": {"trusted_proxies": {"forwarded_for": ["127.0.0.1"]}}},
        "pillar haproxy:trusted_proxies: 127.0.0.0/8 and 127.0.0.1 overlap",
    ),
    (
        {"haproxy": {"acme": {"directory": "https://acme.test/dir", "email": "a@b.test"}}},
        "pillar haproxy:acme:directory: 'https://acme.test/dir' needs acme:email and acme:agree: true",
    ),
    (
        {"haproxy": {"acme": {"directory": "https://acme.test/dir", "agree": True}}},
        "pillar haproxy:acme:directory: 'https://acme.test/dir' needs acme:email and acme:agree: true",
    ),
    (
        {
            "haproxy": {
                "acme": {"directory": "https://acme.test/dir", "agree": True, "email": "a@b.test"},
                "tls": {"certificate": PEM, "key": "site-key"},
            }
        },
        "pillar haproxy:acme:directory: 'https://acme.test/dir' goes without tls:certificate",
    ),
    (
        {"haproxy": {"acme": {"names": ["*.b.test"]}}},
        "pillar haproxy:acme:challenge: 'http' must be dns for a wildcard",
    ),
    ({"haproxy": {"acme": {"challenge": "dns"}}}, "pillar haproxy:acme:challenge: 'dns' needs"),
    (
        {"haproxy": {"http3": True, "knows_http3": False}},
        "pillar haproxy:http3: True needs HAProxy 2.9 or newer",
    ),
    ({"haproxy": {"limit": {"connections": 700}}}, "pillar haproxy:limit:connections: 700 must"),
    (
        {"fail2ban": {"jails": {"haproxy-limit": {"maxretry": 1500}}}},
        "pillar haproxy:limit:connections: 2000 must",
    ),
    (
        {"fail2ban": {"jails": {"haproxy-tls": {"maxretry": 500}}}},
        "pillar haproxy:limit:failures: 120 must be more than the retries of jail haproxy-tls",
    ),
    ({"haproxy": {"limit": {"refusals": 1600}}}, "pillar haproxy:limit:connections: 2000 must"),
    ({"haproxy": {"log": {"line_length": 3000}}}, "pillar haproxy:log:line_length: 3000 must"),
    (
        {"haproxy": {"log": {"path_length": 256, "user_agent_length": 256}}},
        "pillar haproxy:log:line_length: 4096 must be at least",
    ),
    (
        {"counter": {"environment": {"REDIS_TIMEOUT": "10", "REDIS_CONNECT_TIMEOUT": 5}}},
        "pillar haproxy:timeouts:server: '15s' must be longer than the application waits",
    ),
    ({"counter": {"drain_seconds": 1}}, "pillar counter:drain_seconds: 1 is too short: the edge"),
    (
        {"haproxy": {"backend": {"check": {"interval": "1s"}}}},
        "pillar counter:drain_seconds: 1.6 is too short: the edge needs two"
        " haproxy:backend:check:interval + 1 s = 3 s to see",
    ),
    ({"counter": {"rotation_seconds": 0}}, "pillar counter:rotation_seconds: 0 is too short"),
    ({"counter": {"release": {"sha256": "0" * 64}}}, "counter:version must say which"),
    (
        {"counter": {"version": "1", "release": {"source": "https://x.test/y"}}},
        "pillar counter:release:source: 'https://x.test/y' needs release:sha256",
    ),
    ({"pki": {"renew_days": 90}}, "pillar pki:renew_days: 90 is not less than pki:days, 90"),
    ({"prometheus": {"scrape_interval": "30s"}}, "pillar prometheus:scrape_interval: '30s' is"),
    ({"prometheus": {"alerts": {"group_interval": "1m"}}}, "pillar prometheus:scrape_interval: "),
    ({"collectd": {"interval": 20, "stale_after": 2}}, "pillar prometheus:scrape_interval: "),
    ({"collectd": {"stale_after": 7}}, "pillar collectd:stale_after: 7 is too long"),
    # The schema asks for both keys; one of them may still be null.
    (
        {"prometheus": {"alerts": {"email": {"user": "ann", "password": None}}}},
        "pillar prometheus:alerts:email:user: 'ann' goes with",
    ),
    ({"fail2ban": {"keep": "1w"}}, "pillar fail2ban:keep: '1w' must be longer than every bantime"),
    ({"fail2ban": {"jails": {"sshd": {"bantime": "6w"}}}}, "pillar fail2ban:keep: '5w' must be"),
    ({"redis": {"count_key": "other"}}, "pillar redis:count_key: 'other' must be a key that"),
    (
        {"redis": {"users": {"monitor": {"secret": "redis-monitor", "commands": ["info"]}}}},
        "pillar redis:count_key: 'counter:seen' must be a key that redis:users:monitor may get",
    ),
    ({"stunnel": {"idle_seconds": 15}}, "pillar stunnel:idle_seconds: 15 must be longer than"),
    (
        {"haproxy": {"backend": {"server_maxconn": 500}}},
        "pillar stunnel:connections: 500 must be more than haproxy:backend:server_maxconn, 500",
    ),
    ({"backup": {"max_age_hours": 1, "jitter": 3600}}, "pillar backup:max_age_hours: 1 must be"),
    (
        {"backup": {"s3": {"bucket": "my-bucket", "endpoint": None}}},
        "pillar backup:s3:bucket: 'my-bucket' goes with s3:endpoint",
    ),
    ({"rsyslog": {"service_mb": 32}}, "pillar rsyslog:service_mb: 32 must be more"),
    ({"rsyslog": {"total_mb": 512}}, "pillar rsyslog:total_mb: 512 must be at least"),
    ({"filebeat": {"output": {"kind": "kafka"}}}, "pillar filebeat:output:hosts: kafka needs at"),
    ({"filebeat": {"output": {"tls": {"key": "x"}}}}, "pillar filebeat:output:tls: certificate"),
    ({"filebeat": {"output": {"api_key": "x"}}}, "pillar filebeat:output:api_key: 'x' is for"),
    ({"filebeat": {"install": {"from": "archive"}}}, "pillar filebeat:install: from archive"),
]


@pytest.fixture
def formula(formula_of_tree: ModuleType) -> ModuleType:
    """The module on the real tree."""
    return formula_of_tree


@pytest.mark.parametrize(("where", "rule"), RULES, ids=IDS)
def test_the_defaults_keep_every_rule(
    formula: ModuleType, where: str, rule: dict[str, str]
) -> None:
    assert formula.__salt__["rules.problem"](rule, DEFAULTS) is None
    assert set(rule) == {"setting", "holds", "says"}
    named = formula.__salt__["rules.formulas"](rule)
    # Whose setting is named, or it would be looked for in vain.
    assert rule["setting"].split(":")[0] in named
    # A formula knows its own settings; what holds between two is the tree's to say.
    assert len(named) > 1 if where == "salt" else named == {where}


@pytest.mark.parametrize(("pillar", "line"), BROKEN)
def test_settings_that_do_not_go_together_are_refused_before_any_change(
    formula: ModuleType, pillar: dict[str, Any], line: str
) -> None:
    found = formula.problems(pillar)
    assert [one for one in found if line in one], found
    assert all("\n" not in one for one in found)


def test_every_rule_is_broken_by_one_of_these(formula: ModuleType) -> None:
    """So that none of them holds whatever the settings are."""
    kept = []
    for (_, rule), name in zip(RULES, IDS, strict=True):
        merged = [{**copy.deepcopy(DEFAULTS)} for _ in BROKEN]
        for settings, (pillar, _) in zip(merged, BROKEN, strict=True):
            for one, given in pillar.items():
                overlay(settings[one], given)
        if not any(formula.__salt__["rules.problem"](rule, settings) for settings in merged):
            kept.append(name)
    assert kept == []


def overlay(settings: dict[str, Any], given: dict[str, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            overlay(settings[key], value)
        else:
            settings[key] = value


def test_a_formula_that_was_lifted_out_keeps_the_rules_that_it_can_know(
    formula_on: Callable[..., ModuleType],
) -> None:
    formula: Any = formula_on(TREE)
    files = [
        f"haproxy/{name}.yaml"
        for name in ("defaults", "schema", "rules")
        if (TREE / f"haproxy/{name}.yaml").exists()
    ]
    formula.__salt__["cp.list_master"] = lambda: files
    assert formula.problems({"haproxy": {"limit": {"connections": 700}}}) == []
    (line,) = formula.problems({"haproxy": {"hard_stop_after": "1s"}})
    assert "must be longer" in line


# Words by which a comment says what must be between one setting and another.
BINDING = re.compile(
    r"[Mm]ust (be|stay|go on|give|alert)|[Aa]t least|[Ll]onger than|[Bb]elow (the|waitress)|[Ll]ess than `"
    r"|[Aa]bove [`H]|[Bb]oth or none"
)


# What the words above catch and binds no two settings: about the world, not about a setting.
FREE = {
    "firewalld": ["Seconds in which a change of rules must be confirmed from outside"],
    "haproxy": ["Folder whose certificates are served"],
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_comment_that_binds_one_setting_to_another_is_a_rule(name: str) -> None:
    """Enforced, and it says where; or the sentence goes."""
    text = (TREE / name / "defaults.yaml").read_text(encoding="utf-8")
    # Comments by paragraph: what is said of one setting.
    blocks = re.findall(r"(?m)(?:^ *#.*\n)+", text)
    loose = []
    for block in blocks:
        said = " ".join(line.strip(" #") for line in block.splitlines())
        if BINDING.search(said) and not re.search(r"rules\.yaml|refuse|both or none", said, re.I):
            loose.append(said)
    assert [said for said in loose if not said.startswith(tuple(FREE.get(name, [])))] == []
