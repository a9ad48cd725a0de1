"""HTTP/3, asked by the machine's own curl: that of Debian 13 speaks it."""

from __future__ import annotations

import json
import re

import pytest
from lab_machine import TEXT, Lab

pytestmark = [
    pytest.mark.controller,
    pytest.mark.one_release,
    pytest.mark.nightly(
        "two applies for a protocol that is off by default; its rules are test_haproxy_applications.py's"
    ),
]
SLS = "haproxy,firewalld"


def test_by_http3_requests_are_counted_and_nothing_of_it_stays(
    lab: Lab,
) -> None:
    curl = f"curl -sk --max-time 60 --http3-only 'https://{lab.address}/"
    assert lab.run(f"{curl}healthz'", check=False) == "", "off by default"
    try:
        lab.apply(SLS=SLS, PILLAR=json.dumps({"haproxy": {"http3": True}}))
        assert 'h3=":443"' in lab.curl("healthz", "-D", "-")
        before = lab.count()
        said = lab.run(f"{curl}?[1-300]'")
        assert [int(one) for one in TEXT.findall(said)] == list(range(before + 1, before + 301))
        assert lab.count() == before + 300
        # HAProxy 3.0 may close the connection before its last answer has left, and curl asks again: counted, and no number twice.
        said = lab.run(f"{curl}?[1-300]' & sleep 0.2; systemctl reload haproxy; wait")
        numbers = [int(one) for one in TEXT.findall(said)]
        assert len(numbers) == 300 and numbers == sorted(set(numbers))
        assert lab.count() - before - 600 in (0, 1)
        asked = lab.run(f"{curl}version' -w '\\n%{{http_version}} %{{ssl_verify_result}}'")
        assert asked.splitlines()[-1].startswith("3 ")
        lines = lab.run('journalctl -u haproxy -o cat --since -5min | grep \'"frontend":"https3"\'')
        last = json.loads(lines.splitlines()[-1])
        assert (last["http_version"], last["path"]) == ("HTTP/3.0", "/version")
        assert lab.run(f"{curl}.env' -o /dev/null -w '%{{http_code}}'") == "403"
        bans = lab.run("nft list table inet fail2ban")
        assert re.search(
            r"meta l4proto \{ tcp, udp \} th dport \{ 80, 443 \} .*haproxy-scan-4 drop", bans
        )
    finally:
        lab.apply(SLS=SLS)
    assert lab.run(f"{curl}healthz'", check=False) == ""
    assert ":443 " not in lab.run("ss -Hlnu")
    assert "alt-svc" not in lab.curl("healthz", "-D", "-").lower()
