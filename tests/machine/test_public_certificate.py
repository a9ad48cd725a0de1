"""A certificate of a public authority, by itself: pebble, Debian's authority for tests, runs on the machine and
refuses each fifth request for its nonce.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_machine import Lab, Outsider

DIRECTORY = "https://localhost:14000/dir"
NAMES = ["counter.test", "www.counter.test"]
# Certificates for ten days: one is due at once. A short way to a name server of its own.
PEBBLE = {
    "pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/run/authority/api.pem",
        "privateKey": "/run/authority/api.key",
        "httpPort": 80,
        "tlsPort": 443,
        "certificateValidityPeriod": 864000,
    }
}
MAKE = """
set -e
command -v pebble >/dev/null || {
    apt-get -qq update >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends pebble >/dev/null
}
mkdir -p /run/authority
cat >/run/authority/pebble.json
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=pebble \
    -addext subjectAltName=DNS:localhost -keyout /run/authority/api.key -out /run/authority/api.pem 2>/dev/null
systemd-run -q --unit test-names pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 '' -http01 '' -https01 '' \
    -tlsalpn01 '' -doh '' -dns01 127.0.0.1:8054 -management 127.0.0.1:8055
"""
START = (
    "systemd-run -q --unit test-authority --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=20"
    " --setenv=PEBBLE_AUTHZREUSE=0 pebble -config /run/authority/pebble.json -dnsserver 127.0.0.1:{port}"
)
# New connections, their statuses kept.
LOAD = (
    "while [ ! -e /run/authority/enough ]; do"
    ' curl -sk -m 10 -o /dev/null -w "%{http_code} " https://127.0.0.1/; done >/run/authority/load'
)
# Another computer's answer to whatever an authority asks there.
OTHER = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"nothing of ours")
    def log_message(self, *_):
        pass
http.server.HTTPServer(("", 80), Answer).serve_forever()
"""
# Any account of the machine, on the port where the challenge was answered once.
INTRUDER = """
import socket
with socket.create_server(("127.0.0.1", 8409)) as server:
    while True:
        server.accept()[0].sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nmine")
"""
STOP = "systemctl stop {units} 2>/dev/null; systemctl reset-failed {units} 2>/dev/null; true"


def start(lab: Lab, port: int = 8054) -> None:
    """The authority, which asks the name server on that port, and knows no account of one before it."""
    lab.run("rm -rf /var/lib/haproxy-acme/*/accounts")
    lab.run(START.format(port=port))
    ready = "curl -sf -o /dev/null --cacert /run/authority/api.pem " + DIRECTORY
    lab.wait("the authority", lambda: lab.run(f"{ready} && echo yes", check=False) != "")


@pytest.fixture(scope="module")
def authority(lab: Lab) -> Iterator[dict[str, Any]]:
    """The authority's settings for the machine, which is as before in the end."""
    if lab.topology == "kitchen":
        pytest.skip("Test Kitchen's machine is not converged by make apply")
    units = "test-authority test-names test-dns test-load"
    lab.run(STOP.format(units=units))
    try:
        lab.run(MAKE, data=json.dumps(PEBBLE), timeout=300)
        start(lab)
        yield {
            "directory": DIRECTORY,
            "email": "operators@counter.test",
            "agree": True,
            "names": NAMES,
            "ca": lab.run("cat /run/authority/api.pem"),
        }
    finally:
        lab.run(STOP.format(units=units))
        lab.run("rm -rf /var/lib/haproxy-acme; systemctl reset-failed haproxy-acme", check=False)
        # What the authority gave is no longer wanted: the next apply makes the machine's own.
        lab.apply(SLS="haproxy")
        assert lab.status("healthz") == 200, "its own serves again"


def settle(lab: Lab, acme: dict[str, Any]) -> str:
    return lab.apply(SLS="haproxy", PILLAR=json.dumps({"haproxy": {"acme": acme}})).stdout


def served(lab: Lab, name: str = NAMES[0]) -> str:
    """Issuer, serial and names of the certificate that a client of that name gets."""
    ask = f"openssl s_client -connect 127.0.0.1:443 -servername {name} </dev/null 2>/dev/null"
    return lab.run(f"{ask} | openssl x509 -noout -issuer -serial -ext subjectAltName")


def order(lab: Lab) -> bool:
    """Whether the service, which the timer would start, ended well."""
    return lab.run("systemctl start haproxy-acme && echo yes", check=False) != ""


def is_idle(lab: Lab) -> bool:
    """Whether no order runs: the timer begins one two seconds after each apply that changed it."""
    state = lab.run("systemctl show -P ActiveState haproxy-acme.service").strip()
    return state in ("inactive", "failed")


def last(lab: Lab) -> str:
    return lab.run("journalctl -u haproxy-acme -o cat -n 30")


