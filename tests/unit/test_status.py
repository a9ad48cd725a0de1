"""The table of `make status`, of what machines and monitor answer."""

from __future__ import annotations

import json
from typing import Any

from control import status


def known() -> status.Known:
    alerts = [
        {"state": "firing", "labels": {"alertname": name, "severity": severity, **more}}
        for name, severity, more in (
            ("RedisDown", "page", {"service": "redis", "machine": "a"}),
            ("CounterDown", "page", {"service": "counter"}),
            ("Watchdog", "info", {"service": "prometheus"}),
        )
    ]
    alerts.append({"state": "pending", "labels": {"alertname": "HaproxyDown"}})
    ages = [{"metric": {"machine": "a", "metric": "collectd_redis_up"}, "value": [0, "990"]}]
    said = "\0".join(
        [
            json.dumps({"data": {"alerts": alerts}}),
            json.dumps({"data": {"result": ages}}),
            "700.5 a/redis.log\n100 a/other.log\n",
            "1000\n",
        ]
    )
    return status.parse(said)


def row(**given: Any) -> dict[str, Any]:
    return {
        "service": "redis",
        "unit": "redis-server",
        "state": "active",
        "version": "8",
        "port": "6379",
        "health": "ok",
        "memory": 6.5,
        "restarts": 0,
        "metric": "collectd_redis_up",
        "logs": ["redis"],
        "well": True,
        **given,
    }


def test_a_row_has_the_ages_and_the_open_alerts() -> None:
    rows, well = status.render({"a": [row()]}, known())
    assert well
    assert rows[0] == status.COLUMNS
    assert rows[1][-3:] == ("10s", "4m", "RedisDown")


def test_an_alert_stands_once_a_service_and_one_of_no_machine_with_all() -> None:
    one = row(service="counter", unit="counter@1", metric=None, logs=[])
    rows, _ = status.render({"a": [one, {**one, "unit": "counter@2"}], "b": [one]}, known())
    assert [line[-3:] for line in rows[1:]] == [
        ("-", "-", "CounterDown"),
        ("-", "-", ""),
        ("-", "-", "CounterDown"),
    ]


def test_an_unreachable_machine_is_unwell() -> None:
    rows, well = status.render({"a": "no route"}, known())
    assert not well
    assert rows[1][3] == "unreachable"


def test_a_service_that_is_unwell_makes_the_table_unwell() -> None:
    assert not status.render({"a": [row(well=False)]}, known())[1]


def test_without_a_monitor_the_ages_are_unknown() -> None:
    rows, well = status.render({"a": [row()]}, status.Known(trouble="away"))
    assert well
    assert rows[1][-3:] == ("-", "-", "")
