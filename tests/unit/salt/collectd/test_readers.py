"""What the services' own readers make of what they read, without any collectd."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Reader = Callable[[str], ModuleType]


@pytest.fixture
def reader(load_source: Callable[..., ModuleType], root: Path) -> Reader:
    def one(name: str) -> ModuleType:
        (path,) = root.glob(f"salt/*/files/readers/{name}.py")
        return load_source(str(path.relative_to(root)))

    return one


needs_alertmanager = pytest.mark.skipif(
    not shutil.which("prometheus-alertmanager"), reason="none on this computer: `make tests-need`"
)


def values(found: Any) -> dict[Any, Any]:
    return {(one[0], *one[2:]) if len(one) > 2 else one[0]: one[1] for one in found}


@needs_alertmanager
def test_silences(reader: Reader, tmp_path: Path) -> None:
    """Of a real Alertmanager: each that is active, what it matches, whose, until when."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    module, settings = reader("silences"), {"port": port}
    assert values(module.read(settings)) == {}
    (tmp_path / "a.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    daemon = subprocess.Popen(
        [
            "prometheus-alertmanager",
            f"--config.file={tmp_path}/a.yml",
            f"--storage.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
            "--log.level=error",
        ]
    )
    try:
        until = time.monotonic() + 120
        while values(module.read(settings)) != {"active": 0}:
            assert daemon.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        amtool = ["amtool", f"--alertmanager.url=http://127.0.0.1:{port}", "silence"]
        who = 'm"é\\' + "y" * 50
        for words in (
            ["add", "alertname=~.+", f"machine!={'x' * 200}", "-d", "1h", "-c", "x", "-a", who],
            ["add", "alertname=RedisDown", "-d", "1h", "-c", "x", "-a", "me"],
        ):
            subprocess.run([*amtool, *words], check=True, capture_output=True)
        found = values(module.read(settings))
        assert found.pop("active") == 2
        texts = sorted((one[1][9:] for one in found), key=len)
        assert texts[0] == "(alertname=RedisDown) by me"
        assert texts[1].startswith("(alertname=~.+ machine!=xxx") and ") by m???y" in texts[1]
        assert all(len(one[1]) <= 120 and '"' not in one[1] for one in found)
        assert all(3500 < when - time.time() < 3700 for when in found.values())
        all_of = subprocess.run(
            [*amtool, "query", "-q"], capture_output=True, text=True, check=True
        )
        subprocess.run([*amtool, "expire", *all_of.stdout.split()], check=True)
        assert values(module.read(settings)) == {"active": 0}
    finally:
        daemon.terminate()
        daemon.wait()


