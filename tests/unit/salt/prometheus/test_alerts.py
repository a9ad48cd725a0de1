"""Rules, routes and pages of the monitor, by Prometheus' own programs where they are."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
WITH_ALERTS = sorted(path.parent.name for path in ROOT.glob("salt/*/alerts.yaml"))
MONITOR = "/etc/prometheus"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


# Those that no test makes on a machine, and why: promtool alone shows when they fire.
ONLY_BY_PROMTOOL = {
    "ScrapeLimitExceeded": "a Prometheus of this computer scrapes what is too much (test_scrapes)",
    "HighLatency": "takes minutes of slow answers, which the application's own limits cut short",
    "ClockSkew": "a container has its host's clock",
    "FirewallDenialsHigh": "takes ten minutes of a flood",
    "MemoryLow": "a container shows its host's memory",
    "HostMetricsMissing": "nothing but a fault of collectd itself makes one of its plugins silent",
    "HighCPU": "takes a quarter of an hour of the whole computer",
    "AppInstanceDown": "is CounterInstanceDown by application (test_monitoring)",
    "AppDown": "is CounterDown by application (test_monitoring)",
    "AppNotReady": "is CounterNotReady by application (test_monitoring)",
    "RequestQueueHigh": "instances that do not answer are taken out before a queue is that long",
    "ReaderNotReporting": "every reader bounds its waiting; a reader that does not would be a bug",
    "FailoverHappened": "test_stores moves masters, and asks the stores about it and not the monitor",
    "NoMajority": "test_stores makes such faults, and looks at what clients get and not at the monitor",
    "SentinelsDisagree": "takes a Sentinel that is cut off for a minute after a failover and is still asked",
    "TwoMasters": "Sentinel makes the old master a replica long before it fires",
    "ReplicaLagging": "takes a replica that runs for a minute without its master",
    "TargetDown": "for what is scraped beside collectd and HAProxy: nothing yet",
}


def test_every_alert_is_made_on_a_machine_or_says_why_not(root: Path) -> None:
    rules = "".join((root / f"salt/{one}/alerts.yaml").read_text() for one in WITH_ALERTS)
    tests = "".join(path.read_text() for path in (root / "tests" / "machine").glob("test_*.py"))
    names = set(re.findall(r"- alert: (\w+)", rules))
    made = {name for name in names if f'"{name}"' in tests}
    assert names - made == set(ONLY_BY_PROMTOOL)


# About no machine in particular.
OF_NO_MACHINE = {
    "AppDown",
    "AppNotReady",
    "CounterDown",
    "CounterNotReady",
    "EdgeSplit",
    "FailoverHappened",
    "FloatingAddressMissing",
    "NoMajority",
    "SentinelsDisagree",
    "TwoMasters",
    "Watchdog",
}


@pytest.mark.parametrize("service", WITH_ALERTS)
def test_the_summary_of_every_alert_names_what_it_is_about(service: str) -> None:
    """Its machine, and whatever two of its name can differ by."""
    folder = ROOT / "salt" / service
    (group,) = yaml.safe_load((folder / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    tests = yaml.safe_load((folder / "alerts.test.yaml").read_text(encoding="utf-8"))["tests"]
    samples = [
        dict(re.findall(r'(\w+)="([^"]*)"', sample.get("labels", "")))
        for test in tests
        for check in test["promql_expr_test"]
        for sample in check["exp_samples"]
    ]
    for rule in group["rules"]:
        name, summary = rule["alert"], rule["annotations"]["summary"]
        assert ("$labels.machine" in summary) != (name in OF_NO_MACHINE), name
        # Those of the rule are the same for all, or made of the others.
        same = {"alertname", "alertstate", "machine", "ping", "job", *rule["labels"]}
        for labels in (one for one in samples if one.get("alertname") == name):
            for label in labels.keys() - same:
                if f'{label}="{labels[label]}"' in rule["expr"]:
                    continue
                assert f"$labels.{label}" in summary, f"{name} does not name its {label}"


needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="no promtool on this computer: `make tests-need`"
)


@needs_promtool
@pytest.mark.parametrize("service", WITH_ALERTS)
def test_every_alert_fires_when_it_should_and_not_when_it_should_not(service: str) -> None:
    done = run("promtool", "test", "rules", str(ROOT / "salt" / service / "alerts.test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cause_of_the_site_s_troubles_outlasts_them() -> None:
    """Redis was back, RedisDown over, and for five seconds nothing held CounterNotReady back: somebody was woken."""
    collectd, prometheus = (
        yaml.safe_load((ROOT / "salt" / name / "defaults.yaml").read_text(encoding="utf-8"))
        for name in ("collectd", "prometheus")
    )
    # A cause may be seen to end at once, and what it causes a reading, a scrape and an evaluation later.
    later = collectd["interval"] + sum(
        int(prometheus[name].removesuffix("s"))
        for name in ("scrape_interval", "evaluation_interval")
    )
    for service in WITH_ALERTS:
        text = (ROOT / "salt" / service / "alerts.yaml").read_text(encoding="utf-8")
        for rule in yaml.safe_load(text)["groups"][0]["rules"]:
            if rule["labels"].get("cause") == "site":
                held = int(rule.get("keep_firing_for", "0s").removesuffix("s"))
                assert held > later, rule["alert"]


@needs_promtool
def test_a_changed_threshold_fails_its_test(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "salt" / "base", tmp_path / "base")
    path = tmp_path / "base" / "alerts.yaml"
    text = path.read_text(encoding="utf-8")
    assert ">= 90" in text
    path.write_text(text.replace(">= 90", ">= 96"), encoding="utf-8")
    assert run("promtool", "test", "rules", str(tmp_path / "base/alerts.test.yaml")).returncode


def stage(rendered: Any, folder: Path) -> None:
    for path in rendered.files:
        if path.startswith(f"{MONITOR}/"):
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(rendered.data(path))


def monitors(all_rendered: dict[Any, Any]) -> list[Any]:
    return [one for one in all_rendered.values() if "monitor" in one.machine["roles"]]


@needs_promtool
def test_prometheus_itself_accepts_what_is_rendered(
    all_rendered: dict[Any, Any], tmp_path: Path, root: Path
) -> None:
    assert monitors(all_rendered)
    for one in monitors(all_rendered):
        folder = tmp_path / one.topology["name"]
        stage(one, folder)
        config = folder / "etc/prometheus/prometheus.yml"
        # The certificates are each machine's own.
        pki = folder / "pki"
        pki.mkdir()
        for name in ("machine-ca.crt", "machine.crt", "machine.key"):
            (pki / name).write_text("", encoding="utf-8")
        text = config.read_text(encoding="utf-8").replace("/etc/stack/pki", str(pki))
        config.write_text(text, encoding="utf-8")
        check = str(root / "salt/prometheus/files/check")
        done = run("sh", check, str(folder))
        assert done.returncode == 0, done.stdout + done.stderr
        done = run("amtool", "check-config", str(folder / "etc/prometheus/alertmanager.yml"))
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "etc/prometheus/rules/redis.yaml").write_text("groups: 1\n", encoding="utf-8")
        assert run("sh", check, str(folder)).returncode != 0


def test_the_monitor_asks_every_machine_of_the_topology(all_rendered: dict[Any, Any]) -> None:
    for one in monitors(all_rendered):
        config = yaml.safe_load(one.text(f"{MONITOR}/prometheus.yml"))
        asked: dict[str, set[str]] = {}
        for job in config["scrape_configs"]:
            for group in job["static_configs"]:
                where = group["labels"]["machine"]
                asked.setdefault(group["labels"].get("job", job["job_name"]), set()).add(where)
                for address in group["targets"]:
                    local = address.startswith("127.0.0.1:")
                    assert local == (where == one.name)
                    # Beyond loopback never without TLS and a certificate.
                    assert local or job["scheme"] == "https"
                    assert local or job["tls_config"]["cert_file"]
        machines = one.topology["machines"]
        assert asked["collectd"] == set(machines)
        assert asked["haproxy"] == {name for name in machines if "edge" in machines[name]["roles"]}


def test_rules_and_pages_of_every_service_of_the_topology_are_on_the_monitor(
    all_rendered: dict[Any, Any],
) -> None:
    for one in monitors(all_rendered):
        for service in WITH_ALERTS:
            assert f"{MONITOR}/rules/{service}.yaml" in one.files, service
            # Those of what is between machines.
            shown = (
                service not in {"keepalived", "sentinel", "stunnel"}
                or len(one.topology["machines"]) > 1
            )
            assert (f"{MONITOR}/consoles/{service}.html" in one.files) == shown, service


@pytest.fixture
def told(root: Path) -> Callable[..., str]:
    """`told(webhook=…)`: Alertmanager's configuration, with these settings over the defaults."""
    text = (root / "salt/prometheus/defaults.yaml").read_text(encoding="utf-8")
    template = (root / "salt/prometheus/files/alertmanager.yml.j2").read_text(encoding="utf-8")

    def render(**alerts: Any) -> str:
        settings = yaml.safe_load(text)
        mail = {**settings["alerts"]["email"], **alerts.pop("email", {})}
        settings["alerts"] |= {**alerts, "email": mail}
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
        environment.filters["json"] = json.dumps
        return environment.from_string(template).render(prometheus=settings, credentials="/run/c")

    return render


