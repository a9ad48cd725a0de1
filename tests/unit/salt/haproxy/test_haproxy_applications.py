"""What the edge makes of settings that no topology of the tree has: several applications with limits of their own, balancers, an
authority's challenge, HTTP/3. The template alone, run by this computer's HAProxy where that knows it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest
import yaml
from test_haproxy_limits import CONTEXT, Proxy, free_port, running

from tests.unit.conftest import ROOT

FORMULA = ROOT / "salt" / "haproxy"


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return {
        key: merged(value, over[key]) if isinstance(value, dict) and key in over else over.get(key, value)
        for key, value in base.items()
    }  # fmt: skip


def application(name: str, *hosts: str, limit: int | None = None) -> dict[str, Any]:
    found = {"name": name, "proxy": f"app-{name}" if hosts else "app", "hosts": list(hosts)}
    more = {"methods": None, "max_body": None, "timeout": None, "servers": [], "health": "/readyz"}
    return {**found, **more, "limit": limit}


def rendered(*applications: dict[str, Any], order: Any = None, **settings: Any) -> str:
    base = yaml.safe_load((FORMULA / "defaults.yaml").read_text(encoding="utf-8"))
    haproxy = merged(base, {"frontend": {"ipv6": "never"}, **settings})
    applications = applications or (application("counter"),)
    loader = jinja2.FileSystemLoader(FORMULA / "files")
    engine = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return engine.get_template("haproxy.cfg.j2").render(
        haproxy=haproxy,
        served={"default": "counter", "applications": list(applications)},
        trusted=["192.0.2.1"],
        machine={"name": "edge1", "address": "127.0.0.1"},
        **({"acme": order} if order else {}),
    )


@pytest.fixture
def start(tmp_path: Path, load_source: Callable[..., Any]) -> Iterator[Callable[..., Proxy]]:
    if not shutil.which("haproxy"):
        pytest.skip("no haproxy on this computer")
    version = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    is_old = bool(re.search(r"version 2\.[0-8]\.", version))
    with contextlib.ExitStack() as stack:

        def begin(*applications: dict[str, Any], **settings: Any) -> Proxy:
            text = rendered(*applications, knows_handshake_timeout=not is_old, **settings)
            pki = load_source("salt/_utils/certificates.py")
            (tmp_path / "tls").mkdir()
            pair = pki.issue(*pki.make_ca("one", 30), "edge1", ["127.0.0.1"], 20)
            (tmp_path / "tls/site.pem").write_text("".join(pair))
            (tmp_path / "errors").mkdir()
            for source in (FORMULA / "files" / "errors").iterdir():
                error = source.read_text(encoding="utf-8")
                error = error if source.suffix == ".http" else "HTTP/1.0 429 x\r\n\r\n"
                (tmp_path / "errors" / f"{source.name.split('.')[0]}.http").write_text(error)
            (tmp_path / "errors/maintenance.page").write_text("later\n")
            for name in ("maintenance.map", "maintenance-clients.list"):
                (tmp_path / name).touch()
            ports = {name: free_port() for name in ("http", "https", "admin", "peers")}
            for old, new in {
                "bind :80\n": f"bind 127.0.0.1:{ports['http']}\n",
                "bind :443 ": f"bind 127.0.0.1:{ports['https']} ",
                "127.0.0.1:8405": f"127.0.0.1:{ports['admin']}",
                "127.0.0.1:8406": f"127.0.0.1:{ports['peers']}",
                "/etc/haproxy/tls": str(tmp_path / "tls"),
                "/run/haproxy-a": f"{tmp_path}/a",
                f"{tmp_path}/admin/": f"{tmp_path}/",
            }.items():
                text = text.replace(old, new)
            (tmp_path / "acme").mkdir()
            return stack.enter_context(running(text, ports, tmp_path))

        yield begin


def ask(proxy: Proxy, path: str = "/", host: str = "x", **headers: str) -> int:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""])
    with proxy.connect() as plain, CONTEXT.wrap_socket(plain) as client:
        client.sendall(head.encode())
        return int(client.recv(4096).split(b" ")[1])


def test_a_limit_for_one_application_takes_nothing_from_another(
    start: Callable[..., Proxy],
) -> None:
    """Requests were counted over all: who had asked one too often was refused by each."""
    apps = [
        application("counter"),
        application("shop", "shop.test", limit=3),
        application("notes", "notes.test"),
    ]
    proxy = start(*apps, limit={"requests": 6})
    # 503: let through; there is no server.
    assert [ask(proxy, host="shop.test") for _ in range(5)] == [503] * 3 + [429] * 2
    assert [ask(proxy, host="notes.test") for _ in range(7)] == [503] * 6 + [429]
    assert [ask(proxy) for _ in range(7)] == [503] * 6 + [429]


CLIENT = "198.51.100.7"
FORWARDED = {
    f'for=203.0.113.1, for="{CLIENT}";proto=https': CLIENT,
    # What a client left open: a quote that takes the comma, and with it what the balancer appended.
    f'for=203.0.113.1;by=", for={CLIENT}': 400,
    f'", for={CLIENT}': CLIENT,
    # Its Host, which the balancer passes on.
    f'for={CLIENT};host="x;for=203.0.113.9"': 400,
    f"for={CLIENT};for=203.0.113.9": 400,
    f"for=203.0.113.9;for=203.0.113.9, for={CLIENT}": CLIENT,
}
FORWARDED_FOR = {
    f"203.0.113.1, {CLIENT}": CLIENT,
    # Unread, the request had been the balancer's own, which nobody limits or bans.
    f'", {CLIENT}': 400,
    f'203.0.113.1", "{CLIENT}': 400,
}


@pytest.mark.parametrize(
    ("kind", "header", "values"),
    [("forwarded", "Forwarded", FORWARDED), ("forwarded_for", "X_Forwarded_For", FORWARDED_FOR)],
)
def test_a_client_behind_a_balancer_cannot_hide_or_be_another(
    start: Callable[..., Proxy], kind: str, header: str, values: dict[str, str | int]
) -> None:
    proxy = start(trusted_proxies={kind: ["127.0.0.1"]})
    for number, (value, says) in enumerate(values.items(), 1):
        status = ask(proxy, f"/{number}", **{header: value})
        assert (status == 400) == (says == 400), value
        line = proxy.wait(
            "its line",
            lambda path=f"/{number}": [one for _, one in proxy.lines() if one.get("path") == path],
        )
        if says != 400:
            assert line[0]["client_ip"] == says, value


@pytest.fixture
def acme() -> ModuleType:
    path = FORMULA / "files" / "acme.py"
    loader = SourceFileLoader("acme", str(path))
    spec = importlib.util.spec_from_loader("acme", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


ORDERED = {"directory": "https://a.test/dir", "email": "a@b.test", "agree": True}


def test_an_authority_is_answered_from_a_folder_where_nobody_else_listens(
    start: Callable[..., Proxy], acme: Any, tmp_path: Path
) -> None:
    """On a port, any account of the machine could answer while no order ran, and have a certificate of the site."""
    proxy = start(acme=ORDERED)

    def get(path: str) -> tuple[int, str]:
        with proxy.connect(port="http") as client:
            client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
            answer = client.makefile("rb").read().decode()
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]

    challenge = "/.well-known/acme-challenge/"
    text = (tmp_path / "haproxy.cfg").read_text(encoding="utf-8")
    (place,) = re.findall(r"(?m)^backend acme\n.*\n.*\n    server order unix@(\S+)$", text)
    assert get(f"{challenge}token")[0] == 503, "nothing is ordered"
    webroot = tmp_path / "webroot"
    (webroot / challenge[1:]).mkdir(parents=True)
    (webroot / challenge[1:] / "to-ken_1").write_text("to-ken_1.thumbprint")
    (webroot / challenge[1:] / "link").symlink_to("/etc/passwd")
    Path(place).parent.mkdir(exist_ok=True)
    with acme.Answers(place, type("Here", (acme.Answer,), {"folder": str(webroot)})) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert get(f"{challenge}to-ken_1") == (200, "to-ken_1.thumbprint")
        for other in ("none", "link", "../../webroot", ".", "to-ken_1/", "%2e%2e"):
            assert get(challenge + other)[0] in (403, 404), other
        server.shutdown()
    assert get("/")[0] == 308


@pytest.mark.parametrize("public", [True, False])
def test_another_edge_takes_the_certificate_from_the_one_that_orders(
    acme: Any,
    load_source: Callable[..., Any],
    tmp_path: Path,
    public: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a handshake, which nobody else can complete; one that the edges made themselves is none."""
    pki = load_source("salt/_utils/certificates.py")
    authority = pki.make_ca("an authority", 30)
    pair = pki.issue(
        *authority, "site.test", [] if public else ["127.0.0.1"], 20, names=["site.test"]
    )
    files = [tmp_path / f"{name}.pem" for name in ("site", "key", "chain")]
    for file, text in zip(files, (*pair, authority[0]), strict=True):
        file.write_text(text)
    port = free_port()
    monkeypatch.setattr(acme, "STATE", str(tmp_path))
    monkeypatch.setattr(acme, "checks", lambda: load_source("salt/_utils/certificate_checks.py"))
    settings = {
        "directory": "https://a.test/dir",
        "names": ["site.test"],
        "leader": {"name": "edge1", "address": "127.0.0.1"},
        "https_port": port,
    }
    with pytest.raises(SystemExit, match="edge1, which orders the certificate, gives none"):
        acme.order(settings)
    server = subprocess.Popen(
        ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-cert", str(files[0]),
         "-cert_chain", str(files[2]), "-key", str(files[1])],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        proxy = Proxy({"https": port}, tmp_path / "log")
        (tmp_path / "log").touch()

        def listens() -> bool:
            with contextlib.suppress(OSError), proxy.connect():
                return True
            return False

        proxy.wait("it listens", listens)
        acme.order(settings)
    finally:
        server.kill()
        server.wait()
    found = Path(acme.ordered(settings))
    assert found.exists() == public
    if public:
        assert found.read_text().strip() == (pair[0] + authority[0]).strip()


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("before", ["old", "unknown", None])
def test_a_certificate_that_haproxy_was_given_is_not_loaded_again_by_an_apply(
    acme: Any,
    load_source: Callable[..., Any],
    tmp_path: Path,
    before: str | None,
    runs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that is shown is there only once there is one of an authority; "unknown" says an apply under way."""
    pki = load_source("salt/_utils/certificates.py")
    authority = pki.make_ca("an authority", 30)
    certificate, key = pki.issue(*authority, "site.test", [], 20, names=["site.test"])
    live, shown, other = (str(tmp_path / name) for name in ("live.pem", "shown.pem", "haproxy.cfg"))
    loaded = tmp_path / "haproxy.json"
    known = {live: "old", other: "same", **({shown: before} if before else {})}
    loaded.write_text(json.dumps(known))
    settings = {"directory": "https://a.test/dir", "names": ["site.test"], "live": live}
    settings["socket"] = str(tmp_path / "admin.sock")
    monkeypatch.setattr(acme, "STATE", str(tmp_path))
    monkeypatch.setattr(acme, "SHOWN", shown)
    monkeypatch.setattr(acme, "LOADED", str(loaded))
    monkeypatch.setattr(acme, "checks", lambda: load_source("salt/_utils/certificate_checks.py"))
    if runs:
        monkeypatch.setattr(acme, "ask", lambda *_: "Success!")
    ordered = Path(acme.ordered(settings))
    ordered.parent.mkdir(parents=True)
    ordered.write_text(certificate + authority[0])
    Path(live).write_text("before")
    Path(f"{live}.key").write_text(key)
    acme.install(settings)
    digest = hashlib.sha256(Path(live).read_bytes()).hexdigest()
    if runs:
        known |= {live: digest, **({} if before == "unknown" else {shown: digest})}
    assert json.loads(loaded.read_text()) == known


@pytest.mark.parametrize("leads", [True, False])
def test_each_edge_passes_the_challenge_to_the_one_that_orders(leads: bool) -> None:
    order = {
        "leader": None if leads else {"name": "edge0", "address": "192.0.2.9"},
        "followers": leads,
    }
    text = rendered(order=order, acme=ORDERED)
    assert ("bind 127.0.0.1:8409 ssl" in text) == leads
    assert ("server order unix@/run/haproxy-acme/challenge" in text) == leads
    passed = "server edge0 192.0.2.9:8409 ssl ca-file /etc/stack/pki/machine-ca.crt"
    assert (passed in text) != leads
    assert "verify required verifyhost edge0" in text or leads


def test_http3_is_off_and_has_a_port_and_limits_of_its_own_when_it_is_on() -> None:
    off, on = rendered(), rendered(http3=True)
    for words in ("quic", "Alt-Svc", "https3"):
        assert words not in off
    assert "    limited-quic\n" in on
    assert on.count("""set-header Alt-Svc 'h3=":443"; ma=3600'""") == 2
    part = on[on.index("\nfrontend https3") : on.index("# --- the applications")]
    assert re.search(r"bind quic4@:443 ssl crt \S+ alpn h3 .* quic-force-retry\n", part)
    # A PROXY header has no place in it; the rest is as by TCP.
    assert "expect-proxy" not in part
    assert "tcp-request connection reject if too_many" in part
    tcp = on[on.index("\nfrontend https\n") : on.index("\nfrontend https3")]
    rules = [line for line in tcp.splitlines() if line.startswith("    http-")]
    assert rules == [line for line in part.splitlines() if line.startswith("    http-")]
