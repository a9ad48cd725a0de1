"""Every service is measured, and a dead one is told of in time; see tests/faults for all of them."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import json
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from alarm import forget, listening, query, wait_for, wait_until_quiet
from lab_machine import ROOT, Lab

UNITS = ("collectd", "prometheus", "prometheus-alertmanager")
AMTOOL = "amtool --alertmanager.url=http://127.0.0.1:9093"


@pytest.mark.differs("systemd 252")
@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_sandboxed(lab: Lab, unit: str) -> None:
    said = lab.run(f"systemd-analyze security --no-pager {unit}.service | tail -1")
    exposure = float(re.search(r": ([0-9.]+) ", said).group(1))  # type: ignore[union-attr]
    assert exposure <= (2.5 if unit == "collectd" else 2.0), said


@pytest.mark.parametrize("unit", [*UNITS, "journal-shipper", "rsyslog"])
def test_watching_yields_to_serving(lab: Lab, unit: str) -> None:
    assert lab.run(f"systemctl show -P CPUWeight {unit}").strip() == "20"


@pytest.mark.parametrize("port", [9090, 9093, 9103])
def test_nothing_of_it_is_public(lab: Lab, port: int) -> None:
    listening_on = {
        line.split()[3].rpartition(":")[0]
        for line in lab.run(f"ss -Hltn 'sport = :{port}'").splitlines()
    }
    assert listening_on == {"127.0.0.1"}


@pytest.mark.differs("collectd and Prometheus 2.42")
def test_every_service_is_measured(lab: Lab) -> None:
    """Each metric that a formula shows as its proof is in Prometheus, not in a file only."""
    said = lab.run("cd /srv/stack && salt-call --out=json metrics.collect")
    measured = json.loads(said)["local"]
    assert {"base", "collectd", "counter", "fail2ban", "firewalld", "haproxy", "prometheus"} <= set(
        measured
    )
    for service, one in measured.items():
        for name in one["required_series"]:
            lab.wait(f"{service}: {name}", lambda name=name: bool(query(lab, name)))  # type: ignore[misc]


@pytest.mark.differs("collectd and Prometheus 2.42")
def test_every_reader_and_target_is_well(lab: Lab) -> None:
    lab.wait("all readers well", lambda: not query(lab, "collectd_reader_ok == 0"))
    lab.wait("all targets up", lambda: not query(lab, "up == 0"))
    assert len(query(lab, "collectd_reader_ok")) >= 8


def test_the_count_is_a_metric(lab: Lab) -> None:
    seen = lab.see()
    lab.wait(
        "the count in Prometheus",
        lambda: [int(one["value"][1]) for one in query(lab, "collectd_redis_count")] == [seen],
    )


@pytest.mark.differs("Prometheus 2.42")
def test_every_rule_is_loaded_and_evaluates(lab: Lab) -> None:
    answer = json.loads(lab.run("curl -s http://127.0.0.1:9090/api/v1/rules"))
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    assert len(rules) > 30
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []


@contextlib.contextmanager
def dashboard(lab: Lab) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`make dashboard` while it runs, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "control", "dashboard"],
        cwd=ROOT,
        env=lab.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        yield process, process.stdout.readline().strip()
    finally:
        # Not killed: its tunnel would stay.
        process.terminate()
        process.wait(120)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_tunnel_to_the_pages_is_there_as_long_as_make_dashboard(lab: Lab, how: int) -> None:
    with dashboard(lab) as (process, address):
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b'"panels"' in answer.read()
        process.send_signal(how)
        assert process.wait(120) == 0
        assert process.stdout
        assert "the tunnel is closed" in process.stdout.read()
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(address, timeout=10)


def test_a_web_page_reads_and_changes_nothing_through_the_tunnel(lab: Lab) -> None:
    """What a browser sends for another site's page: to the pages, and to where Alertmanager would be."""
    before = lab.run(f"{AMTOOL} silence query -q")
    with dashboard(lab) as (_, address):
        port = int(address.split(":")[2].partition("/")[0])

        def send(
            method: str, path: str, body: str | None = None, **headers: str
        ) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                names = {name.replace("_", "-"): value for name, value in headers.items()}
                connection.request(method, path, body, names)
                answer = connection.getresponse()
                return answer.status, f"{answer.headers}{answer.read().decode()}"
            finally:
                connection.close()

        query_ = "/api/v1/query?query=up"
        status, text = send("GET", query_)
        assert (status, "collectd" in text) == (200, True)
        for headers in (
            {"Origin": "https://evil.example"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
        ):
            status, text = send("GET", query_, **headers)
            assert (status, "collectd" in text) == (403, False), headers
            assert "Access-Control" not in text
        silence = json.dumps({"matchers": [], "comment": "x"})
        for path in ("/api/v2/silences", "/api/v2/alerts", "/-/quit"):
            assert send("POST", path, silence, Content_Type="text/plain")[0] in (403, 405)
    # A tunnel by hand to Alertmanager, as an operator who is not root.
    assert lab.run(f"{AMTOOL} silence query -q") == before
    as_operator = lab.run("setpriv --reuid=vagrant --clear-groups curl -sS -m 5 http://127.0.0.1:9093"
                          " 2>&1", check=False)  # fmt: skip
    assert "connect" in as_operator


HOSTILE = """<!doctype html><title>cats</title><body><script>
const found = [];
const base = 'http://127.0.0.1:PORT', silence = {method: 'POST', body: '{"matchers": [], "comment": "x"}'};
const tries = [
  fetch(base + '/api/v1/query?query=up').then(a => a.text()).then(t => found.push('read ' + t)),
  ...['PORT', '9093'].map(port => fetch('http://127.0.0.1:' + port + '/api/v2/silences', {mode: 'no-cors',
      headers: {'Content-Type': 'text/plain'}, ...silence})),
  fetch('http://127.0.0.1:9093/api/v2/silences').then(a => a.text()).then(t => found.push('read ' + t)),
  fetch('http://rebound.example:PORT/api/v1/query?query=up').then(a => a.text()).then(t => found.push('read ' + t)),
  new Promise(done => { const one = new Image(); one.onload = () => { found.push('picture'); done(); };
      one.onerror = done; one.src = base + '/favicon.ico'; document.body.append(one); }),
];
Promise.allSettled(tries).then(all => { document.title = 'done'; document.body.textContent =
    'tried ' + all.length + ', got: ' + found.join('; '); });
</script>"""


@pytest.mark.nightly("a browser; what it sends is sent by the test above")
def test_a_page_in_a_real_browser_reads_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("no chromium on this computer")
    before = lab.run(f"{AMTOOL} silence query -q")
    with dashboard(lab) as (_, address):
        port = address.split(":")[2].partition("/")[0]
        (tmp_path / "index.html").write_text(HOSTILE.replace("PORT", port), encoding="utf-8")

        def look(url: str) -> str:
            return subprocess.run(
                [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
                 f"--user-data-dir={tmp_path}/profile", "--dump-dom",
                 "--host-resolver-rules=MAP *.example 127.0.0.1", url],
                capture_output=True, text=True, timeout=120, check=True,
            ).stdout  # fmt: skip

        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
            threading.Thread(target=site.serve_forever, daemon=True).start()
            text = look(f"http://evil.example:{site.server_address[1]}/index.html")
            site.shutdown()
        assert re.search(r"tried 6, got: *<", text), text
        # A page of that very name, as after DNS rebinding.
        assert "no other name leads here" in look(
            f"http://rebound.example:{port}/api/v1/query?query=up"
        )
        assert "success" in look(f"http://127.0.0.1:{port}/api/v1/query?query=up")
    assert lab.run(f"{AMTOOL} silence query -q") == before


@pytest.mark.nightly("a browser; that every page is served, and what each asks, are tests below")
def test_a_page_draws_its_curves_in_a_real_browser(lab: Lab, tmp_path: Path) -> None:
    """Under the policy that it carries: nothing but its own server's files."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("no chromium on this computer")
    with dashboard(lab) as (_, address):
        text = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
             f"--user-data-dir={tmp_path}/profile", "--dump-dom", address],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
    assert 'data-drawn="yes"' in text
    assert text.count('class="u-over"') >= 4


# What asks everybody who he is (a password, a certificate), and what is for everybody.
ASKING = {22, 53, 80, 443, 2514, 6379}


@pytest.mark.differs("nftables and systemd 252")
def test_no_account_reaches_what_asks_nobody_on_loopback(lab: Lab) -> None:
    """As anybody, and as a service with a user of its own such as the application: Alertmanager took a
    silence of all alerts, an instance whatever it was told of a client."""
    listed = lab.run("ss -Hltn src 127.0.0.0/8").splitlines()
    ports = {int(line.split()[3].rpartition(":")[2]) for line in listed} - ASKING
    assert {9090, 9093, 9103, 8405, 8001} <= ports
    script = "; ".join(
        f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo {port}" for port in sorted(ports)
    )
    command = f"bash -c {shlex.quote(f'{script}; true')}"
    for account in ("setpriv --reuid=nobody --regid=nogroup --clear-groups",
                    "systemd-run -q --wait --pipe -p DynamicUser=yes"):  # fmt: skip
        assert lab.run(f"{account} {command}").split() == [], account
    assert {int(one) for one in lab.run(command).split()} == ports, "root reaches all"


@pytest.mark.controller
@pytest.mark.nightly("a minute; its reader, its alert and its line of status are unit tests")
def test_a_silence_is_told_of_as_an_alert_and_by_status(lab: Lab) -> None:
    """Whoever can, silences what tells of it first: who, what and until when stand where no silence reaches."""
    words = "'alertname=~.+' -d 87000h -a mallory -c 'nothing to see'"
    lab.run(f"{AMTOOL} silence add {words}")
    try:
        wait_for(lab, "SilenceActive")
        told = lab.make("-s", "status", check=False)
        assert told.returncode != 0
        assert re.search(
            r'(?m)^  mallory until 20\d\d-\S+ \S+ UTC: alertname=~"\.\+"', told.stdout
        ), told.stdout
        assert "(alertname=~.+) by mallory: SilenceActive" in told.stdout
    finally:
        lab.run(f"{AMTOOL} silence expire $({AMTOOL} silence query -q)")
    fires = 'ALERTS{alertname="SilenceActive"}'
    lab.wait("it is over", lambda: not query(lab, fires))


@pytest.mark.differs("Prometheus 2.42")
def test_every_page_is_there_and_every_panel_has_something_to_show(lab: Lab) -> None:
    """The same queries that the reader's browser sends."""
    names = json.loads(lab.run("cd /srv/stack && salt-call --out=json dashboards.pages"))["local"]
    assert "overview" in names
    panels = {}
    # Applications beside the counter, of which this machine has none, have nothing to show.
    for name in set(names) - {"apps"}:
        text = lab.run(f"curl -sf http://127.0.0.1:9090/consoles/{name}.html")
        found = re.search(r'(?s)<script id="page" type="application/json">(.*?)</script>', text)
        assert found, f"{name}: {text[:200]}"
        for panel in json.loads(found[1])["panels"]:
            if panel["kind"] == "alerts":
                continue
            panels[f"{name}: {panel['title']}"] = [one["expr"] for one in panel["queries"]]
    # A rate needs two scrapes, and how long answers took is known while there are some. What counts
    # failures only may be without a series.

    def is_all_shown() -> bool:
        lab.see()
        for title in [one for one in panels if any(query(lab, each) for each in panels[one])]:
            del panels[title]
        return not panels

    try:
        lab.wait("something in every panel", is_all_shown)
    except AssertionError as error:
        raise AssertionError(f"{error}: {panels}") from None


@pytest.mark.nightly("waits for scrapes twice; only another release of HAProxy could change it")
@pytest.mark.one_release
def test_slow_is_what_the_site_makes_one_wait_not_what_a_client_idles(lab: Lab) -> None:
    """HAProxy's own total has the time in it that a kept connection idles between two requests."""
    rules = json.loads(lab.run("curl -s http://127.0.0.1:9090/api/v1/rules"))["data"]["groups"]
    # Of the alert HighLatency, which itself takes minutes.
    queries = [one["query"] for group in rules for one in group["rules"]]
    took = next(one for one in queries if "time_average_seconds" in one).partition(" > ")[0]
    seen = 'haproxy_backend_http_requests_total{proxy="app"}'

    trust = ssl.create_default_context(cafile=lab.ca)

    def connect() -> list[http.client.HTTPSConnection]:
        kept = [
            http.client.HTTPSConnection(lab.address, context=trust, timeout=10) for _ in range(40)
        ]
        for one in kept:
            one.connect()
        return kept

    def ask(kept: list[http.client.HTTPSConnection]) -> None:
        for one in kept:
            one.request("GET", "/")
        answers = [one.getresponse() for one in kept]
        assert {(answer.status, bool(answer.read())) for answer in answers} == {(200, True)}

    def mean(requests: int) -> float:
        # Of HAProxy as it was just started. Its means follow slowly: each request is a 512th.
        lab.wait(
            "all of them are measured",
            lambda: [one["value"][1] for one in query(lab, seen)] == [str(requests)],
        )
        return float(query(lab, took)[0]["value"][1])

    lab.run("systemctl restart haproxy")
    lab.wait("every instance serves", lab.all_ready)
    kept = connect()
    ask(kept)
    time.sleep(3)
    ask(kept)
    idle = mean(80)
    assert idle < 0.02
    kept = connect()
    # Shorter than the application's own patience with Redis.
    lab.run("redis-admin CLIENT PAUSE 700 ALL")
    ask(kept)
    assert mean(120) > idle + 0.02


@pytest.mark.controller
def test_status_knows_of_metrics_logs_and_alerts(lab: Lab) -> None:
    forget(lab)
    wait_until_quiet(lab)
    lab.wait_for_status()
    told = lab.make("-s", "status")
    row = re.search(r"(?m)^.* haproxy +haproxy +active .* ok +\S+ +\d+ +(\S+) +(\S+)", told.stdout)
    assert row, told.stdout
    assert re.fullmatch(r"\d+s", row[1]), told.stdout


@pytest.mark.controller
def test_a_dead_service_is_told_of_within_a_minute_and_its_recovery_too(lab: Lab) -> None:
    """With the default intervals; the others are in tests/faults."""
    forget(lab)
    wait_until_quiet(lab)
    with listening(lab) as alarm:
        began = time.monotonic()
        lab.run("systemctl stop redis-server")
        try:
            assert alarm.wait("RedisDown", began) <= 60
            told = lab.make("-s", "status", check=False)
            assert told.returncode != 0
            assert re.search(r"redis +redis-server +inactive .* RedisDown$", told.stdout, re.M)
            assert "docs/runbooks/RedisDown.md" in told.stdout
        finally:
            lab.run("systemctl start redis-server")
        alarm.wait("RedisDown", began, "resolved")
        assert alarm.names(began, severity="page") == {"RedisDown"}
        began = time.monotonic()
        lab.run("systemctl kill -s STOP haproxy")
        try:
            assert alarm.wait("HaproxyDown", began) <= 60
        finally:
            lab.run("systemctl kill -s CONT haproxy")
        alarm.wait("HaproxyDown", began, "resolved")
        assert alarm.names(began, severity="page") == {"HaproxyDown"}
