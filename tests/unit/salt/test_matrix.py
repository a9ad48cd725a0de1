"""
No service without its metric, log, alert with a test, dashboard, firewall decision, runbook and
README: walks salt/ and names the service and what it lacks.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.by_path import load_yaml

ROOT = Path(__file__).resolve().parents[3]
# What an alert must say. `runbook` is a page that is there.
LABELS = {"severity", "service"}
ANNOTATIONS = {"summary", "description", "runbook"}
SEVERITIES = {"page", "ticket", "info"}
SECTIONS = (
    "What it means",
    "What users feel",
    "Look here",
    "Do this",
    "Verify",
    "Prevent",
)


def services(root: Path) -> list[str]:
    """Formulas that run something: those that `make status` asks."""
    return sorted(path.parent.name for path in root.glob("salt/*/status.yaml.j2"))


def rules(folder: Path) -> list[dict[str, Any]]:
    if not (folder / "alerts.yaml").is_file():
        return []
    groups = load_yaml(folder / "alerts.yaml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def lacks_of_alert(root: Path, service: str, rule: dict[str, Any], tested: str) -> Iterator[str]:
    name = rule["alert"]
    labels, said = rule.get("labels", {}), rule.get("annotations", {})
    for key in sorted(LABELS - set(labels)) + sorted(ANNOTATIONS - set(said)):
        yield f"alert {name} has no {key}"
    if labels.get("severity") not in SEVERITIES:
        yield f"alert {name}: severity is one of {', '.join(sorted(SEVERITIES))}"
    if labels.get("service") != service:
        yield f"alert {name}: service is not {service}"
    if said.get("runbook") != f"docs/runbooks/{name}.md":
        yield f"alert {name}: runbook is not docs/runbooks/{name}.md"
    page = root / "docs" / "runbooks" / f"{name}.md"
    if not page.is_file():
        yield f"alert {name} has no runbook docs/runbooks/{name}.md"
    else:
        text = page.read_text(encoding="utf-8")
        for section in SECTIONS:
            if not re.search(rf"(?m)^## {section}\n\n\S", text):
                yield f"runbook {name}.md has no section '{section}'"
    if not re.search(rf'alertname="{name}",alertstate="firing"', tested):
        yield f"alert {name} has no test in alerts.test.yaml"
    elif not re.search(rf'(?m)^ +ALERTS\{{alertname="{name}",', tested):
        yield f"alert {name} is never seen firing in alerts.test.yaml"


def lacks(root: Path, service: str) -> list[str]:
    """What `service` lacks, in words."""
    folder = root / "salt" / service
    wanted = {
        "metrics.yaml.j2": "metric",
        "logs.yaml.j2": "log",
        "alerts.yaml": "alert",
        "alerts.test.yaml": "test of its alerts",
        "dashboard.yaml": "dashboard",
        "README.md": "README",
    }
    found = [
        f"no {what} ({file})" for file, what in wanted.items() if not (folder / file).is_file()
    ]
    # What opens nothing says so in its README; the firewall itself is the decision.
    readme = folder / "README.md"
    if not (folder / "firewall.yaml.j2").is_file() and not (
        readme.is_file() and re.search(r"(?i)opens nothing", readme.read_text(encoding="utf-8"))
    ):
        found.append("no firewall decision (firewall.yaml.j2, or 'opens nothing' in its README)")
    if (folder / "alerts.yaml").is_file():
        tests = folder / "alerts.test.yaml"
        tested = tests.read_text(encoding="utf-8") if tests.is_file() else ""
        for rule in rules(folder):
            found += lacks_of_alert(root, service, rule, tested)
    return found


def test_there_are_services() -> None:
    assert {"base", "collectd", "counter", "haproxy", "prometheus", "redis"} <= set(services(ROOT))


@pytest.mark.parametrize("service", services(ROOT))
def test_no_service_lacks_anything(service: str) -> None:
    assert lacks(ROOT, service) == [], f"salt/{service}"


@pytest.mark.parametrize("service", services(ROOT))
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("metrics.yaml.j2", "no metric"),
        ("logs.yaml.j2", "no log"),
        ("alerts.yaml", "no alert"),
        ("alerts.test.yaml", "no test of its alerts"),
        ("dashboard.yaml", "no dashboard"),
        ("README.md", "no README"),
    ],
)
def test_what_is_taken_away_is_missed_by_name(
    tmp_path: Path, service: str, file: str, words: str
) -> None:
    shutil.copytree(ROOT / "salt" / service, tmp_path / "salt" / service)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "runbooks").symlink_to(ROOT / "docs" / "runbooks")
    (tmp_path / "salt" / service / file).unlink(missing_ok=True)
    assert any(one.startswith(words) for one in lacks(tmp_path, service))


@pytest.mark.parametrize("service", services(ROOT))
def test_a_runbook_that_is_taken_away_is_missed_by_name(tmp_path: Path, service: str) -> None:
    shutil.copytree(ROOT / "salt" / service, tmp_path / "salt" / service)
    for rule in rules(ROOT / "salt" / service):
        assert f"alert {rule['alert']} has no runbook docs/runbooks/{rule['alert']}.md" in lacks(
            tmp_path, service
        )


def test_every_runbook_is_of_an_alert_and_listed() -> None:
    folder = ROOT / "docs" / "runbooks"
    written = {path.stem for path in folder.glob("*.md")} - {"README"}
    alerts = {
        rule["alert"] for service in services(ROOT) for rule in rules(ROOT / "salt" / service)
    }
    assert written == alerts
    listed = (folder / "README.md").read_text(encoding="utf-8")
    assert {name for name in alerts if f"[{name}]({name}.md)" not in listed} == set()


def test_no_two_services_have_an_alert_of_the_same_name() -> None:
    names = [rule["alert"] for service in services(ROOT) for rule in rules(ROOT / "salt" / service)]
    assert sorted(names) == sorted(set(names))