def test_apply(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    assert list(reader("apply").read({"file": str(path)})) == []
    last = {"time": 5, "result": "failed", "changed": 2, "failed": 1, "duration": 1.5}
    path.write_text(json.dumps(last), encoding="ascii")
    found = values(reader("apply").read({"file": str(path)}))
    assert found == {"time": 5, "ok": 0, "changed": 2, "failed": 1, "seconds": 1.5}


@pytest.fixture
def converge(
    load_source: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setitem(sys.modules, "salt.scripts", SimpleNamespace())
    found: Any = load_source("bootstrap/converge")
    found.NOTE = str(tmp_path / "state" / "last.json")
    return found


def test_converge_leaves_what_the_reader_reads(reader: Reader, converge: Any) -> None:
    for closing, code, ok in (("0 changed, 1 failed", 1, 0), ("3 changed, 0 failed", 0, 1)):
        converge.note(closing, code, ["*"])
        found = values(reader("apply").read({"file": converge.NOTE}))
        assert (found["ok"], found["changed"]) == (ok, int(closing[0]))
        assert abs(found["time"] - time.time()) < 5


def test_what_failed_stays_told_until_it_went_well(reader: Reader, converge: Any) -> None:
    """A good run of one part says nothing of the others."""

    def after(closing: str, *words: str) -> int:
        converge.note(closing, 0, converge.parts_of(words))
        return int(values(reader("apply").read({"file": converge.NOTE}))["ok"])

    good, bad = "0 changed, 0 failed", "0 changed, 1 failed"
    assert after(bad, "pillar={}") == 0
    assert after(good, "counter") == 0, "all failed, one part went well"
    assert after(good) == 1
    assert after(bad, "counter,redis") == 0
    assert after(good, "haproxy") == 0
    assert after(good, "redis") == 0
    assert after(good, "counter", "pillar={}") == 1
    assert after(bad, "counter") == 0
    assert after(good) == 1, "all of it went well"


def test_an_apply_that_was_killed_has_failed(
    reader: Reader, converge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ok() -> int | None:
        found = values(reader("apply").read({"file": converge.NOTE}))
        return found.get("ok")

    converge.note_begin(["*"])
    assert ok() is None, "the very first runs"
    converge.note("9 changed, 0 failed", 0, ["*"])
    converge.note_begin(["counter"])
    assert ok() == 1, "it runs: as the last one ended"
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(converge.os, "getpid", lambda: ended.pid)
    converge.note_begin(["counter"])
    assert ok() == 0
    monkeypatch.undo()
    # Another part tells nothing of what was killed; a whole one mends it.
    converge.note_begin(["redis"])
    converge.note("0 changed, 0 failed", 0, ["redis"])
    assert ok() == 0
    converge.note_begin(["*"])
    converge.note("1 changed, 0 failed", 0, ["*"])
    assert ok() == 1
    # The power went in the middle; whoever has that number now is another.
    converge.note_begin(["*"])
    last = json.loads(Path(converge.NOTE).read_text())
    last["running"]["boot"] = "an-earlier-one"
    Path(converge.NOTE).write_text(json.dumps(last))
    assert ok() == 0


def test_clock(reader: Reader) -> None:
    found = values(reader("clock").read({"own": True}))
    assert abs(found["offset_seconds"]) < 10
    assert found["synchronised"] in (0, 1)
    assert "synchronised" not in values(reader("clock").read({"own": False}))


def certificate(folder: Path, name: str, days: int, signer: str = "") -> str:
    """A certificate in PEM: its own authority, or a leaf that ``signer`` has signed."""
    words = ["-days", str(days), "-subj", f"/CN={name}", "-out", str(folder / f"{name}.crt")]
    words += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-keyout", str(folder / f"{name}.key")]
    if signer:
        words += ["-CA", str(folder / f"{signer}.crt"), "-CAkey", str(folder / f"{signer}.key")]
        words += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(["openssl", "req", "-x509", *words], check=True, capture_output=True)
    return (folder / f"{name}.crt").read_text(encoding="ascii")


def test_certificate(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "one.pem"
    path.write_text(certificate(tmp_path, "x", 7), encoding="ascii")
    settings = {"certificate": {"site": str(path), "other": str(tmp_path / "none")}}
    found = values(reader("certificate").read(settings))
    assert set(found) == {("days_left", "site")}
    assert 6.9 < found["days_left", "site"] < 7.01


# 2050 and later is written in another way (RFC 5280, 4.1.2.5).
@pytest.mark.parametrize("authority", [3650, 15000])
@pytest.mark.parametrize("order", ["leaf first", "authority first"])
def test_the_certificate_of_a_chain_that_ends_first_is_told(
    reader: Reader, tmp_path: Path, authority: int, order: str
) -> None:
    ca = certificate(tmp_path, "ca", authority)
    leaf = certificate(tmp_path, "leaf", 5, "ca")
    key = (tmp_path / "leaf.key").read_text(encoding="ascii")
    path = tmp_path / "site.pem"
    path.write_text(leaf + key + ca if order == "leaf first" else ca + key + leaf, encoding="ascii")
    found = values(reader("certificate").read({"certificate": {"site": str(path)}}))
    assert 4.9 < found["days_left", "site"] < 5.01
    path.write_text(ca, encoding="ascii")
    os.utime(path, (1, 1))
    found = values(reader("certificate").read({"certificate": {"site": str(path)}}))
    assert authority - 1 < found["days_left", "site"] < authority + 1


def test_a_file_without_a_certificate_is_the_readers_trouble(
    reader: Reader, tmp_path: Path
) -> None:
    path = tmp_path / "site.pem"
    path.write_text("nothing", encoding="ascii")
    with pytest.raises(ValueError):
        values(reader("certificate").read({"certificate": {"site": str(path)}}))


def test_unit(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    module = reader("unit")
    said = (
        "NRestarts=2\nControlGroup=/x\nCPUUsageNSec=900\nId=a.service\nActiveState=active\nMainPID=0\n"
        "\nNRestarts=0\nControlGroup=\nCPUUsageNSec=[not set]\nId=b.timer\nActiveState=failed\n"
    )
    monkeypatch.setattr(
        module, "systemctl", lambda *words: said if len(words) > 1 else "NFailedUnits=1\n"
    )
    found = values(module.read({"unit": {"a": "x", "b.timer": "y"}}))
    assert found["active", "a"] == 1
    assert found["restarts", "a"] == 2
    assert found["cpu_ns", "a"] == 900
    assert found["active", "b.timer"] == 0
    assert ("cpu_ns", "b.timer") not in found
    assert found["failed_units"] == 1


def test_a_failed_unit_is_named_until_it_is_mended_and_then_as_mended(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that is no longer sent stands for minutes: so the last one is 0."""
    module = reader("unit")
    failed: list[str] = []

    def systemctl(*words: str) -> str:
        if words == ("--property=NFailedUnits",):
            return f"NFailedUnits={len(failed)}\n"
        if "--state=failed" in words:
            return "\n\n".join(f"Id={name}" for name in failed)
        return "Id=a.service\nActiveState=active\n"

    def named() -> dict[str, int]:
        found = values(module.read({"unit": {}}))
        return {
            key[1]: found[key] for key in found if isinstance(key, tuple) and key[0] == "failed"
        }

    monkeypatch.setattr(module, "systemctl", systemctl)
    assert named() == {}
    failed[:] = ["mail.service", "backup.timer"]
    assert named() == {"mail": 1, "backup.timer": 1}
    failed[:] = ["backup.timer"]
    assert named() == {"mail": 0, "backup.timer": 1}
    assert named() == {"backup.timer": 1}
    failed[:] = [f"x{number}.service" for number in range(100)]
    assert sum(named().values()) == module.NAMED


def test_a_stopped_process_is_frozen(reader: Reader) -> None:
    module = reader("unit")
    process = subprocess.Popen(["sleep", "60"])
    try:
        assert module.frozen(process.pid) == 0
        process.send_signal(19)
        deadline = time.monotonic() + 120
        while not module.frozen(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert module.memory([str(process.pid), "0"]) > 0
    finally:
        process.kill()
        process.wait()
    assert module.frozen(process.pid) == 0


# --- sockets --------------------------------------------------------------------------------------


@contextmanager
def answering(family: int, address: Any, serve: Callable[[socket.socket], None]) -> Iterator[Any]:
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()

        def loop() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                with link:
                    serve(link)

        threading.Thread(target=loop, daemon=True).start()
        yield server.getsockname()


INFO = "used_memory:100\r\nmaxmemory:1000\r\naof_last_write_status:err\r\nrole:master\r\n"


def redis(answers: dict[str, bytes]) -> Callable[[socket.socket], None]:
    def serve(link: socket.socket) -> None:
        stream = link.makefile("rwb")
        while line := stream.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int(stream.readline()[1:])
                words.append(stream.read(size + 2)[:-2].decode())
            stream.write(answers[words[0]])
            stream.flush()

    return serve


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def asked(module: ModuleType, tmp_path: Path, address: tuple[str, int]) -> dict[Any, Any]:
    password = tmp_path / "password"
    password.write_text("secret", encoding="ascii")
    host, port = address
    settings = {"address": host, "port": port, "user": "monitor", "count": "counter:seen"}
    return values(module.read({**settings, "password": str(password)}))


def test_redis(reader: Reader, tmp_path: Path) -> None:
    answers = {"AUTH": b"+OK\r\n", "INFO": bulk(INFO), "GET": bulk("42")}
    with answering(socket.AF_INET, ("127.0.0.1", 0), redis(answers)) as address:
        found = asked(reader("redis"), tmp_path, address)
    assert found["up"] == 1
    assert found["count"] == 42
    assert (found["memory_bytes"], found["memory_limit_bytes"]) == (100, 1000)
    assert (found["aof_write_ok"], found["master"]) == (0, 1)


def test_a_redis_that_is_away_or_loading_is_a_value(reader: Reader, tmp_path: Path) -> None:
    loading = {"AUTH": b"+OK\r\n", "INFO": b"-LOADING it\r\n"}
    with answering(socket.AF_INET, ("127.0.0.1", 0), redis(loading)) as address:
        assert asked(reader("redis"), tmp_path, address) == {"up": 0}
    assert asked(reader("redis"), tmp_path, address) == {"up": 0}


def test_a_redis_that_refuses_the_password_is_the_readers_trouble(
    reader: Reader, tmp_path: Path
) -> None:
    with answering(
        socket.AF_INET, ("127.0.0.1", 0), redis({"AUTH": b"-WRONGPASS no\r\n"})
    ) as address:
        with pytest.raises(RuntimeError, match="WRONGPASS"):
            asked(reader("redis"), tmp_path, address)


def test_fail2ban(reader: Reader, tmp_path: Path) -> None:
    module = reader("fail2ban")
    jail = [
        ("Filter", [("Currently failed", 1), ("Total failed", 9), ("File list", [])]),
        ("Actions", [("Currently banned", 2), ("Total banned", 3), ("Banned IP list", [])]),
    ]

    def serve(link: socket.socket) -> None:
        said = b""
        while not said.endswith(module.END):
            said += link.recv(4096)
        words = pickle.loads(said[: -len(module.END)])
        answer = jail if len(words) > 1 else [("Number of jail", 1), ("Jail list", "sshd")]
        link.sendall(pickle.dumps((0, answer)) + module.END)

    path = str(tmp_path / "socket")
    with answering(socket.AF_UNIX, path, serve):
        found = values(module.read({"socket": path}))
    assert found["up"] == 1
    assert found["banned", "sshd"] == 2
    assert found["bans", "sshd"] == 3
    assert found["failures", "sshd"] == 9
    assert values(module.read({"socket": str(tmp_path / "none")})) == {"up": 0}


def test_fail2bans_answer_can_name_no_code(reader: Reader, tmp_path: Path) -> None:
    module = reader("fail2ban")
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    import io

    module.Plain(io.BytesIO(pickle.dumps((0, Evil())))).load()
    assert not mark.exists()


@contextmanager
def serving(answers: dict[str, bytes]) -> Iterator[int]:
    """Port of a server on loopback: 200 and that body for a path of ``answers``, else 503."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in answers else 503)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b""))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_counter(reader: Reader) -> None:
    with serving({"/healthz": b""}) as port, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        instances = {"1": port, "2": nobody.getsockname()[1]}
        settings = {"address": "127.0.0.1", "alive": "/healthz", "ready": "/readyz"}
        found = values(reader("counter").read({**settings, "instances": instances}))
    assert found == {("up", "1"): 1, ("ready", "1"): 0, ("up", "2"): 0, ("ready", "2"): 0}


def test_firewalld(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    module = reader("firewalld")
    counters = [
        {"counter": {"name": name, "packets": packets, "bytes": packets * 10}}
        for name, packets in (("arrived", 9), ("accepted", 4))
    ]
    monkeypatch.setattr(
        module,
        "run",
        lambda words: SimpleNamespace(
            returncode=int(words is module.PING),
            stdout=json.dumps({"nftables": counters}),
            stderr="",
        ),
    )
    assert values(module.read({})) == {"up": 0, "denied_packets": 5, "denied_bytes": 50}


def test_shipper(reader: Reader, tmp_path: Path) -> None:
    module = reader("shipper")
    path = tmp_path / "metrics.json"
    settings = {"metrics": str(path)}
    assert values(module.read(settings)) == {"up": 0}
    metrics = {"time": time.time(), "connected": 1, "lag_seconds": 0.5, "sent": 7}
    metrics |= {"lost": 3, "lost_time": 5}
    path.write_text(json.dumps(metrics), encoding="ascii")
    found = values(module.read(settings))
    assert (found["lag_seconds"], found["lost"], found["lost_time"]) == (0.5, 3, 5)
    path.write_text(json.dumps({**metrics, "time": time.time() - 60}), encoding="ascii")
    assert values(module.read(settings)) == {"up": 0}


# --- collectd's side ------------------------------------------------------------------------------


def test_an_exception_is_told_as_a_reader_that_fails_once(
    load_source: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[tuple[str, str, float]] = []
    words: list[str] = []

    class Values:
        def __init__(self, **given: Any) -> None:
            self.given = given

        def dispatch(self) -> None:
            one = self.given
            sent.append((one["plugin"], one["type"], one["values"][0]))

    collectd = SimpleNamespace(
        Values=Values,
        warning=words.append,
        notice=words.append,
        register_config=lambda one: None,
        register_init=lambda one: None,
    )
    monkeypatch.setitem(sys.modules, "collectd", collectd)
    stack = load_source("salt/collectd/files/stack.py")
    source = tmp_path / "shop.py"
    source.write_text(
        "def read(settings):\n    yield 'up', 1\n    if settings['bad']: raise OSError('gone')\n",
        encoding="ascii",
    )
    made = {"path": str(source), "settings": {"bad": True}, "metrics": {"up": "gauge"}}
    one = stack.Reader("shop", {**made, "credentials": {}})
    one()
    one()
    assert ("shop", "up", 1) in sent
    assert [value for _, kind, value in sent if kind == "ok"] == [0, 0]
    assert "ok_time" not in {kind for _, kind, _ in sent}
    assert words == ["reader shop: OSError: gone"]
    one.settings["bad"] = False
    one()
    assert words[-1] == "reader shop: recovered"
    assert [value for _, kind, value in sent if kind == "ok"][-1] == 1
    one.metrics = frozenset()
    one()
    assert "not among its metrics" in words[-1]


# --- metrics.yaml.j2 ------------------------------------------------------------------------------


def test_types_are_written_once_and_of_one_kind(load_source: Callable[..., ModuleType]) -> None:
    def of(*kinds: str) -> ModuleType:
        given = {
            f"f{index}": {
                "required_series": ["x"],
                "readers": {f"r{index}": {"metrics": {"up": "gauge", "orders": kind}}},
            }
            for index, kind in enumerate(kinds)
        }
        return load_source(
            "salt/_modules/metrics.py",
            salt={
                "formula.collect": lambda name: given,
                "topology.machine": lambda: {"roles": []},
            },
        )

    lines = of("counter", "counter").types()
    assert "up value:GAUGE:U:U" in lines
    assert lines.count("orders value:DERIVE:0:U") == 1
    with pytest.raises(Exception, match="orders is a gauge here and a counter elsewhere"):
        of("counter", "gauge").types()


def test_filebeat(reader: Reader, tmp_path: Path) -> None:
    """What the target acknowledged, and how full the queue on disk is."""
    queue = tmp_path / "diskqueue"
    queue.mkdir()
    (queue / "0.seg").write_bytes(b"x" * 300)
    (queue / "1.seg").write_bytes(b"x" * 200)
    stats = {
        "libbeat": {
            "output": {"events": {"acked": 7, "dropped": 1}},
            "pipeline": {"events": {"published": 9}},
        }
    }
    settings = {"queue": str(queue), "queue_bytes": 1000}
    with serving({"/stats": json.dumps(stats).encode()}) as port:
        found = values(reader("filebeat").read({**settings, "port": port}))
    assert found == {"up": 1, "published": 9, "acked": 7, "dropped": 1, "queue_ratio": 0.5}
    # Nobody is there, and somebody else is.
    assert values(reader("filebeat").read({**settings, "port": port})) == {"up": 0}
    with serving({"/stats": b"hello"}) as other:
        assert values(reader("filebeat").read({**settings, "port": other})) == {"up": 0}
    # The first start: no queue yet.
    with serving({"/stats": json.dumps(stats).encode()}) as port:
        found = values(
            reader("filebeat").read(
                {"port": port, "queue": str(tmp_path / "none"), "queue_bytes": 1}
            )
        )
    assert found["queue_ratio"] == 0
