"""The reference pages: settings, commands, ports, alerts, logs, decisions. Each gives Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import yaml

from control.by_path import load_yaml

from . import diagrams, facts

MADE = "<!-- Made by `make docs` from the code; do not edit. -->\n\n"


# --- settings -------------------------------------------------------------------------------------


def _comment_above(lines: list[str], number: int) -> str:
    """The comment that ends on the line above line ``number`` (from 0)."""
    found: list[str] = []
    while number > 0 and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        found.insert(0, lines[number].lstrip().removeprefix("#").strip())
    return "\n".join(found)


def _comment_beside(line: str) -> str:
    """What follows ` #` on a line whose value holds no quoted `#`."""
    found = re.search(r"\s#\s+(.*)$", re.sub(r"'[^']*'|\"[^\"]*\"", "", line))
    return found.group(1).strip() if found else ""


def _walk(
    node: yaml.MappingNode, schema: dict[str, Any], lines: list[str], path: str
) -> Iterator[dict[str, Any]]:
    """Every setting below ``node``: `{path, comment, source, schema, group}`."""
    for key, value in node.value:
        where = f"{path}:{key.value}"
        line = key.start_mark.line
        above = _comment_above(lines, line)
        inner = schema.get("properties", {}).get(key.value, {})
        if "properties" in inner and isinstance(value, yaml.MappingNode) and value.value:
            yield {"path": where, "comment": above, "schema": inner, "group": True}
            yield from _walk(value, inner, lines, where)
            continue
        last = value.end_mark.line if value.end_mark.column == 0 else value.end_mark.line + 1
        source = lines[line : max(last, line + 1)]
        while source and (not source[-1].strip() or source[-1].lstrip().startswith("#")):
            source.pop()
        beside = _comment_beside(source[0]) if len(source) == 1 else ""
        comment = "\n".join(filter(None, [above, beside]))
        yield {"path": where, "comment": comment, "source": source, "schema": inner, "group": False}


# What a schema's `format` stands for (salt/_modules/schemas.py).
FORMATS = {
    "secret": "the name of a secret, to be given",
    "secret key": "the name of a secret, a private key in PEM, to be given",
    "certificates": "certificates in PEM, without any key",
    "script": "lines of a shell",
    "lines": "of several lines",
    "role": "a role",
    "made secret": "the name of a secret, made where nobody gives it",
    "network": "an address or a network",
    "key of jail.yaml.j2": "the name of a jail",
}


def described(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """What a schema allows, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return described({**root.get("$defs", {}).get(name, {}), "description": ""}, root) or name
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    words = ["nothing" if kind == "null" else str(kind) for kind in kinds]
    text = " or ".join(words) or "any"
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        text += f", {low} to {high}"
    elif low is not None:
        text += f", at least {low}"
    elif high is not None:
        text += f", at most {high}"
    if "pattern" in schema:
        text += f" matching `{schema['pattern']}`"
    if "format" in schema:
        text += f", {FORMATS[schema['format']]}"
    if isinstance(schema.get("items"), dict):
        text += f" of {described(schema['items'], root)}"
    if isinstance(schema.get("additionalProperties"), dict):
        text += f", each {described(schema['additionalProperties'], root)}"
    return text


def settings_of(folder: Path) -> list[dict[str, Any]]:
    """Every setting of a formula, in the order of its defaults.yaml, groups among them."""
    text = (folder / "defaults.yaml").read_text(encoding="utf-8")
    schema = load_yaml(folder / "schema.yaml")
    node = yaml.compose(text)
    if not isinstance(node, yaml.MappingNode):
        return []
    found = list(_walk(node, schema, text.splitlines(), folder.name))
    for one in found:
        one["allowed"] = described(one["schema"], schema)
        one["about"] = one["schema"].get("description", "")
    return found


def _dedented(source: list[str]) -> list[str]:
    margin = min((len(line) - len(line.lstrip()) for line in source if line.strip()), default=0)
    return [line[margin:] for line in source]


def prose(text: str) -> str:
    """A comment as Markdown: what looks like markup is shown as it stands."""
    parts = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"([*_<>{}\[\]$|])", r"\\\1", parts[index])
    return "".join(parts)


