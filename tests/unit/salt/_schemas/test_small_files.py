"""What formulas hand to each other is checked before any change: by file, by path, with what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from salt.exceptions import CommandExecutionError

TREE = Path(__file__).resolve().parents[4] / "salt"
SCHEMAS = sorted((TREE / "_schemas").glob("*.schema.yaml"))
JAIL = {"journal": ["_SYSTEMD_UNIT=a.service"], "maxretry": 5, "findtime": "1m", "bantime": "1h"}
WEB = {"port": 443, "protocol": "tcp", "from": "any"}
TUNNEL = {"accept": 8443, "connect": "127.0.0.1:8001", "from": {"role": "edge"}}
PANEL = {"title": "Orders", "queries": [{"expr": "up"}]}
SCRAPE = {"job": "shop", "port": 1, "remote_port": 2}
LINE = {"log": "shop", "metric": "shop_ms", "number": "([0-9]+)", "percentiles": [50]}


def metrics(**more: Any) -> dict[str, Any]:
    return {"required_series": ["up"], **more}


def jail(**change: Any) -> dict[str, Any]:
    return {"login": {**JAIL, **change}}


def tunnel(**change: Any) -> dict[str, Any]:
    return {"web": {**TUNNEL, **change}}


def page(**panel: Any) -> dict[str, Any]:
    return {"title": "Shop", "panels": [{**PANEL, **panel}]}


@pytest.fixture(scope="module")
def formula(formula_on: Callable[..., ModuleType]) -> ModuleType:
    return formula_on(TREE)


# (file, what it says, what the one line says after the file's name)
WRONG = [
    (
        "firewall.yaml.j2",
        [{"protocol": "vrrp", "from": "any"}],
        "[0]:from: 'any' does not look right",
    ),
    (
        "firewall.yaml.j2",
        [{"protocol": "vrrp", "port": 1, "from": {"role": "edge"}}],
        "[0]: {'protocol': 'vrrp', 'port': 1, 'from': {'role': 'edge'}} does not look right; allowed: vrrp from",
    ),
    (
        "firewall.yaml.j2",
        [{"protocol": "tcp", "from": "any"}],
        "[0]: needs port (port of this machine)",
    ),
    (
        "floating.yaml.j2",
        {"shop": {"unit": "shop.service"}},
        "shop: needs ports, port, answers, serves, drain",
    ),
    ("metrics.yaml.j2", metrics(plugin={}), "plugin: unknown key; did you mean 'plugins'? known: "),
    ("metrics.yaml.j2", {"plugins": {}}, "needs required_series (series whose presence proves"),
    ("metrics.yaml.j2", metrics(required_series=[]), "required_series: [] does not look right"),
    (
        "metrics.yaml.j2",
        metrics(readers={"x": {"metrics": {"up": "gague"}}}),
        "readers:x:metrics:up: 'gague' is not one of gauge, counter; did you mean 'gauge'?",
    ),
    ("metrics.yaml.j2", metrics(readers={"x": {}}), "readers:x: needs metrics (names with `gauge`"),
    ("metrics.yaml.j2", metrics(readers={"X": {"metrics": {}}}), "readers:X: 'X' does not look"),
    ("metrics.yaml.j2", metrics(scrape=[{"job": "x", "port": 1}]), "scrape[0]: needs remote_port"),
    ("metrics.yaml.j2", metrics(scrape=[{**SCRAPE, "port": True}]), "scrape[0]:port: True is not of"),
    ("metrics.yaml.j2", metrics(scrape=[{**SCRAPE, "pat": "/x"}]), "scrape[0]:pat: unknown key; did"),
    ("metrics.yaml.j2", metrics(units="redis"), "units: 'redis' is not of type array"),
    ("metrics.yaml.j2", metrics(units=[""]), "units[0]: '' does not look right"),
    ("metrics.yaml.j2", metrics(certificates={"x": 5}), "certificates:x: 5 is not of type string"),
    ("metrics.yaml.j2", metrics(plugins={"x": 1}), "plugins:x: 1 is not of type string or null"),
    ("metrics.yaml.j2", metrics(log_metrics=[{**LINE, "number": "a\nb"}]), "log_metrics[0]:number: "),
    ("metrics.yaml.j2", metrics(log_metrics=[{**LINE, "percentiles": [100]}]), "log_metrics[0]:perc"),
    ("logs.yaml.j2", {"../x": {"units": ["x.service"]}}, "../x: '../x' does not look right; allowed"),
    ("logs.yaml.j2", {"system": {"units": ["x.service"]}}, "system: 'system' does not look right; all"),
    ("logs.yaml.j2", {"x": {"unit": ["x.service"]}}, "x:unit: unknown key; did you mean 'units'?"),
    ("logs.yaml.j2", {"x": {}}, "x: {} does not look right; allowed: units, identifiers or transpor"),
    ("logs.yaml.j2", {"x": {"units": ["x"]}}, "x:units[0]: 'x' does not look right; allowed: a unit"),
    ("logs.yaml.j2", {"x": {"units": "x.service"}}, "x:units: 'x.service' is not of type array"),
    ("logs.yaml.j2", {"x": {"transports": ["kernle"]}}, "x:transports[0]: 'kernle' is not one of"),
    ("logs.yaml.j2", {"x": {"units": ["x.service"], "ecs": {"a b": "c"}}}, "x:ecs:a b: 'a b' does"),
    (
        "logs.yaml.j2",
        {"x": {"units": ["x.service"], "ecs": {"a": {"to": "b", "scael": 2}}}},
        "x:ecs:a:scael: unknown key; did you mean 'scale'?",
    ),
    ("jail.yaml.j2", jail(maxretry="banana"), "login:maxretry: 'banana' is not of type integer"),
    ("jail.yaml.j2", jail(maxretry=True), "login:maxretry: True is not of type integer"),
    ("jail.yaml.j2", jail(maxretry=0), "login:maxretry: 0 is out of range"),
    ("jail.yaml.j2", jail(findtime="1 minute"), "login:findtime: '1 minute' does not look right"),
    ("jail.yaml.j2", jail(bantime=None), "login:bantime: None is not of type string"),
    ("jail.yaml.j2", jail(journal=[]), "login:journal: [] does not look right"),
    ("jail.yaml.j2", jail(journal=["x=1\nbantime=1"]), "login:journal[0]: 'x=1\\nbantime=1' "),
    ("jail.yaml.j2", jail(filter="../x"), "login:filter: '../x' does not look right"),
    ("jail.yaml.j2", jail(closes=[22]), "login:closes: unknown key; "),
    ("jail.yaml.j2", jail(ports=[]), "login:ports: [] does not look right"),
    ("jail.yaml.j2", jail(ports=["22"]), "login:ports[0]: '22' is not of type integer"),
    ("jail.yaml.j2", jail(ports=[70000]), "login:ports[0]: 70000 is out of range; allowed: 1..65535"),
    ("jail.yaml.j2", {"a" * 21: JAIL}, f"{'a' * 21}: '{'a' * 21}' does not look right; allowed: a-z"),
    ("jail.yaml.j2", {"x": {"journal": ["A=b"]}}, "x: needs maxretry, findtime, bantime"),
    ("tunnels.yaml.j2", tunnel(acc=1), "web:acc: unknown key; did you mean 'accept'?"),
    ("tunnels.yaml.j2", tunnel(accept=80), "web:accept: 80 is out of range; allowed: 1024..65535"),
    ("tunnels.yaml.j2", tunnel(connect="10.0.0.1:1"), "web:connect: '10.0.0.1:1' does not look right"),
    (
        "tunnels.yaml.j2",
        tunnel(**{"from": {"role": "edg"}}),
        "web:from:role: 'edg': unknown role; did you mean 'edge'? known: edge, app, store, monitor",
    ),
    ("tunnels.yaml.j2", {"web": {"accept": 8443}}, "web: needs connect, from"),
    (
        "firewall.yaml.j2",
        [{**WEB, "from": {"role": "edg"}}],
        "[0]:from:role: 'edg': unknown role; did you mean 'edge'? known: edge, app, store, monitor",
    ),
    ("firewall.yaml.j2", [{**WEB, "port": 70000}], "[0]:port: 70000 is out of range; allowed: 1..6"),
    ("firewall.yaml.j2", [{**WEB, "port": "443"}], "[0]:port: '443' is not of type integer"),
    ("firewall.yaml.j2", [{**WEB, "port": True}], "[0]:port: True is not of type integer"),
    ("firewall.yaml.j2", [{**WEB, "protocol": "sctp"}], "[0]:protocol: 'sctp' is not one of tcp, udp"),
    ("firewall.yaml.j2", [{**WEB, "form": "any"}], "[0]:form: unknown key; did you mean 'from'?"),
    ("firewall.yaml.j2", [{"port": 443, "protocol": "tcp"}], "[0]: needs from (any (everybody), "),
    ("firewall.yaml.j2", [{**WEB, "from": "all"}], "[0]:from: 'all' does not look right; allowed: any"),
    (
        "firewall.yaml.j2",
        [{**WEB, "from": {"network": "10.0.0.1/8"}}],
        "[0]:from:network: 10.0.0.1/8 has host bits set",
    ),
    (
        "firewall.yaml.j2",
        [{**WEB, "from": {"network": "0.0.0.0/0"}}],
        "[0]:from:network: 0.0.0.0/0 is everybody",
    ),
    ("firewall.yaml.j2", ["443"], "[0]: '443' is not of type object"),
    ("firewall.yaml.j2", {"port": 443}, "{'port': 443} is not of type array"),
    ("loopback.yaml.j2", [{"port": 9093}], "[0]: needs accounts (accounts that may connect, and"),
    ("loopback.yaml.j2", [{"port": 9093, "accounts": [], "from": "x"}], "[0]:from: unknown key; known"),
    ("loopback.yaml.j2", [{"port": "9093", "accounts": []}], "[0]:port: '9093' is not of type integ"),
    ("status.yaml.j2", {"shop": {"helth": "true"}}, "shop:helth: unknown key; did you mean 'health'?"),
    ("status.yaml.j2", {12: {}}, "12: key 12 is not text; quote it"),
    ("secrets.yaml", {"shop": {"kind": "gievn"}}, "shop:kind: 'gievn' is not one of random, age, given;"),
    ("secrets.yaml", {"shop": {"roles": ["stor"]}}, "shop:roles[0]: 'stor': unknown role; did you mean"),
    ("rules.yaml", [{"setting": "shop:port", "holds": "true"}], "[0]: needs says (the rest of the refus"),
    (
        "dashboard.yaml",
        page(knid="graph"),
        "panels[Orders]:knid: unknown key; did you mean 'kind'? known: ",
    ),
    ("dashboard.yaml", page(unit="furlongs"), "panels[Orders]:unit: 'furlongs' is not one of count, "),
    ("dashboard.yaml", page(kind="pie"), "panels[Orders]:kind: 'pie' is not one of graph, "),
    ("dashboard.yaml", page(queries=[]), "panels[Orders]:queries: [] does not look right"),
    ("dashboard.yaml", page(queries=[{"query": "up"}]), "panels[Orders]:queries[0]: needs expr"),
    (
        "dashboard.yaml",
        {"title": "Shop", "panels": [{"title": "Orders"}]},
        "panels[Orders]: needs queries (what Prometheus is asked)",
    ),
    ("alerts.yaml", {"groups": [{"name": "x", "rules": [{}]}]}, "groups[0]:rules[0]: needs alert, expr"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "data", "line"), WRONG, ids=[f"{file}-{line[:30]}" for file, _, line in WRONG]
)
def test_what_is_wrong_is_refused_by_file_and_path(
    formula: ModuleType, file: str, data: Any, line: str
) -> None:
    lines = formula.__salt__["tree.problems"](f"shop/{file}", data)
    assert any(one.startswith(f"shop/{file}: {line}") for one in lines), lines
    assert not any("\n" in one for one in lines)


def test_a_wrong_small_file_stops_the_run_before_any_change(
    formula_on: Callable[..., ModuleType], tmp_path: Path
) -> None:
    formula = formula_on(tmp_path)
    (tmp_path / "_schemas").symlink_to(TREE / "_schemas")
    files = ["_schemas/secrets.schema.yaml", "shop/secrets.yaml"]
    formula.__salt__["cp.list_master"] = lambda: files
    (tmp_path / "shop").mkdir()
    secrets = tmp_path / "shop" / "secrets.yaml"
    secrets.write_text("shop-key: {kind: given}\nother:\n")
    with pytest.raises(
        CommandExecutionError,
        match=r"^refused: shop/secrets.yaml: other: None is not of type object; nothing was changed$",
    ):
        formula.__salt__["tree.said"]("shop", "secrets.yaml")
    secrets.write_text("shop-key: {kind: given}\n")
    # Another run.
    formula.__context__.clear()
    assert formula.__salt__["tree.said"]("shop", "secrets.yaml") == {"shop-key": {"kind": "given"}}
    # A formula that was lifted out without the schemas.
    files.remove("_schemas/secrets.schema.yaml")
    secrets.write_text("shop-key: {kind: gievn}\n")
    formula.__context__.clear()
    assert formula.__salt__["tree.said"]("shop", "secrets.yaml") == {"shop-key": {"kind": "gievn"}}


@pytest.mark.parametrize("data", [None, {}, []])
def test_a_file_that_says_nothing_is_right(formula: ModuleType, data: Any) -> None:
    for path in SCHEMAS:
        name = yaml.safe_load(path.read_text(encoding="utf-8"))["title"]
        assert formula.__salt__["tree.problems"](f"shop/{name}", data) == []


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_every_small_file_has_a_schema_that_describes_each_key(path: Path) -> None:
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"].split(".")[0] == path.name.split(".")[0]
    assert list(TREE.glob(f"*/{schema['title']}")), "no formula has such a file"

    def walk(part: Any, where: str) -> None:
        if isinstance(part, list):
            for item in part:
                walk(item, where)
        if not isinstance(part, dict):
            return
        if part.get("type") == "object":
            assert "additionalProperties" in part, f"{where}: lets any key pass"
            for name, inner in part.get("properties", {}).items():
                assert inner.get("description"), f"{where}:{name}: no description"
        for key, inner in part.items():
            # A comma without quotes.
            assert inner is not None, f"{where}:{key}: cut off"
            walk(inner, f"{where}:{key}")

    assert schema["description"]
    walk(schema, path.name)


def test_every_file_that_is_collected_has_a_schema() -> None:
    """What one formula reads of another's, whichever it is."""
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for pattern in ("_modules/*.py", "*/*.sls", "*/*.j2", "*/map.jinja")
        for path in TREE.glob(pattern)
    )
    read = set(re.findall(r"(?<![\w-])([a-z-]+)\.yaml\.j2\b", text)) | {
        "alerts",
        "dashboard",
        "secrets",
        "rules",
    }
    assert read == {path.name.split(".")[0] for path in SCHEMAS}


@pytest.mark.parametrize(
    ("readme", "file"),
    [
        ("collectd", "metrics.yaml.j2"),
        ("shipper", "logs.yaml.j2"),
        ("fail2ban", "jail.yaml.j2"),
        ("stunnel", "tunnels.yaml.j2"),
        ("firewalld", "firewall.yaml.j2"),
        ("firewalld", "loopback.yaml.j2"),
        ("prometheus", "dashboard.yaml"),
    ],
)
def test_the_readme_of_who_collects_shows_one_that_is_right(
    formula: ModuleType, readme: str, file: str
) -> None:
    text = (TREE / readme / "README.md").read_text(encoding="utf-8")
    after = text[text.index(f"salt/SERVICE/{file}") :]
    (block, *_) = re.findall(r"(?ms)^```\n(.*?)^```", after)
    data = yaml.safe_load(block)
    assert data and formula.__salt__["tree.problems"](f"shop/{file}", data) == []
