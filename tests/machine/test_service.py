"""What a client and a neighbour see of a machine that `make up` made."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest
from alarm import forget, wait_until_quiet
from lab_machine import Lab

pytestmark = pytest.mark.differs("what a client meets: HAProxy 2.6, OpenSSL 3.0, Redis 7.0")
UNITS = ("haproxy", "redis-server", "counter@1", "counter@2")


@pytest.mark.controller
def test_up_ends_with_the_url_and_a_table_of_services(lab: Lab) -> None:
    output = lab.up_output
    assert output.strip().splitlines()[-1] == lab.url
    assert f"--cacert .lab/{lab.topology}/ca.pem" in output
    for unit in UNITS:
        assert re.search(rf"{lab.host} .* {unit} +active ", output), unit
    assert re.search(r"\[ *\d+/\d+\] +\d+\.\ds  .+: (ok|changed)", output), "no progress lines"


@pytest.mark.parametrize("unit", UNITS)
def test_service_runs_and_starts_at_boot(lab: Lab, unit: str) -> None:
    service = lab.testinfra.service(unit)
    assert service.is_running
    assert service.is_enabled


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_sandboxed(lab: Lab, unit: str) -> None:
    said = lab.run(f"systemd-analyze security --no-pager {unit}.service | tail -1")
    exposure = float(re.search(r": ([0-9.]+) ", said).group(1))  # type: ignore[union-attr]
    assert exposure <= 2.0, said


def test_only_ssh_and_the_edge_listen_beyond_loopback(lab: Lab) -> None:
    public = set()
    for line in lab.run("ss -Hltn").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if not address.startswith(("127.", "[::1]")):
            public.add(int(port))
    assert public == {22, 80, 443}
    # UDP: nothing but the client of a DHCP server.
    asked = [line.split()[3] for line in lab.run("ss -Hlnu").splitlines()]
    assert {one.rpartition(":")[2] for one in asked if not one.startswith(("127.", "[::1]"))} <= {
        "68",
        "546",
    }


def test_each_get_counts_once_with_the_exact_text(lab: Lab) -> None:
    first = lab.see()
    assert lab.see() == first + 1
    assert lab.count() == first + 1


@pytest.mark.parametrize(
    ("path", "words", "code"),
    [
        ("", ("-I",), 200),
        ("", ("-X", "POST"), 405),
        ("", ("-X", "PUT", "-d", "x"), 405),
        ("favicon.ico", (), 404),
        ("healthz", (), 200),
        ("readyz", (), 200),
        ("version", (), 200),
        ("nope", (), 404),
    ],
)
def test_nothing_but_get_root_counts(
    lab: Lab, path: str, words: tuple[str, ...], code: int
) -> None:
    before = lab.count()
    assert lab.status(path, *words) == code
    assert lab.count() == before


def test_health_checks_do_not_count(lab: Lab) -> None:
    def checks() -> int:
        said = lab.run(
            "curl -s http://127.0.0.1:8405/metrics | grep '^haproxy_server_check_last_change\\|^haproxy_server_status'",
            check=False,
        )
        return len(said)

    before = lab.count()
    asked = lab.run("journalctl -u counter@1 -o cat | wc -l")
    # Twenty checks of each instance, as HAProxy makes them, and then its own of two seconds.
    lab.run("for i in $(seq 20); do curl -sf -o /dev/null http://127.0.0.1:8001/readyz; done")
    lab.wait("HAProxy's own checks", lambda: checks() > 0)
    assert lab.count() == before
    assert lab.run("journalctl -u counter@1 -o cat | wc -l") == asked, (
        "a passing check is no log line"
    )


def test_http_only_redirects_and_counts_nothing(lab: Lab) -> None:
    before = lab.count()
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{redirect_url}",
            f"http://{lab.address}/x?y=1",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    code, target = done.stdout.split()
    assert code in ("301", "308")
    assert target == f"https://{lab.address}/x?y=1"
    assert lab.count() == before


def test_a_client_can_verify_the_certificate(lab: Lab) -> None:
    outsider = subprocess.run(
        [
            "curl",
            "-sS",
            "--capath",
            "/nonexistent",
            "--cacert",
            "/etc/ssl/certs/ca-certificates.crt",
            f"{lab.url}healthz",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert outsider.returncode == 60, "only the machine's own CA vouches for it"
    for name in ("counter.test", "localhost", lab.name):
        answer = lab.curl(
            "healthz",
            "--connect-to",
            f"::{lab.address}:443",
            "--resolve",
            f"{name}:443:{lab.address}",
        )
        assert answer == "ok\n", name


@pytest.mark.parametrize(
    ("versions", "accepted"), [("1.0", False), ("1.1", False), ("1.2", True), ("1.3", True)]
)
def test_tls_versions(lab: Lab, versions: str, accepted: bool) -> None:
    # Debian's curl may itself refuse old versions: openssl at security level 0 does not.
    flag = f"-tls{versions.replace('.', '_').removesuffix('_0')}"
    done = subprocess.run(
        [
            "openssl",
            "s_client",
            "-connect",
            f"{lab.address}:443",
            flag,
            "-cipher",
            "ALL:@SECLEVEL=0",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    negotiated = re.search(r"Cipher is (\S+)", done.stdout)
    assert (negotiated is not None and negotiated.group(1) != "(NONE)") is accepted, done.stdout[
        -400:
    ]


def test_http2_hsts_and_no_store(lab: Lab) -> None:
    head = lab.curl("", "-D", "-", "--http2").lower()
    assert head.startswith("http/2 200")
    assert "strict-transport-security: max-age=31536000" in head
    assert "cache-control: no-store" in head
    assert "server:" not in head


def test_request_id_is_ours_and_reaches_the_application_log(lab: Lab) -> None:
    # An ordinary answer has HAProxy's line alone; one of 400 and above the application's as well.
    head = lab.curl("nope", "-D", "-", "-H", "X-Request-ID: forged")
    given = re.findall(r"(?im)^x-request-id: (\S+)", head)
    assert len(given) == 1
    assert given[0] != "forged"

    def logged(unit: str) -> list[dict[str, object]]:
        lines = lab.run(f"journalctl -u '{unit}' -o cat --since -1h | grep -F {given[0]} || true")
        return [json.loads(line) for line in lines.splitlines()]

    for unit in ("haproxy", "counter@*"):
        lab.wait(f"the line of {unit}", lambda unit=unit: len(logged(unit)) == 1)  # type: ignore[misc]
        line = logged(unit)[0]
        assert line["request_id"] == given[0]
        assert line["status"] == 404


def test_a_query_string_is_in_no_log(lab: Lab) -> None:
    """Nor what a browser says it came from: forms and links put secrets there."""
    word, began = f"q{time.time_ns()}", lab.moment()
    plain = f"http://{lab.address}/"
    for words in (
        (f"?a={word}",),
        (f"elsewhere?a={word}",),
        (f"?a={word}", "-X", "POST"),
        (f"?a={word}", "-X", "PUT"),
        (f"elsewhere?a={word}", "-I"),
        ("", "-H", f"Referer: https://x/?a={word}"),
        ("", "--url", f"{plain}?a={word}"),
        # Refused by HAProxy itself.
        (f"?a={word}", "-H", f"X-Big: {'a' * 20000}"),
    ):
        lab.curl(*words)
    last = lab.curl("nope", "-D", "-", "-o", "/dev/null")
    (request,) = re.findall(r"(?im)^x-request-id: (\S+)", last)
    lines = f"journalctl --since {began} -o cat -u haproxy -u 'counter@*' | grep -F {request}"
    lab.wait("the last one's lines", lambda: lab.run(f"{lines} || true").count("\n") == 2)
    said = lab.run(f"journalctl --since {began} -o cat -u haproxy -u 'counter@*'")
    assert said.count("\n") >= 10
    assert word not in said


def test_version_names_the_artifact(lab: Lab) -> None:
    told = json.loads(lab.curl("version"))
    assert set(told) >= {"version", "commit", "sha256"}
    stored = lab.run(f"cat /opt/counter/releases/{told['version']}/artifact.sha256").strip()
    assert told["sha256"] == stored


def test_figures_are_not_public(lab: Lab) -> None:
    assert lab.status("metrics") == 404
    refused = subprocess.run(
        ["curl", "-sS", "--max-time", "5", f"http://{lab.address}:8405/metrics"],
        capture_output=True,
        timeout=120,
    )
    assert refused.returncode == 7, "connection refused from outside"
    assert "haproxy_server_status" in lab.run("curl -s http://127.0.0.1:8405/metrics")


@pytest.mark.controller
def test_status_names_an_unhealthy_service_and_fails(lab: Lab) -> None:
    forget(lab)
    wait_until_quiet(lab)
    lab.wait_for_status()
    lab.run("systemctl stop redis-server")
    try:
        told = lab.make("-s", "status", check=False)
        assert told.returncode != 0
        assert re.search(r"redis-server +inactive", told.stdout), told.stdout
    finally:
        lab.run("systemctl start redis-server")


def test_secrets_are_for_root_alone(lab: Lab) -> None:
    assert lab.run("stat -c '%a %U' /etc/stack/secrets").strip() == "700 root"
    for name in lab.run("ls /etc/stack/secrets").split():
        assert lab.run(f"stat -c '%a %U' /etc/stack/secrets/{name}").strip() == "600 root"
        with lab.needle(name) as needle:
            for place in ("/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"):
                found = lab.run(f"grep -lzF -f {needle} {place} 2>/dev/null || true")
                assert found == "", f"{name} is in {place}"
            found = lab.run(
                f"grep -rlF -f {needle} /etc /srv /opt/counter /var/log /var/lib 2>/dev/null"
                " | grep -v '^/etc/stack/secrets/' || true"
            )
            assert found == "", f"{name} lies open in {found}"
            assert lab.run(f"journalctl | grep -cF -f {needle} || true").strip() == "0"


def test_the_application_may_only_count_its_key(lab: Lab) -> None:
    def as_application(command: str) -> str:
        return lab.run(
            f"REDISCLI_AUTH=$(cat /etc/stack/secrets/redis-counter) redis-cli --user counter --no-auth-warning {command} 2>&1"
        )

    for command in (
        "FLUSHALL",
        "CONFIG GET dir",
        "KEYS '*'",
        "GET counter:seen",
        "INCR other",
        "ACL LIST",
    ):
        assert "NOPERM" in as_application(command), command
    assert "NOAUTH" in lab.run("redis-cli INCR counter:seen 2>&1") or "NOPERM" in lab.run(
        "redis-cli INCR counter:seen 2>&1"
    )
    assert as_application("PING") == "PONG\n"


def test_no_compiler_is_left_on_the_machine(lab: Lab) -> None:
    assert lab.run("command -v gcc cc c++ clang tcc || true") == ""
    assert lab.run("ls /opt/salt/bin | grep -c '^pip' || true").strip() == "0"