def settings_page(folder: Path) -> str:
    """The reference of one formula's pillar."""
    schema = load_yaml(folder / "schema.yaml")
    lines = [f"# Settings of {folder.name}", ""]
    about = str(schema.get("description", "")).strip()
    if about:
        lines += [about[:1].upper() + about[1:].rstrip(".") + ".", ""]
    lines += [
        f"Overlay any of these in the pillar, under the key `{folder.name}`, for example in"
        " `pillar/settings.sls`. A key that is not here, or a value that is not allowed, stops the"
        " run before anything changes.",
        "",
    ]
    for one in settings_of(folder):
        level = "##" if one["path"].count(":") == 1 else "###"
        lines += [f"{level} `{one['path']}`", ""]
        if one["comment"]:
            lines += [prose(one["comment"]), ""]
        elif one["about"]:
            lines += [prose(one["about"][:1].upper() + one["about"][1:].rstrip(".") + "."), ""]
        if one["group"]:
            continue
        lines += [f"Allowed: {one['allowed']}.", ""]
        source = _dedented(one["source"])
        if len(source) == 1:
            value = re.sub(r"\s+#\s.*$", "", source[0].split(":", 1)[1]).strip()
            lines += [f"Default: `{value}`", ""] if value else []
        else:
            lines += ["Default:", "", "```yaml", *source, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def settings_index() -> str:
    """All formulas, with how many settings each has."""
    lines = [
        "# Settings",
        "",
        "Made from each formula's `defaults.yaml` (the comments) and `schema.yaml` (what is"
        " allowed). Settings that stay go into `pillar/settings.sls`, those of one topology into"
        " `pillar/settings/TOPOLOGY.sls`; for one run alone there is `make apply PILLAR='{…}'`.",
        "",
        "| formula | what it is | settings |",
        "| --- | --- | --- |",
    ]
    for folder in facts.formulas():
        schema = load_yaml(folder / "schema.yaml")
        count = sum(not one["group"] for one in settings_of(folder))
        about = str(schema.get("description", "")).strip().rstrip(".")
        lines.append(f"| [{folder.name}]({folder.name}.md) | {about} | {count} |")
    lines += ["", "```{toctree}", ":hidden:", ""]
    lines += [folder.name for folder in facts.formulas()]
    return "\n".join([*lines, "```", ""])


# --- diagrams ---------------------------------------------------------------------------------------


def diagrams_page(pictures: dict[str, str]) -> str:
    """Every picture, by its file's name, with what it says in words."""
    lines = [
        "# Diagrams",
        "",
        "All of them, each with what it shows in words. They are made from the code; one that is stale fails `make test-unit`, and"
        " `make docs` mends it. For paper: each is an SVG of its own in `docs/diagrams`.",
        "",
    ]
    for name, svg in pictures.items():
        title, words = (
            unescape(re.findall(rf"(?s)<{tag} id=.*?>(.*?)</{tag}>", svg)[0])
            for tag in ("title", "desc")
        )
        lines += [f"## {title}", "", f"![{title}](../diagrams/{name}.svg)", ""]
        lines += [f"- {prose(line)}" for line in words.split("\n")] + [""]
    return "\n".join(lines)


# --- commands -------------------------------------------------------------------------------------


def commands_page() -> str:
    """`make help` as a table, and what is still to come."""
    lines = [
        "# Commands",
        "",
        "What `make help` says. Commands that mean machines take `TOPOLOGY=` (default `dev`).",
        "",
        "| command | does | settings |",
        "| --- | --- | --- |",
    ]
    for name, text in facts.commands():
        settings = re.findall(r"\[([A-Z_]+=[^\]]*)\]", text)
        does = re.sub(r"\s*\[[A-Z_]+=[^\]]*\]", "", text)
        cells = [does, " ".join(f"`{one}`" for one in settings)]
        shown = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| `make {name}` | {shown} |")
    coming = facts.to_come()
    if coming:
        named = ", ".join(f"`make {name}`" for name in coming)
        lines += ["", f"Named, but still to come; each says so and exits 2: {named}."]
    return "\n".join([*lines, ""])


# --- ports ----------------------------------------------------------------------------------------


def ports_page(topologies: list[facts.Topology]) -> str:
    """Who may connect to whom, for each topology."""
    lines = [
        "# Ports",
        "",
        "Made from each formula's `firewall.yaml.j2`, rendered by Salt for every machine of the"
        " topology. Whatever is not here is refused, from everybody; loopback is never closed.",
        "",
    ]
    for topology in topologies:
        lines += [
            f"## Topology {topology.name}",
            "",
            "| from | to | port | formula |",
            "| --- | --- | --- | --- |",
        ]
        alone = topology.machines[0].name if len(topology.machines) == 1 else ""
        for one in diagrams.connections(topology):
            to = alone or one.target
            lines.append(f"| {one.source} | {to} | {one.label} | {one.formula} |")
        lines.append("")
        if len(topology.machines) > 1:
            lines += [
                f"![Port matrix of topology {topology.name}: one row a port, one column a source](../diagrams/ports.svg)",
                "",
            ]
    return "\n".join(lines)


# --- alerts, logs ---------------------------------------------------------------------------------


def _first_line(text: Any) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|")


def alerts_page() -> str:
    """Every alert: when, how bad, what to do."""
    lines = ["# Alerts", ""]
    found = facts.alerts()
    if not found:
        return "\n".join([*lines, "No formula has an `alerts.yaml` yet.", ""])
    lines += [
        "Made from each formula's `alerts.yaml`. Each name leads to its runbook.",
        "",
        "| alert | severity | after | says |",
        "| --- | --- | --- | --- |",
    ]
    for one in found:
        name = one["alert"]
        runbook = facts.DOCS / "runbooks" / f"{name}.md"
        shown = f"[{name}](../runbooks/{name}.md)" if runbook.exists() else f"`{name}`"
        summary = _first_line(one.get("annotations", {}).get("summary"))
        summary = re.sub(r"\{\{.*?\}\}", "…", summary)
        severity = one.get("labels", {}).get("severity", "")
        lines.append(f"| {shown} | {severity} | {one.get('for', 'at once')} | {summary} |")
    lines += ["", "## Expressions", ""]
    for one in found:
        expression = str(one["expr"]).strip()
        lines += [f"**{one['alert']}** ({one['formula']})", "", "```", expression, "```", ""]
    return "\n".join(lines)


def _section(text: str, title: str) -> str:
    """The body of `## title` in Markdown, or nothing."""
    found = re.search(rf"(?ms)^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text)
    return found.group(1).strip() if found else ""


def _own_words(folder: Path, *titles: str) -> list[str]:
    """What the README of ``folder`` says under each of ``titles``, with its links mended."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = []
    for title in titles:
        body = _section(text, title)
        if body:
            body = re.sub(r"(?m)^#{3,} ", "#### ", body)
            found += [relinked(body, folder), ""]
    return found


def reader_metrics(said: dict[str, Any]) -> list[str]:
    """Names under which Prometheus knows what the readers of a metrics.yaml.j2 tell."""
    return [
        f"collectd_{reader}_{metric}" + ("_total" if kind == "counter" else "")
        for reader, given in (said.get("readers") or {}).items()
        for metric, kind in given["metrics"].items()
    ]


def measured_by(formula: str, topologies: list[facts.Topology]) -> dict[str, Any]:
    """What the metrics.yaml.j2 of ``formula`` says on the first machine where it says anything."""
    machines = [machine for topology in topologies for machine in topology.machines]
    return next((found for one in machines if (found := one.metrics.get(formula))), {})


def metrics_page(topologies: list[facts.Topology]) -> str:
    """What every formula measures: its metrics.yaml.j2 as the first machine that measures something renders it."""
    names = ", else of ".join(one.name for one in topologies)
    lines = [
        "# Metrics",
        "",
        "Made from each formula's `metrics.yaml.j2`, as a machine of topology"
        f" {names} renders it, and from its README. Metrics that begin with `collectd_` are"
        " read on every machine that has the service, each with the label `machine`; what stands in"
        " a second label (an instance, a jail, a unit) is named as the reader is.",
        "",
    ]
    for folder in facts.formulas():
        if not (folder / "metrics.yaml.j2").exists():
            continue
        said = measured_by(folder.name, topologies)
        lines += [f"## {folder.name}", ""]
        if said.get("units"):
            lines += ["Units: " + ", ".join(f"`{one}`" for one in said["units"]) + ".", ""]
        if said.get("certificates"):
            listed = ", ".join(f"`{one}`" for one in said["certificates"])
            lines += [f"Certificates: {listed}.", ""]
        for one in said.get("scrape") or []:
            lines += [
                f"Scraped as job `{one['job']}` from port {one['port']} of the machine itself; from"
                f" another machine by TLS at {one['remote_port']}.",
                "",
            ]
        lines += _own_words(folder, "Metrics")
    return "\n".join(lines)


def logs_page(topology: facts.Topology) -> str:
    """Whose lines of the journal are kept under which name, and what their fields mean."""
    entry = facts.ROOT / "salt" / "shipper"
    lines = [
        "# Log fields",
        "",
        "Made from each formula's `logs.yaml.j2` and README. Everything is in the journal of its"
        " machine, and on the monitor: `make logs SERVICE=name`. A line that belongs to no service is kept as"
        " `system`.",
        "",
        "## An entry on the monitor",
        "",
        *_own_words(entry, "What an entry looks like there"),
    ]
    for folder in facts.formulas():
        if not (folder / "logs.yaml.j2").exists():
            continue
        said = topology.machines[0].logs.get(folder.name) or {}
        lines += [f"## {folder.name}", "", "| name | lines of |", "| --- | --- |"]
        for name, given in said.items():
            kinds = {"units": "units", "identifiers": "programs", "transports": "the journal's"}
            whose = [
                f"{word} " + ", ".join(f"`{one}`" for one in given[key])
                for key, word in kinds.items()
                if given.get(key)
            ]
            lines.append(f"| `{name}` | {'; '.join(whose)} |")
        lines.append("")
        lines += _own_words(folder, "Log")
        if folder.name == "counter":
            lines += _own_words(facts.ROOT / "webapp", "Log lines")
        for name, given in said.items():
            if given.get("ecs"):
                lines += [
                    f"For Filebeat, in the Elastic Common Schema; any other field is `{name}.FIELD`:",
                    "",
                    "| field | ECS |",
                    "| --- | --- |",
                ]
                for field, target in given["ecs"].items():
                    shown = f"`{target}`" if isinstance(target, str) else f"`{target['to']}`"
                    if isinstance(target, dict) and "scale" in target:
                        shown += f", times {target['scale']}"
                    if isinstance(target, dict) and "strip" in target:
                        shown += f", without `{target['strip']}`"
                    lines.append(f"| `{field}` | {shown} |")
                lines.append("")
    return "\n".join(lines)


def relinked(text: str, folder: Path) -> str:
    """Markdown of ``folder`` with its relative links as seen from docs/reference/."""

    def moved(found: re.Match[str]) -> str:
        label, target = found.group(1), found.group(2)
        if re.match(r"[a-z]+:|#", target):
            return found.group(0)
        path = (folder / target.split("#")[0]).resolve()
        try:
            shown = path.relative_to(facts.ROOT)
        except ValueError:
            return found.group(0)
        anchor = target.partition("#")[2]
        return f"[{label}](../../{shown}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", moved, text)


# --- indexes --------------------------------------------------------------------------------------


def decisions_page() -> str:
    """The list of decisions."""
    lines = [
        "# Decisions",
        "",
        "One page each: what was weighed, what was chosen, what follows. A decision that is replaced"
        " stays, with a link to what replaced it.",
        "",
    ]
    lines += ["| | decision | since | revisit when |", "| --- | --- | --- | --- |"]
    for path, title in facts.decisions():
        status, _, when = facts.decision_status(path).partition(" Revisit when ")
        lines.append(
            f"| {path.name[:4]} | [{title}]({path.name}) | {status.rstrip('.')} | {when.rstrip('.')} |"
        )
    lines += ["", "```{toctree}", ":hidden:", ""]
    lines += [path.stem for path, _ in facts.decisions()]
    return "\n".join([*lines, "```", ""])


def runbooks_page() -> str:
    """The list of runbooks: one per alert, then those for tasks."""
    folder = facts.DOCS / "runbooks"
    files = {path.stem: path for path in sorted(folder.glob("*.md")) if path.stem != "README"}
    known = {one["alert"]: one for one in facts.alerts()}
    lines = [
        "# Runbooks",
        "",
        "One per alert, named as the alert: what it means, what users feel, where to look, what to"
        " do, how to see that it is resolved, how to prevent it. Not sure where to begin?"
        " `make status` names what is unhealthy, `make dashboard` shows since when, and"
        " [Operate](../operate.md) has the first five minutes.",
        "",
        "Commands are typed as root on the machine that the alert names (`make ssh HOST=machine`), or"
        " on the one that a comment beside the command names; those that begin with `make` on your"
        " computer, with `TOPOLOGY=` where it is another than `dev` (`export TOPOLOGY=live` for the"
        " whole shift). On a topology of one machine it is always the same. `# -> PONG` beside a command"
        " is what it prints when all is well.",
        "",
    ]
    for severity, title in (("page", "Somebody is woken"), ("ticket", "In working hours"),
                            ("info", "For the record"), ("", "Other")):  # fmt: skip
        rows = []
        for name, path in files.items():
            alert = known.get(name, {})
            level = alert.get("labels", {}).get("severity", "") if alert else ""
            if level != severity:
                continue
            summary = _first_line(alert.get("annotations", {}).get("summary")) if alert else ""
            summary = re.sub(r"\{\{.*?\}\}", "…", summary)
            if not summary:
                first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
                summary = first if first != name else ""
            rows.append(f"| [{name}]({name}.md) | {alert.get('formula', '')} | {summary} |")
        if rows:
            lines += [f"## {title}", "", "| runbook | formula | in short |", "| --- | --- | --- |"]
            lines += [*rows, ""]
    if not files:
        lines += ["There is none yet.", ""]
        return "\n".join(lines)
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *files, "```", ""])


def index_page() -> str:
    """The entrance to the reference, and the READMEs beside the code."""
    lines = [
        "# Reference",
        "",
        "| | |",
        "| --- | --- |",
        "| [Commands](commands.md) | what `make` does |",
        "| [Settings](settings/index.md) | every key of the pillar |",
        "| [Small files](small-files.md) | what formulas hand to each other |",
        "| [app.toml](app-toml.md) | what an application says of itself |",
        "| [Diagrams](diagrams.md) | every picture, and what it says in words |",
        "| [What fails](failures.md) | what users feel, which alert and runbook, how long |",
        "| [Ports](ports.md) | who may connect to whom |",
        "| [Alerts](alerts.md) | when somebody is told, and what to do |",
        "| [Metrics](metrics.md) | what is measured |",
        "| [Log fields](logs.md) | what is written, and what its fields mean |",
        "",
        "## Beside the code",
        "",
        "Each formula and each part has a README where its code is: what it promises, how to check it"
        " by hand.",
        "",
    ]
    for path in sorted((facts.ROOT / "salt").glob("*/README.md")):
        lines.append(f"- [{path.parent.name}](../../salt/{path.parent.name}/README.md)")
    for name in (
        "webapp",
        "examples/notes",
        "examples/shop",
        "cloud",
        "bench",
        "bootstrap",
        "control",
        "lab",
        "tests",
    ):
        if (facts.ROOT / name / "README.md").exists():
            lines.append(f"- [{name}](../../{name}/README.md)")
    lines += [
        "",
        "```{toctree}",
        ":hidden:",
        "",
        "diagrams",
        "failures",
        "commands",
        "settings/index",
    ]
    return "\n".join(
        [
            *lines,
            "app-toml",
            "small-files",
            "ports",
            "alerts",
            "metrics",
            "logs",
            "code/index",
            "```",
            "",
        ]
    )
