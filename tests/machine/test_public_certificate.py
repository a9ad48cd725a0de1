"""A certificate of a public authority, by itself: pebble, Debian's authority for tests, runs on the machine and
refuses each fifth request for its nonce.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_machine import Lab

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
    assert "0 failed" in settle(lab, authority)
    assert served(lab) == second, "an apply keeps it"
    assert "0 changed, 0 failed" in settle(lab, authority)
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
