"""HAProxy is told no health path and no port at which the instances that it uses would go down."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CONFIG = """\
peers reload
    bind 127.0.0.1:8406
    server reload
backend app
    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host localhost hdr User-Agent haproxy-check
    server app1-1 127.0.0.1:{port}{tls}
    server app1-2 127.0.0.1:1
frontend admin
    bind 127.0.0.1:8405
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def edge(load_source: Callable[..., Any], tmp_path: Path, root: Path) -> Iterator[SimpleNamespace]:
    """`ask(path)`: what the check says; `up`: the servers that HAProxy uses; `port` of the instance."""
    module = load_source("salt/haproxy/files/answers.py")
    module.LIVE = str(tmp_path / "haproxy.cfg")
    staged, path = tmp_path / "staged.cfg", tmp_path / "admin.sock"
    haproxy_socket = root / "salt/_utils/haproxy_socket.py"
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin,
    ):
        port = instance.server_address[1]
        threading.Thread(target=instance.serve_forever, args=(0.02,), daemon=True).start()
        admin.bind(str(path))
        admin.listen()
        world = SimpleNamespace(up=["app1-1"], port=port, instance=instance, tls="", socket=path)

        def serve() -> None:
            while True:
                try:
                    client, _ = admin.accept()
                except OSError:
                    return
                with client:
                    client.recv(100)
                    rows = ["# pxname,svname,status,addr", "app,BACKEND,UP,"]
                    for name in ("app1-1", "app1-2"):
                        rows.append(f"app,{name},{'UP' if name in world.up else 'DOWN'},a:1")
                    client.sendall("\n".join(rows).encode())

        threading.Thread(target=serve, daemon=True).start()

        def ask(new: str, monkeypatch: pytest.MonkeyPatch, there: int = port) -> int:
            Path(module.LIVE).write_text(CONFIG.format(path="/readyz", port=port, tls=""))
            staged.write_text(CONFIG.format(path=new, port=there, tls=world.tls))
            words = ["answers.py", str(staged), str(world.socket), str(haproxy_socket)]
            monkeypatch.setattr("sys.argv", words)
            code = module.main()
            assert isinstance(code, int)
            return code

        world.ask = ask
        yield world
        admin.shutdown(socket.SHUT_RDWR)
        instance.shutdown()


def test_a_health_path_that_the_instances_in_use_do_not_serve_is_refused(
    edge: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge.ask("/nope", monkeypatch) == 1
    said = capsys.readouterr().err
    assert f"app1-1 answers GET /nope at 127.0.0.1:{edge.port} with 404" in said
    assert said.count("\n") == 1
    assert edge.ask("/readyz", monkeypatch) == 0


def test_a_port_at_which_no_instance_is_is_refused(
    edge: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge.ask("/readyz", monkeypatch, there=1) == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["none is in use", "haproxy does not run"])
def test_where_nothing_serves_there_is_nothing_to_lose(
    edge: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Or a site that is down could never be mended."""
    edge.up = []
    if gone == "haproxy does not run":
        edge.socket = edge.socket.with_name("no-socket")
    assert edge.ask("/nope", monkeypatch) == 0


def test_an_instance_on_another_machine_is_asked_by_tls(
    edge: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the edge's own certificate, and by the name of the machine, as HAProxy does."""
    from control.credentials import certificates

    ca, ca_key = certificates.make_ca("test", 2)
    (tmp_path / "ca.crt").write_text(ca)
    for name in ("edge", "app1"):
        pair = certificates.issue(ca, ca_key, name, ["127.0.0.1"], 2)
        for end, text in zip(("crt", "key"), pair, strict=True):
            (tmp_path / f"{name}.{end}").write_text(text)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tmp_path / "app1.crt", tmp_path / "app1.key")
    edge.instance.socket = context.wrap_socket(edge.instance.socket, server_side=True)
    edge.tls = (
        f" ssl verify required verifyhost app1 ca-file {tmp_path}/ca.crt crt {tmp_path}/edge.crt"
    )
    assert edge.ask("/nope", monkeypatch) == 1
    assert "with 404" in capsys.readouterr().err
    assert edge.ask("/readyz", monkeypatch) == 0
