"""
`make status`: every service of every machine, with what the monitor knows of it.

Each machine is asked for its own services (salt/_modules/report.py), the monitor for the age of the
last metric and log line of each and for the alerts that are open; all at the same time.
"""

from __future__ import annotations

import concurrent.futures
import json
import shlex
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from . import host_programs, ssh, stores
from .errors import ControlError
from .terminal import printable
from .topology import Topology

# Fixed names: Prometheus and Alertmanager of the monitor, and where the central logs are.
PROMETHEUS = "http://127.0.0.1:9090/api/v1"
ALERTMANAGER = "http://127.0.0.1:9093/api/v2"
LOGS = "/var/log/central"
COLUMNS = (
    "machine",
    "service",
    "unit",
    "state",
    "version",
    "port",
    "health",
    "MiB",
    "restarts",
    "metric",
    "log",
    "alerts",
)
# Alerts that call for somebody; `info` is for the record.
CALLING = ("page", "ticket")
# Most characters of a cell, but of the last one: a health check or a log line may say a lot.
CELL = 72


@dataclass(frozen=True)
class Alert:
    """One that fires. ``machine`` and ``unit`` are '' where it is about none in particular;
    ``summary`` names what it is about."""

    name: str
    severity: str
    service: str
    machine: str
    unit: str
    summary: str
    runbook: str

    @property
    def text(self) -> str:
        return f"{self.summary}: {self.name}" if self.summary else self.name


@dataclass
class Known:
    """What the monitor knows. Times are seconds since 1970."""

    now: float = 0.0
    # {(machine, metric): time of its last sample}
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)
    # {(machine, service): time of its last line}
    logs: dict[tuple[str, str], float] = field(default_factory=dict)
    # Those that fire.
    alerts: list[Alert] = field(default_factory=list)
    # A line for each silence that is active: who, what, until when.
    silences: list[str] = field(default_factory=list)
    # Why there is nothing above.
    trouble: str = ""


def services(topology: Topology, host: str) -> list[dict[str, Any]]:
    """What a machine says of its own services; UserError when it does not."""
    said = ssh.run(topology, host, host_programs.services(topology))
    try:
        found = json.loads(said)["local"]
    except (ValueError, KeyError) as error:
        raise ControlError(f"no table of services: {said.strip()[:60] or error}") from error
    assert isinstance(found, list)
    return found


def age_query(metrics: list[str]) -> str:
    """PromQL: when each metric of each machine was last seen, at most ten minutes ago."""
    return " or ".join(
        f"label_replace(max by (machine) (max_over_time(timestamp({name})[10m:5s])),"
        f' "metric", {json.dumps(name)}, "", "")'
        for name in metrics
    )


def parse(said: str) -> Known:
    """:class:`Known` of what :func:`question` makes the monitor answer."""
    alerts, ages, logs, now, *more = said.split("\0")
    known = Known(now=float(now))
    for one in json.loads(alerts)["data"]["alerts"]:
        labels, annotations = one["labels"], one.get("annotations", {})
        name = labels["alertname"]
        if one["state"] == "firing" and name != "Watchdog":
            known.alerts.append(
                Alert(
                    name,
                    labels.get("severity", ""),
                    labels.get("service", ""),
                    labels.get("machine", ""),
                    labels.get("unit", ""),
                    annotations.get("summary", ""),
                    annotations.get("runbook", f"docs/runbooks/{name}.md"),
                )
            )
    for one in json.loads(ages)["data"]["result"]:
        labels = one["metric"]
        known.metrics[labels.get("machine", ""), labels["metric"]] = float(one["value"][1])
    for line in logs.splitlines():
        when, path = line.split(" ", 1)
        machine, _, name = path.partition("/")
        known.logs[machine, name.removesuffix(".log")] = float(when)
    # Nothing while Alertmanager is unreachable.
    for one in json.loads("".join(more).strip() or "[]"):
        if one["status"]["state"] == "active":
            known.silences.append(silence(one))
    return known


def silence(one: dict[str, Any]) -> str:
    """Who silences what until when, and why, as they say themselves."""
    signs = {(True, False): "=", (True, True): "=~", (False, False): "!=", (False, True): "!~"}
    what = ", ".join(
        f"{matcher['name']}{signs[matcher.get('isEqual', True), matcher['isRegex']]}"
        f"{json.dumps(matcher['value'])}"
        for matcher in one["matchers"]
    )
    until = one["endsAt"].partition(".")[0].replace("T", " ").removesuffix("Z")
    return (
        f"{one['createdBy'] or 'nobody'} until {until} UTC: {what} ({one['comment']}), {one['id']}"
    )


def question(metrics: list[str]) -> str:
    """Shell command for the monitor: alerts, ages, logs, its clock and silences, with NUL between."""
    query = shlex.quote(f"query={age_query(metrics)}")
    return (
        f"curl -qsf --noproxy '*' -m 4 {PROMETHEUS}/alerts && printf '\\0'"
        f" && curl -qsf --noproxy '*' -m 4 -G {PROMETHEUS}/query --data-urlencode {query} && printf '\\0'"
        f" && {{ find {LOGS} -mindepth 2 -maxdepth 2 -name '*.log' -printf '%T@ %P\\n' 2>/dev/null || true; }}"
        " && printf '\\0' && date +%s && printf '\\0'"
        f" && {{ curl -qsf --noproxy '*' -m 4 {ALERTMANAGER}/silences || true; }}"
    )


def ask_monitor(topology: Topology, metrics: list[str]) -> Known:
    monitors = topology.with_role("monitor")
    if not monitors:
        return Known(trouble="this topology has no monitor")
    try:
        return parse(ssh.run(topology, monitors[0], question(metrics)))
    except (ControlError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or ["?"])[0]
        return Known(trouble=f"{monitors[0]} can't be asked for metrics, logs and alerts: {first}")