@pytest.mark.one_release
def test_a_public_certificate_is_ordered_served_and_renewed_without_a_lost_request(
    lab: Lab, authority: dict[str, Any]
) -> None:
    before = lab.count()
    # Whoever signed it: the certificate changes under the load. Each request on a connection of its own.
    lab.run(f"rm -f /run/authority/enough; systemd-run -q --unit test-load sh -c '{LOAD}'")
    try:
        settle(lab, authority)
        lab.wait("a certificate", lambda: "Pebble" in served(lab))
        first = served(lab)
        assert "DNS:counter.test, DNS:www.counter.test" in first
        process = lab.run("systemctl show -p MainPID,InvocationID haproxy; pgrep -xn haproxy")
        assert order(lab), "due: it is for ten days"
        second = served(lab)
        assert "Pebble" in second and second != first
        assert process == lab.run(
            "systemctl show -p MainPID,InvocationID haproxy; pgrep -xn haproxy"
        )
    finally:
        lab.run("touch /run/authority/enough")
    lab.wait("its end", lambda: lab.run("systemctl is-active test-load", check=False) != "active\n")
    statuses = lab.run("cat /run/authority/load").split()
    assert len(statuses) > 20 and set(statuses) == {"200"}, set(statuses)
    assert lab.count() == before + len(statuses)
    assert "0 changed, 0 failed" in settle(lab, authority)
    assert served(lab) == second, "an apply keeps it"
    # As any client that trusts the authority.
    root = "curl -sk https://127.0.0.1:15000/roots/0 >/run/authority/root.pem"
    get = "curl -s --cacert /run/authority/root.pem --resolve {0}:443:127.0.0.1 https://{0}/healthz"
    lab.run(root)
    for name in NAMES:
        lab.run(f"{get.format(name)} -f -o /dev/null")
    lab.run("systemctl reload haproxy")
    assert served(lab) == second, "it is on the disk too"


@pytest.mark.one_release
def test_while_the_authority_is_away_what_is_there_serves_and_the_unit_says_so(
    lab: Lab, authority: dict[str, Any]
) -> None:
    settle(lab, authority)
    lab.wait("a certificate", lambda: "Pebble" in served(lab))
    there = served(lab)
    lab.run(STOP.format(units="test-authority"))
    try:
        assert not order(lab)
        assert served(lab) == there
        assert lab.run("systemctl is-failed haproxy-acme", check=False).strip() == "failed"
        assert "gave no certificate, what is there goes on serving" in last(lab)
        # It does not ask again and again.
        assert not order(lab)
        assert "tried 1 times, again in" in last(lab)
    finally:
        start(lab)
    # The alert is that of any failed unit.
    lab.wait(
        "it is measured",
        lambda: (
            "haproxy-acme"
            in lab.run("curl -s localhost:9103/metrics | grep unit_failed", check=False)
        ),
    )


@pytest.mark.one_release
def test_a_name_that_leads_elsewhere_is_refused_and_tried_before_it_is_asked_for(
    lab: Lab, authority: dict[str, Any]
) -> None:
    """`TEST=1` asks the staging directory, which is the same one here; then the order itself fails, and nothing is lost."""
    settle(lab, authority)
    lab.wait("a certificate", lambda: "Pebble" in served(lab))
    there, before = served(lab), lab.run("cat /etc/stack/acme/settings.json")
    wrong = {**authority, "staging": DIRECTORY, "names": [*NAMES, "elsewhere.test"]}

    def tried(acme: dict[str, Any], **more: Any) -> Any:
        pillar = json.dumps({"haproxy": {"acme": acme, **more}})
        return lab.apply(SLS="haproxy", PILLAR=pillar, TEST="1", check=False)

    with Outsider(lab, 5) as other:
        elsewhere = other.start("python3", "-c", OTHER)
        try:
            lab.wait("it answers", lambda: other.connects(80, other.address))
            lead = json.dumps({"host": "elsewhere.test", "addresses": [other.address]})
            lab.run(f"curl -sf -d '{lead}' http://127.0.0.1:8055/add-a")
            # With another change of HAProxy's beside it: the trial is not put off for that.
            done = tried(wrong, maxconn=3000)
            assert done.returncode != 0
            assert f"{DIRECTORY} would give no certificate" in done.stdout, done.stdout
            assert "elsewhere.test" in done.stdout
            assert lab.run("cat /etc/stack/acme/settings.json") == before
            lab.run("systemctl reset-failed haproxy-acme", check=False)
            settle(lab, wrong)
            lab.wait(
                "the order has failed",
                lambda: "failed" in lab.run("systemctl is-failed haproxy-acme", check=False),
            )
            assert "gave no certificate, what is there goes on serving" in last(lab)
            assert "elsewhere.test" in last(lab)
            assert served(lab) == there
        finally:
            elsewhere.kill()
            elsewhere.wait()
            lab.run('curl -sf -d \'{"host": "elsewhere.test"}\' http://127.0.0.1:8055/clear-a')
            settle(lab, authority)
            lab.run("rm -f /var/lib/haproxy-acme/*/failures.json")
            lab.run("systemctl reset-failed haproxy-acme", check=False)
    # With a name that leads here it would come, and is not kept. No order of the timer's comes in between: each of these
    # certificates is due at once.
    lab.run("systemctl stop haproxy-acme.timer")
    lab.wait("no order runs", lambda: is_idle(lab))
    there = served(lab)
    asked = lab.run(
        "journalctl -u test-authority -o cat | grep -c 'Issued certificate'", check=False
    )
    more = {**wrong, "names": [*NAMES, "more.test"]}
    done = tried(more)
    assert done.returncode == 0, done.stdout
    again = lab.run(
        "journalctl -u test-authority -o cat | grep -c 'Issued certificate'", check=False
    )
    lab.run("systemctl start haproxy-acme.timer")
    assert int(again) == int(asked) + 1
    assert served(lab) == there


