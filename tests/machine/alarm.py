"""Who is told of an alert, for tests: a webhook on this host that Alertmanager sends to."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pace
from lab_machine import PATIENCE, Lab

# Faster than the defaults: what is measured with these is which alerts come, not how soon.
FAST = {
    "collectd": {"interval": 2},
    "prometheus": {
        "scrape_interval": "2s",
        "scrape_timeout": "2s",
        "evaluation_interval": "1s",
    },
}


@dataclass
class Alarm:
    """What came in: ``[(seconds, status, labels)]``, seconds by time.monotonic()."""

    url: str = ""
    # Whether it answers with an error, as one that is broken itself.
    refuses: bool = False
    told: list[tuple[float, str, dict[str, str]]] = field(default_factory=list)

    def since(self, began: float, status: str = "firing") -> list[dict[str, str]]:
        return [
            labels for when, what, labels in list(self.told) if when >= began and what == status
        ]

    def names(self, began: float, status: str = "firing", **wanted: str) -> set[str]:
        return {
            labels["alertname"]
            for labels in self.since(began, status)
            if all(labels.get(key) == value for key, value in wanted.items())
        }

    def wait(self, name: str, began: float, status: str = "firing", seconds: float = 90) -> float:
        """Seconds from ``began``, by the computer's own pace, until that alert came; AssertionError
        when it did not."""
        with pace.Stopwatch(apart=1) as watch:
            came = self._wait(name, began, status, seconds)
        return watch.paced(came - began)

    def _wait(self, name: str, began: float, status: str, seconds: float) -> float:
        started = time.monotonic()
        while not pace.is_over(started, seconds):
            for when, what, labels in list(self.told):
                if when >= began and what == status and labels["alertname"] == name:
                    return when
            time.sleep(0.2)
        raise AssertionError(f"no {status} {name} within {seconds} s; came: {self.told}")


@contextmanager
def listening(lab: Lab, pillar: dict[str, Any] | None = None) -> Iterator[Alarm]:
    """An alarm that the machine's Alertmanager sends to; ``pillar`` is laid over, too."""
    alarm = Alarm()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            now = time.monotonic()
            if alarm.refuses:
                self.send_error(500)
                return
            alarm.told += [(now, one["status"], one["labels"]) for one in body["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    gateway = lab.address.rpartition(".")[0] + ".1"
    server = http.server.ThreadingHTTPServer((gateway, 0), Handler)
    alarm.url = f"http://{gateway}:{server.server_address[1]}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    overlay = {**(pillar or {})}
    overlay["prometheus"] = {
        **overlay.get("prometheus", {}),
        # The first message as soon as by default; the second without waiting a minute.
        "alerts": {"webhook": alarm.url, "watchdog": alarm.url, "group_interval": "2s"},
    }
    # What the overlay is about; no other formula reads it.
    formulas = ",".join(overlay)
    try:
        lab.apply(SLS=formulas, PILLAR=json.dumps(overlay))
        yield alarm
    finally:
        lab.apply(SLS=formulas)
        server.shutdown()
        server.server_close()


READY = "curl -s http://127.0.0.1:9090/-/ready"


def query(lab: Lab, expression: str) -> list[dict[str, Any]]:
    """Result of an instant query of the machine's Prometheus."""
    said = lab.run(
        "curl -sG http://127.0.0.1:9090/api/v1/query --data-urlencode query@-", data=expression
    )
    answer = json.loads(said)
    assert answer["status"] == "success", f"{expression}: {answer}"
    found = answer["data"]["result"]
    assert isinstance(found, list)
    return found


def wait_for(lab: Lab, name: str, seconds: float = 90) -> None:
    """Wait until the alert fires by Prometheus, where nobody is told of it."""
    fires = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    lab.wait(f"{name} fires", lambda: bool(query(lab, fires)), seconds)


def forget(lab: Lab) -> None:
    """
    Let the machine's Prometheus and Alertmanager begin anew, without what the tests before did:
    some alerts look back over a quarter of an hour (and what a flood made the shipper lose is told of so
    long). Returns once everything is measured again.
    """
    lab.run(
        "systemctl stop journal-shipper; sed -i '2s/.*/0 0/' /var/lib/journal-shipper/cursor;"
        " systemctl start journal-shipper"
    )
    both = "prometheus prometheus-alertmanager"
    lab.run(f"systemctl stop {both}; rm -rf /var/lib/prometheus/metrics2/*; systemctl start {both}")
    lab.wait("Prometheus is ready", lambda: "Ready" in lab.run(f"{READY} || true"))
    # The second round: rules were evaluated over the first.
    rounds = "min(count_over_time(up[5m])) >= 2 and min(up) == 1"
    lab.wait("everything is measured", lambda: bool(query(lab, rounds)))


def wait_until_quiet(lab: Lab, seconds: float = PATIENCE) -> None:
    """Wait until nothing that calls for somebody fires; AssertionError names what still does."""
    fires = 'ALERTS{alertstate="firing",severity=~"page|ticket"}'
    try:
        lab.wait("no open alert", lambda: not query(lab, fires), seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {[one['metric'] for one in query(lab, fires)]}") from None