def age(known: Known, when: float | None) -> str:
    if when is None:
        return "-"
    seconds = max(0, int(known.now - when))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def last_line(known: Known, host: str, names: list[str]) -> float | None:
    return max(
        (known.logs[host, name] for name in names if (host, name) in known.logs), default=None
    )


def row_of(alert: Alert, listed: list[dict[str, Any]]) -> int | None:
    """
    Which of a machine's services an alert stands beside: the one whose unit it names; of an alert that
    names none, its service, when that is one unit or instances of one. None: a row of its own.
    """
    if alert.unit:
        rows = [n for n, one in enumerate(listed) if one["unit"] == alert.unit]
    else:
        rows = [n for n, one in enumerate(listed) if one["service"] == alert.service]
        if len({listed[n]["unit"].partition("@")[0] for n in rows}) > 1:
            return None
    return rows[0] if rows else None


def clip(text: str) -> str:
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def health(one: dict[str, Any]) -> str:
    return ", ".join(filter(None, (one["health"], one.get("note"))))


def cut(found: dict[str, list[dict[str, Any]] | str]) -> list[str]:
    """What the table has no room for, whole: the end of a health says what to do."""
    said = {host: listed for host, listed in found.items() if isinstance(listed, str)}
    for host, listed in found.items():
        if not isinstance(listed, str):
            said |= {f"{host} {one['unit']}": health(one) for one in listed}
    return [printable(f"{what}: {text}") for what, text in said.items() if len(text) > CELL]


def about(alert: Alert, host: str, listed: list[dict[str, Any]] | str) -> bool:
    """Whether an alert is about a service of this machine: then it stands in the machine's rows."""
    here = not isinstance(listed, str) and alert.service in {one["service"] for one in listed}
    return here and alert.machine in ("", host)


def render(
    found: dict[str, list[dict[str, Any]] | str], known: Known
) -> tuple[list[tuple[str, ...]], bool]:
    """Rows of the table and whether all services are well. A text in place of the services of a
    machine says why there are none."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    well = True
    for host, listed in found.items():
        if isinstance(listed, str):
            rows.append((host, "-", "-", "unreachable", "", "", listed, "", "", "-", "-", ""))
            well = False
            continue
        beside: dict[int, set[str]] = defaultdict(set)
        alone: dict[tuple[str, str], set[str]] = defaultdict(set)
        for alert in (one for one in known.alerts if about(one, host, listed)):
            row = row_of(alert, listed)
            if row is None:
                alone[alert.service, alert.unit or "-"].add(alert.text)
            else:
                beside[row].add(alert.text)
        for number, one in enumerate(listed):
            well = well and one["well"]
            rows.append(
                (
                    host,
                    one["service"],
                    one["unit"],
                    one["state"],
                    one["version"],
                    one["port"],
                    health(one),
                    "" if one["memory"] is None else str(one["memory"]),
                    str(one["restarts"]),
                    age(known, known.metrics.get((host, one.get("metric") or ""))),
                    age(known, last_line(known, host, one.get("logs", []))),
                    "; ".join(sorted(beside[number])),
                )
            )
        for (service, unit), texts in sorted(alone.items()):
            empty = [""] * (len(COLUMNS) - 4)
            rows.append((host, service, unit, *empty, "; ".join(sorted(texts))))
    return [(*map(clip, map(printable, row[:-1])), printable(row[-1])) for row in rows], well


def table(topology: Topology) -> tuple[str, bool, list[str]]:
    """The table as text, whether all services are well, and the open alerts that call for somebody."""
    hosts = list(topology.machines)
    found: dict[str, list[dict[str, Any]] | str] = {}
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        asked = {host: pool.submit(services, topology, host) for host in hosts}
        for host, answer in asked.items():
            try:
                found[host] = answer.result()
            except ControlError as error:
                found[host] = (str(error).splitlines() or ["?"])[0]
    metrics = sorted(
        {
            one["metric"]
            for listed in found.values()
            if not isinstance(listed, str)
            for one in listed
            if one.get("metric")
        }
    )
    known = ask_monitor(topology, metrics)
    rows, well = render(found, known)
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if whole := cut(found):
        lines += ["", *whole]
    if stores.are_several(topology):
        try:
            seen = stores.look(topology)
            lines += ["", printable(f"stores: {stores.line(seen)}")] if seen else []
            well = well and not seen.get("why")
        except ControlError as error:
            lines += ["", printable(f"stores: {error}")]
            well = False
    if known.trouble:
        lines += ["", known.trouble]
    if known.silences:
        lines += ["", "silenced, so nobody is notified:"]
        lines += [printable(f"  {one}") for one in sorted(known.silences)]
    calling = [one for one in known.alerts if one.severity in CALLING]
    # What each is about stands in the table, but of a machine that does not answer.
    pages = {
        (
            one.severity,
            one.name if any(about(one, *each) for each in found.items()) else one.text,
            one.runbook,
        )
        for one in calling
    }
    if pages:
        lines += ["", "open alerts:"]
        lines += [
            printable(f"  {severity:6} {text}: {page}") for severity, text, page in sorted(pages)
        ]
    return "\n".join(lines), well, [one.name for one in calling]


def command(topology: Topology) -> int:
    began = time.monotonic()
    text, well, calling = table(topology)
    print(text)
    print(
        f"\n{'healthy' if well and not calling else 'UNHEALTHY'}, asked in {time.monotonic() - began:.1f} s"
    )
    return 0 if well and not calling else 1
