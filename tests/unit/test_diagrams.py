"""The diagrams say what is there: the cloud's firewalls and prices, the pipeline's rules, each alert, each secret."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from control import topology as topologies  # noqa: E402
from control.cloud import firewalls  # noqa: E402
from docs.generate import (  # noqa: E402
    deployment_diagram,
    diagrams,
    facts,
    failures,
    keys_diagram,
    pipeline,
    recovery_diagrams,
    site,
)

# --- the target -----------------------------------------------------------------------------------


def test_the_target_shows_the_firewalls_that_cloud_up_makes() -> None:
    topology = topologies.load("ha")
    names = {facts.BALANCER: "load_balancer_uids", facts.ANYBODY: "addresses"}
    shown = facts.load_topology("ha", in_cloud=True)
    made = firewalls.make_firewalls(topology, firewalls.ask(topology), "ID")
    for firewall in made:
        wanted = {
            (rule["ports"], rule["protocol"], source)
            for rule in firewall["inbound_rules"]
            if rule["protocol"] != "icmp"
            for kind, listed in rule["sources"].items()
            for source in ([one.rpartition(":")[2] for one in listed] if kind == "tags" else [kind])
        }
        tier = firewall["name"].removeprefix("counter-ha-")
        machine = shown.tiers()[tier][0]
        assert {
            (str(one.port), one.protocol, names.get(one.source, one.source))
            for one in machine.openings
        } == wanted
        assert facts.load_cloud("ha").firewalls[machine.name] == firewall["name"]


@pytest.mark.parametrize(("name", "edges"), [("prod", 1), ("ha", 2)])
def test_the_price_of_the_target_is_the_one_that_pages_say(name: str, edges: int) -> None:
    cloud = facts.load_cloud(name)
    page = (ROOT / "docs" / "cloud.md").read_text(encoding="utf-8")
    assert f"${cloud.price:.2f} afterwards" in page
    assert (cloud.balancer is not None) == (edges > 1)


def test_two_roles_that_may_connect_are_not_every_machine() -> None:
    """Of app, store and the others, app and store reach the stores."""
    found = {(one.source, one.target) for one in diagrams.connections(facts.load_topology("ha", True)) if one.formula == "redis"}  # fmt: skip
    assert found == {("app", "store"), ("store", "store")}


# --- the pipeline ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("$A", True),
        ("$B", False),
        ('$A == "x"', True),
        ('$A != "x"', False),
        ("$A == $C", True),
        ('$B || $A == "x" && $C', True),
        ('$A == "x" && $B', False),
    ],
)
def test_a_rule_is_read_as_gitlab_reads_it(condition: str, expected: bool) -> None:
    assert pipeline.holds(condition, {"A": "x", "C": "x"}) is expected


def test_a_rule_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot read"):
        pipeline.holds("$A =~ /x/", {"A": "x"})


def test_each_occasion_has_its_jobs() -> None:
    found = {occasion: {job.name for job in pipeline.jobs(occasion)} for occasion in pipeline.OCCASIONS}  # fmt: skip
    assert not found["merge request"] & {"publish", "staging", "production", "release"}
    assert {"publish", "staging", "production"} <= found["main"]
    assert "release" in found["tag"] and not found["tag"] & {"staging", "production"}
    assert "audit" in found["schedule"] and "publish" not in found["schedule"]
    assert [job.name for job in pipeline.jobs("main") if job.by_hand] == ["production"]


def test_a_changed_rule_changes_the_deployment_diagram_or_refuses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prod = facts.load_topology("prod")
    before, data = deployment_diagram.deployment(prod), pipeline._read()
    monkeypatch.setattr(pipeline, "_read", lambda: data | {"lint": {**data["lint"], "rules": [{"when": "never"}]}})  # fmt: skip
    assert deployment_diagram.deployment(prod) != before
    by_itself = {**data["production"], "rules": [{"if": "$CI_COMMIT_BRANCH"}]}
    monkeypatch.setattr(pipeline, "_read", lambda: data | {"production": by_itself})
    with pytest.raises(RuntimeError, match="by itself and one by hand"):
        deployment_diagram.deployment(prod)


# --- what fails -----------------------------------------------------------------------------------


def test_every_role_service_and_page_has_a_row() -> None:
    rows = failures.load()
    assert failures.missing(rows, [facts.load_topology(name) for name in ("dev", "prod", "ha", "containers")]) == []  # fmt: skip
    without = [one for one in rows if "redis" not in one.of]
    gaps = failures.missing(without, [facts.load_topology("prod")])
    assert {"prod: redis", "alert RedisDown"} <= set(gaps)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alerts": ["RedisAway"]}, "there is no alert RedisAway"),
        ({"says": "ten minutes"}, "does not say any more: ten minutes"),
        ({"by": "guessed"}, "by: is one of"),
        ({"by": "nobody"}, "nobody measured has none"),
        ({"alerts": []}, "nobody who is told"),
        ({"feels": "pain"}, "unknown: feels"),
    ],
)
def test_a_row_that_says_what_there_is_not_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    data = yaml.safe_load(failures.FILE.read_text(encoding="utf-8"))
    data[0]["rows"] = [data[0]["rows"][0] | change]
    path = tmp_path / "failures.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(RuntimeError, match=said):
        failures.load(path)


def test_how_long_an_alert_takes_is_the_sum_of_the_settings() -> None:
    """Decision 11 adds them up likewise."""
    assert failures.told_after({"for": "15s"}) == 45
    assert failures.told_after({}) == 30
    assert failures.told_after({"for": "1m"}) == 90


# --- keys, failover -------------------------------------------------------------------------------


def holders(name: str, key: str) -> frozenset[str]:
    return next(one.holders for listed in keys_diagram.keys(name).values() for one in listed if one.name == key)  # fmt: skip


def test_keys_are_where_the_code_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert holders("prod", "the authority's key") == {"controller", "GitLab"}
    assert holders("prod", "redis-counter") == {"controller", "GitLab", "app", "store"}
    assert holders("prod", "redis-admin") == {"store"}
    assert holders("prod", "site") == {"edge"}
    assert holders("ha", "site") == {"controller", "GitLab", "edge"}
    assert holders("prod", "prometheus:alerts:webhook_token") == {"controller", "GitLab", "monitor"}
    monkeypatch.setattr(keys_diagram.controller_state, "PARTS", ("ssh_config",))
    assert "GitLab" not in holders("prod", "redis-counter")


def test_a_secret_that_nobody_explained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_diagram, "FOR", {**keys_diagram.FOR, "old": "gone"})
    with pytest.raises(RuntimeError, match="FOR: old"):
        keys_diagram.keys("prod")


def test_a_changed_setting_changes_the_failover(monkeypatch: pytest.MonkeyPatch) -> None:
    ha = facts.load_topology("ha")
    before = recovery_diagrams.failover(ha)
    defaults = recovery_diagrams.defaults
    monkeypatch.setattr(
        recovery_diagrams,
        "defaults",
        lambda name: defaults(name) | ({"down_after": 3000} if name == "sentinel" else {}),
    )
    assert "4 to 5 s: 503" in recovery_diagrams.failover(ha) and "4 to 5 s" not in before
    for seconds in (9, 60):
        monkeypatch.setattr(recovery_diagrams, "balancer_seconds", lambda seconds=seconds: seconds)
        assert f"{seconds} s: its connections fail" in recovery_diagrams.failover(ha)


# --- all of them ----------------------------------------------------------------------------------


def test_every_picture_is_on_a_page_and_has_its_words() -> None:
    shown: set[str] = set()
    for page in [*site.pages(), Path("README.md")]:
        if page != Path("docs/reference/diagrams.md"):
            text = (ROOT / page).read_text(encoding="utf-8")
            shown |= set(re.findall(r"diagrams/([a-z-]+)\.svg\)", text))
    pictures = {path.stem for path in (ROOT / "docs" / "diagrams").glob("*.svg")}
    assert pictures - shown == set()
    words = (ROOT / "docs" / "reference" / "diagrams.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"(?s)!\[[^\]]*\]\(\.\./diagrams/([a-z-]+)\.svg\)\n\n(.*?)(?=\n## |\Z)", words))  # fmt: skip
    assert set(parts) == pictures and all(parts.values())