@pytest.mark.one_release
def test_no_other_account_can_answer_an_authority(lab: Lab, authority: dict[str, Any]) -> None:
    settle(lab, authority)
    lab.run("cat >/run/authority/intruder.py; chmod 644 /run/authority/intruder.py", data=INTRUDER)
    lab.run("chmod 755 /run/authority")
    lab.run("systemd-run -q --unit test-intruder --uid nobody python3 /run/authority/intruder.py")
    try:
        lab.wait(
            "it listens", lambda: "mine" in lab.run("curl -s http://127.0.0.1:8409/", check=False)
        )
        url = "http://127.0.0.1/.well-known/acme-challenge/token"
        # Whether an order runs or not.
        said = lab.run(f"curl -s -w ' %{{http_code}}' {url}")
        assert said.split()[-1] in ("404", "503") and "mine" not in said
        # Nor where it is answered: the folder is its own.
        listen = "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('/run/haproxy-acme/challenge')\""
        said = lab.run(f"runuser -u nobody -- {listen} 2>&1", check=False)
        assert "Error" in said
    finally:
        lab.run(STOP.format(units="test-intruder"))


@pytest.mark.one_release
def test_the_account_is_in_the_backup_and_comes_back(lab: Lab, authority: dict[str, Any]) -> None:
    settle(lab, authority)
    lab.wait("a certificate", lambda: "Pebble" in served(lab))
    files = "cd /var/lib/haproxy-acme && find . -type f -name '*.key' -o -name account.json | sort | xargs sha256sum"
    account = lab.run(files)
    assert "account.json" in account
    # What may be in a backup is of the whole configuration.
    pillar = json.dumps({"haproxy": {"acme": authority}})
    lab.apply(SLS="backup", PILLAR=pillar)
    try:
        assert "haproxy-acme" in lab.make("backup").stdout
        lab.run("rm -rf /var/lib/haproxy-acme")
        said = lab.run("stack-backup restore --folder haproxy-acme --yes")
        assert "restored: /var/lib/haproxy-acme" in said
        assert lab.run(files) == account
        assert lab.run("stat -c %U:%a /var/lib/haproxy-acme").strip() == "stack-acme:700"
        # It is used: no other one is registered.
        assert order(lab)
        assert lab.run(files) == account
    finally:
        lab.run("rm -rf /var/lib/.before-restore-haproxy-acme-* /var/backups/store/*")
        lab.apply(SLS="backup")


@pytest.mark.nightly("a name server of its own, and the machine's resolver changed: half a minute")
@pytest.mark.one_release
def test_a_wildcard_is_proven_by_a_record_at_digitalocean(
    lab: Lab, authority: dict[str, Any]
) -> None:
    code = Path(__file__).with_name("dns_stand_in.py").read_text(encoding="utf-8")
    token = "dop_v1_of_a_test"
    resolver = lab.run("readlink /etc/resolv.conf").strip()
    lab.run("cat >/run/authority/dns.py", data=code)
    lab.run("umask 077; cat >/etc/stack/secrets/acme-dns", data=token)
    lab.run(STOP.format(units="test-authority"))
    lab.run(f"systemd-run -q --unit test-dns python3 /run/authority/dns.py counter.test {token}")
    try:
        start(lab, 53)
        lab.run(
            "ln -sf /run/authority/resolv.conf /etc/resolv.conf; echo nameserver 127.0.0.1 >/run/authority/resolv.conf"
        )
        names = ["counter.test", "*.counter.test"]
        wildcard = {
            "names": names,
            "challenge": "dns",
            "token": "acme-dns",
            "dns_api": "http://127.0.0.1:8053",
        }
        settle(lab, {**authority, **wildcard})
        lab.wait("a certificate", lambda: "DNS:*.counter.test" in served(lab, "any.counter.test"))
        said = lab.run("journalctl -u test-dns -o cat")
        assert said.count("made _acme-challenge.counter.test") == 2
        assert said.count("removed _acme-challenge.counter.test") == 2
        assert token not in last(lab)
    finally:
        lab.run(f"ln -sfn {resolver} /etc/resolv.conf; rm -f /etc/stack/secrets/acme-dns")
        lab.run(STOP.format(units="test-dns test-authority"))
        start(lab)
