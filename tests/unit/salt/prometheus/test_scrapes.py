"""What a machine that somebody got hold of can make the monitor believe: a real Prometheus asks it."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="no Prometheus on this computer: `make tests-need`"
)
FALSE = """
collectd_counter_up{counter="1",cause="site",severity="page",thing="disk"} 0
collectd_unit_active{unit="redis-server",machine="store1",instance="store1"} 0
collectd_lines_haproxy_request_ms{lines="edge1",type="p-99"} 99999
collectd_redis_up 0
collectd_ping_ping_droprate{ping="store1"} 1
up{job="collectd"} 0
ALERTS{alertname="RedisDown",alertstate="firing"} 1
"""
MANY = "".join(f'collectd_df_percent_bytes{{df="{n}"}} 1\n' for n in range(6000))
# What each answers, by machine and job; None: it sends whoever asks on to app1.
ANSWERS: dict[tuple[str, str], str | None] = {
    ("app1", "collectd"): FALSE,
    ("app2", "collectd"): MANY,
    ("store1", "collectd"): None,
    ("edge1", "collectd"): f'collectd_df_percent_bytes{{df="{"x" * 600}"}} 1\n',
    ("edge1", "haproxy"): "haproxy_process_uptime_seconds 5\ncollectd_redis_up 0\n",
    ("monitor1", "collectd"): FALSE,
}


@contextlib.contextmanager
def exporter(text: str | None, elsewhere: str) -> Iterator[str]:
    """`HOST:PORT` that answers with `text`, or sends to `elsewhere`."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if text is not None else 302)
            self.send_header("Location", f"http://{elsewhere}/metrics")
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write((text or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def query(
    all_rendered: dict[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[Any]]]:
    """`query(expression)` of a Prometheus with the configuration of prod's monitor, whose machines are here."""
    config = yaml.safe_load(all_rendered["prod", "monitor1"].text("/etc/prometheus/prometheus.yml"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    del config["alerting"], config["rule_files"]
    port = free_port()
    folder = tmp_path_factory.mktemp("prometheus")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(exporter(ANSWERS["app1", "collectd"], ""))
        for job in config["scrape_configs"]:
            if job["job_name"] in ("prometheus", "alertmanager"):
                job["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
                continue
            job.pop("tls_config", None)
            job["scheme"] = "http"
            for group in job["static_configs"]:
                which = group["labels"]["machine"], group["labels"]["job"]
                group["targets"] = [stack.enter_context(exporter(ANSWERS[which], first))]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        daemon = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
        )
        stack.callback(daemon.wait)
        stack.callback(daemon.terminate)

        def ask(expression: str) -> list[Any]:
            words = urllib.parse.urlencode({"query": expression})
            url = f"http://127.0.0.1:{port}/api/v1/query?{words}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
            assert isinstance(found, list)
            return found

        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                # The second round is in.
                if len(ask("count_over_time(up[1m]) >= 2")) == len(ANSWERS) + 2:
                    break
            assert time.monotonic() < until and daemon.poll() is None
            time.sleep(0.2)
        yield ask


def labels(found: list[Any]) -> list[dict[str, str]]:
    return [{k: v for k, v in one["metric"].items() if k != "instance"} for one in found]


def test_a_machine_speaks_for_itself_and_of_what_it_has(query: Callable[[str], list[Any]]) -> None:
    """No other's series, no other service's, and no label by which alerts are told apart."""
    ours = [one for one in labels(query('{machine="app1"}')) if "scrape_" not in one["__name__"]]
    common = {"job": "collectd", "machine": "app1"}
    assert sorted(ours, key=lambda one: one["__name__"]) == [
        {"__name__": "collectd_counter_up", "counter": "1", **common},
        {"__name__": "collectd_unit_active", "unit": "redis-server", **common},
        {"__name__": "up", **common},
    ]
    assert query('{__name__=~"ALERTS|collectd_redis.*"}') == []


def test_only_the_monitor_says_of_which_machine_a_log_is(
    query: Callable[[str], list[Any]],
) -> None:
    (found,) = labels(query("collectd_lines_haproxy_request_ms"))
    assert found["machine"] == "edge1"
    # It alone pings.
    (found,) = labels(query("collectd_ping_ping_droprate"))
    assert found["machine"] == "monitor1"


def test_an_exporter_names_nothing_but_its_own(query: Callable[[str], list[Any]]) -> None:
    found = {one["__name__"] for one in labels(query('{job="haproxy",machine="edge1"}'))}
    assert {one for one in found if "scrape_" not in one} == {
        "haproxy_process_uptime_seconds",
        "up",
    }


def test_what_is_too_much_or_leads_elsewhere_is_not_taken(
    query: Callable[[str], list[Any]],
) -> None:
    """Samples, length of a label, redirects; and the counters are there that alert."""
    down = {one["machine"] for one in labels(query('up{job="collectd"} == 0'))}
    assert down == {"app2", "edge1", "store1"}
    assert query('collectd_df_percent_bytes or collectd_counter_up{machine!="app1"}') == []
    for name in ("scrapes_exceeded_sample_limit", "scrape_pool_exceeded_label_limits"):
        assert query(f"prometheus_target_{name}_total > 0"), name
    assert query("prometheus_target_scrapes_exceeded_body_size_limit_total")
