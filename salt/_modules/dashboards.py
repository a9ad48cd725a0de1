"""
For formula prometheus: pages that show what is measured: each formula's own ``dashboard.yaml`` as a Prometheus
console and as a Grafana dashboard, so that the two can't tell different things. Its format is
salt/_schemas/dashboard.schema.yaml.

Of Salt, only :py:func:`pages` and :py:func:`console` need anything: docs/grafana is made from the
same functions on the controller (tools/grafana_dashboards.py).
"""

import html
import json
import re

__virtualname__ = "dashboards"

FILE = "dashboard.yaml"
OVERVIEW = "overview"
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


# Nothing but files of the page's own server, and none of it written into the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'"
)


def __virtual__():
    return __virtualname__


def complete(spec):
    """``spec`` of a dashboard.yaml, with what its panels leave out."""
    panels = [{"kind": "graph", "unit": "count", "queries": [], **one} for one in spec["panels"]]
    return {"about": "", **spec, "panels": panels}


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
        "about": "The whole stack at a glance; the page of each service has more.",
        "panels": panels,
    }


def page(name, spec, pages):
    """
    HTML of one console. ``pages``: ``{name: title}`` of all, for the way around. What draws it is
    in salt/prometheus/files/assets; Prometheus itself is asked by the reader's browser.
    """
    data = {
        "name": name,
        "title": spec["title"],
        "about": spec["about"],
        "pages": [[one, title] for one, title in pages.items()],
        "panels": spec["panels"],
    }
    # Neither the end of the script nor what Prometheus would take for a template.
    text = json.dumps(data, indent=1, sort_keys=True).replace("<", "\\u003c")
    text = re.sub(r"\{(?=\{)", "{ ", text)
    return (
        f'<!-- Managed by Salt: salt/*/{FILE} -->\n<!doctype html>\n<html lang="en">\n<head>\n'
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(spec['title'])}</title>\n"
        '<link rel="icon" href="data:,">\n<link rel="stylesheet" href="../user/uPlot.min.css">\n'
        '<link rel="stylesheet" href="../user/stack.css">\n</head>\n<body>\n<main id="stack"></main>\n'
        f'<script id="page" type="application/json">\n{text}\n</script>\n'
        '<script src="../user/uPlot.iife.min.js"></script>\n<script src="../user/stack.js"></script>\n'
        "</body>\n</html>\n"
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
        "description": spec["about"],
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
        found = {
            formula: complete(__salt__["tree.said"](formula, FILE))
            for formula in __salt__["metrics.in_topology"](FILE)
        }
        if len(__salt__["topology.machines"]()) == 1:
            found = {name: spec for name, spec in found.items() if not spec.get("multi_machine")}
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