def pairs_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    if isinstance(value, dict):
        yield from value.items()
        for inner in value.values():
            yield from pairs_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pairs_of(inner)


MAIL = {"to": "ops@example.com", "from": "counter@example.com", "server": "mail.example.com:587"}


@needs_promtool
@pytest.mark.parametrize(
    ("alerts", "said"),
    [
        ({"email": MAIL}, [("to", "ops@example.com"), ("smtp_from", "counter@example.com")]),
        (
            {"email": {**MAIL, "user": "me", "password": "smtp"}},
            [("smtp_auth_password_file", "/run/c/smtp")],
        ),
        (
            {"watchdog": "https://deadman.example.com/x"},
            [("url", "https://deadman.example.com/x")],
        ),
        (
            {"webhook": "https://chat.example.com/x", "webhook_token": "hook"},
            [("url", "https://chat.example.com/x"), ("credentials_file", "/run/c/hook")],
        ),
        (
            {
                "email": {**MAIL, "to": "o'brien@example.com"},
                "webhook": "https://a.example/o'brien#x",
            },
            [("to", "o'brien@example.com"), ("url", "https://a.example/o'brien#x")],
        ),
    ],
    ids=["mail", "mail with login", "watchdog", "webhook with token", "apostrophes"],
)
def test_alertmanager_accepts_every_way_of_telling(
    told: Callable[..., str], tmp_path: Path, alerts: dict[str, Any], said: list[Any]
) -> None:
    text = told(**alerts)
    pairs = list(pairs_of(yaml.safe_load(text)))
    assert [one for one in said if one not in pairs] == []
    (tmp_path / "alertmanager.yml").write_text(text, encoding="utf-8")
    done = run("amtool", "check-config", str(tmp_path / "alertmanager.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def in_seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def test_a_second_instance_and_the_watchdog_are_told_of_in_time(told: Callable[..., str]) -> None:
    route = yaml.safe_load(told())["route"]
    # Reading, scraping, evaluating and `for` take 43 s of the minute.
    assert in_seconds(route["group_interval"]) <= 15
    (watchdog,) = (one for one in route["routes"] if one["receiver"] == "watchdog")
    assert in_seconds(watchdog["group_interval"]) == 60
    # Told of at the first look after `repeat_interval`: equal ones make it every other look.
    assert in_seconds(watchdog["repeat_interval"]) < 60


def test_a_full_disk_holds_back_nothing_about_another(told: Callable[..., str]) -> None:
    (rule,) = (
        one for one in yaml.safe_load(told())["inhibit_rules"] if "thing" in one.get("equal", [])
    )
    assert {"machine", "thing", "df", "certificate"} <= set(rule["equal"])


@pytest.mark.parametrize(
    ("mail", "right"),
    [
        (MAIL, True),
        ({"to": None}, True),
        ({"tls": False}, True),
        ({key: MAIL[key] for key in ("to", "server")}, False),
        ({key: MAIL[key] for key in ("to", "from")}, False),
        ({**MAIL, "from": None}, False),
        ({**MAIL, "user": "me"}, False),
    ],
)
def test_mail_from_nobody_is_refused(root: Path, mail: dict[str, Any], right: bool) -> None:
    schema = yaml.safe_load((root / "salt/prometheus/schema.yaml").read_text(encoding="utf-8"))
    found = list(jsonschema.Draft202012Validator(schema).iter_errors({"alerts": {"email": mail}}))
    assert (not found) == right, found


# --- pages ----------------------------------------------------------------------------------------


@pytest.fixture
def dashboards(load_source: Callable[..., ModuleType]) -> ModuleType:
    return load_source("salt/_modules/dashboards.py")


def spec(**panel: Any) -> dict[str, Any]:
    return {"title": "Shop", "about": "x", "panels": [{"title": "Orders", **panel}]}


def test_a_page_holds_its_queries_and_nothing_that_ends_it(dashboards: ModuleType) -> None:
    evil = 'sum({__name__=~"</script>{{ template }}"})'
    made = dashboards.complete(spec(queries=[{"expr": evil, "legend": "$machine"}]))
    text = dashboards.page("shop", made, {"shop": "Shop"})
    data = text.split('type="application/json">')[1].split("</script>")[0]
    assert "{{" not in data
    panels = json.loads(data)["panels"]
    assert panels[0]["queries"][0]["expr"].replace("{ {", "{{") == evil
    assert dashboards.grafana("shop", made)["panels"][0]["targets"][0]["expr"] == evil


def test_a_page_loads_nothing_but_files_of_its_own_server(
    dashboards: ModuleType, root: Path
) -> None:
    """Its policy says so; what would need an exception (a script or a style in the page) is not there."""
    text = dashboards.page(
        "shop", dashboards.complete(spec(queries=[{"expr": "up"}])), {"shop": "S"}
    )
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert re.findall(r"<script(?! id=\"page\" type=\"application/json\")(?! src=)", text) == []
    assert not re.search(r"<style|style=|\son\w+=", text)
    loaded = set(re.findall(r'(?:src|href)="\.\./user/([^"]+)"', text))
    assets = root / "salt/prometheus/files/assets"
    here = {path.name for path in assets.rglob("*.*") if path.suffix in (".js", ".css")}
    assert loaded == here
    script = (assets / "stack.js").read_text(encoding="utf-8")
    # An attribute `style` would be refused, and a property of it is not.
    assert not re.search(r"style:|\"style\"|new Function|https?://", script)


def test_the_monitor_serves_what_its_pages_load(all_rendered: dict[Any, Any], root: Path) -> None:
    one = all_rendered["dev", "dev"]
    assets = root / "salt/prometheus/files/assets"
    for path in [*assets.glob("stack.*"), *assets.glob("vendor/uPlot.*")]:
        assert one.data(f"/etc/prometheus/assets/{path.name}") == path.read_bytes()


def test_the_vendored_library_is_what_was_published(root: Path) -> None:
    folder = root / "salt/prometheus/files/assets/vendor"
    said = (folder / "README.md").read_text(encoding="utf-8")
    hashes = dict(re.findall(r"(?m)^([0-9a-f]{64})  (\S+)$", said))
    vendored = {path.name: path for path in folder.iterdir() if path.suffix in (".js", ".css")}
    assert set(hashes.values()) == set(vendored)
    for wanted, name in hashes.items():
        assert hashlib.sha256(vendored[name].read_bytes()).hexdigest() == wanted, name
    version = re.search(r"^# uPlot ([0-9.]+)$", said, re.M)[1]  # type: ignore[index]
    assert f"(v{version})" in (folder / "uPlot.iife.min.js").read_text(encoding="utf-8")[:100]
    assert "MIT License" in (folder / "LICENSE.uPlot").read_text(encoding="utf-8")


def test_page_and_grafana_ask_the_same(dashboards: ModuleType) -> None:
    for path in ROOT.glob("salt/*/dashboard.yaml"):
        name = path.parent.name
        made = dashboards.complete(yaml.safe_load(path.read_text(encoding="utf-8")))
        stored = json.loads((ROOT / "docs/grafana" / f"{name}.json").read_text(encoding="utf-8"))
        asked = [q["expr"] for panel in made["panels"] for q in panel["queries"]]
        told = [target["expr"] for panel in stored["panels"] for target in panel["targets"]]
        assert asked == told
