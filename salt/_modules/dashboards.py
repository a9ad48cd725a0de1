"""
For formula prometheus: pages that show what is measured: each formula's own ``dashboard.yaml`` as a Prometheus
console and as a Grafana dashboard, so that the two can't tell different things. The format is in
salt/prometheus/README.md.

Of Salt, only :py:func:`pages` and :py:func:`console` need anything: docs/grafana is made from the
same functions on the controller (lint/grafana).
"""

import html
import json
import re

import salt.utils.yaml
from salt.exceptions import CommandExecutionError

__virtualname__ = "dashboards"

FILE = "dashboard.yaml"
OVERVIEW = "overview"
KINDS = ("graph", "number", "states", "alerts")
# Unit -> Grafana's name for it.
UNITS = {
    "count": "none",
    "per second": "ops",
    "bytes": "bytes",
    "bytes per second": "Bps",
    "percent": "percent",
    "seconds": "s",
    "days": "d",
    "up": "bool_on_off",
    "time": "dateTimeFromNow",
}
_KEYS = {"title", "kind", "unit", "queries", "about", "overview", "wide", "max", "warn", "bad"}


def __virtual__():
    return __virtualname__


def check(formula, spec):
    """``spec`` with defaults filled in; ValueError, naming formula and panel, if wrong."""
    if not isinstance(spec, dict) or set(spec) - {"title", "about", "several", "panels"}:
        raise ValueError(f"{formula}/{FILE}: needs title, about and panels")
    for panel in spec["panels"]:
        where = f"{formula}/{FILE}: {panel.get('title', 'a panel without title')}"
        unknown = sorted(set(panel) - _KEYS)
        if unknown:
            raise ValueError(
                f"{where}: unknown key {unknown[0]}; known: {', '.join(sorted(_KEYS))}"
            )
        panel.setdefault("kind", "graph")
        panel.setdefault("unit", "count")
        panel.setdefault("queries", [])
        if panel["kind"] not in KINDS:
            raise ValueError(f"{where}: kind {panel['kind']}: known: {', '.join(KINDS)}")
        if panel["unit"] not in UNITS:
            raise ValueError(f"{where}: unit {panel['unit']}: known: {', '.join(UNITS)}")
        if panel["kind"] != "alerts" and not panel["queries"]:
            raise ValueError(f"{where}: no queries")
        for query in panel["queries"]:
            if set(query) - {"expr", "legend"} or "expr" not in query:
                raise ValueError(f"{where}: a query has expr and legend")
    return spec


def overview(specs):
    """The page of all services: the panels that say ``overview: N``, in that order."""
    panels = [
        {**panel, "from": formula}
        for formula, spec in specs.items()
        for panel in spec["panels"]
        if "overview" in panel
    ]
    panels.sort(key=lambda panel: panel["overview"])
    return {
        "title": "Overview",
        "about": "Is it well? Everything at a glance; the service's own page tells more.",
        "panels": panels,
    }


def page(name, spec, pages):
    """
    HTML of one console. ``pages``: ``{name: title}`` of all, for the way around. What draws it is
    in salt/prometheus/files/stack.lib; Prometheus itself is asked by the reader's browser.
    """
    data = {
        "name": name,
        "title": spec["title"],
        "about": spec.get("about", ""),
        "pages": [[one, title] for one, title in pages.items()],
        "panels": spec["panels"],
    }
    # Neither the end of the script nor what Prometheus would take for a template.
    text = json.dumps(data, indent=1, sort_keys=True).replace("<", "\\u003c")
    text = re.sub(r"\{(?=\{)", "{ ", text)
    return (
        f'<!-- Managed by Salt: salt/*/{FILE} -->\n<!doctype html>\n<html lang="en">\n<head>\n'
        f"<title>{html.escape(spec['title'])}</title>\n"
        '{{ template "stack_style" . }}\n</head>\n<body>\n<main id="stack"></main>\n'
        f'<script id="page" type="application/json">\n{text}\n</script>\n'
        '{{ template "stack_script" . }}\n</body>\n</html>\n'
    )


def _legend(text):
    """`$machine` in a legend is that label: Grafana writes {{machine}}."""
    return re.sub(r"\$(\w+)", r"{{\1}}", text or "")


def grafana(name, spec):
    """One dashboard as Grafana imports it (schema 36, Grafana 9 and later)."""
    panels = []
    column = row = 0
    for number, panel in enumerate(spec["panels"], 1):
        wide = 24 if panel.get("wide") else 6 if panel["kind"] == "number" else 12
        height = 4 if panel["kind"] == "number" else 8
        if column + wide > 24:
            column, row = 0, row + 8
        kind = {
            "graph": "timeseries",
            "number": "stat",
            "states": "state-timeline",
            "alerts": "alertlist",
        }[panel["kind"]]
        steps = [{"color": "green", "value": None}]
        for key, colour in (("warn", "orange"), ("bad", "red")):
            if key in panel:
                steps.append({"color": colour, "value": panel[key]})
        panels.append(
            {
                "id": number,
                "type": kind,
                "title": panel["title"],
                "description": panel.get("about", ""),
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "gridPos": {"x": column, "y": row, "w": wide, "h": height},
                "fieldConfig": {
                    "defaults": {
                        "unit": UNITS[panel["unit"]],
                        "min": 0,
                        "thresholds": {"mode": "absolute", "steps": steps},
                    },
                    "overrides": [],
                },
                "targets": [
                    {
                        "refId": chr(ord("A") + index),
                        "expr": query["expr"],
                        "legendFormat": _legend(query.get("legend")) or "__auto",
                    }
                    for index, query in enumerate(panel["queries"])
                ],
            }
        )
        column += wide
    return {
        "uid": f"stack-{name}",
        "title": f"{spec['title']} (counter stack)",
        "description": spec.get("about", ""),
        "tags": ["counter-stack"],
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "type": "datasource",
                    "query": "prometheus",
                    "label": "Source",
                }
            ]
        },
        "panels": panels,
    }


def _specs():
    if "dashboards.specs" not in __context__:
        found = {}
        for formula, source in __salt__["metrics.in_topology"](FILE).items():
            with open(__salt__["formula.file"](source), encoding="utf-8") as file:
                try:
                    found[formula] = check(formula, salt.utils.yaml.safe_load(file))
                except ValueError as error:
                    raise CommandExecutionError(str(error)) from error
        if len(__salt__["topology.machines"]()) == 1:
            found = {name: spec for name, spec in found.items() if not spec.get("several")}
        __context__["dashboards.specs"] = {OVERVIEW: overview(found), **found}
    return __context__["dashboards.specs"]


def pages():
    """Names of the consoles of this topology: the overview, then a page a formula.

    CLI Example:

    .. code-block:: bash

        salt-call dashboards.pages
    """
    return list(_specs())


def console(name):
    """HTML of console ``name``.

    CLI Example:

    .. code-block:: bash

        salt-call dashboards.console overview
    """
    specs = _specs()
    return page(name, specs[name], {one: spec["title"] for one, spec in specs.items()})
