"""A service that `make new-service` laid out and docs/develop/add-a-service.md finished, on a machine that is up."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from bare_machine import upload
from lab_machine import Lab

from control import new_service
from tests import page
from tests.checkout import copy_checkout

CHECKOUT = "/root/checkout"
STATS = r'exec 3<>/dev/tcp/127.0.0.1/11211; printf "stats\r\nquit\r\n" >&3; cat <&3'


@pytest.mark.controller
@pytest.mark.one_release
def test_a_new_service_runs_and_is_seen_by_everything(lab: Lab, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    copy_checkout(checkout)
    new_service.lay_out("memcached", checkout)
    page.type_into(checkout)
    upload(lab, checkout, CHECKOUT)
    try:
        said = lab.run(
            f"cd {CHECKOUT} && make apply HOST=local TOPOLOGY={lab.topology}", timeout=600
        )
        assert re.search(r"(?m)^[1-9]\d* changed, 0 failed$", said), said
        again = lab.run(f"cd {CHECKOUT} && salt-call state.apply")
        assert re.search(r"Failed: +0\n", again) and "changed=" not in again, again
        assert "STAT pid" in lab.run(f"bash -c '{STATS}'")

        # status
        rows = json.loads(lab.run(f"cd {CHECKOUT} && salt-call --out=json report.services"))
        (row,) = [one for one in rows["local"] if one["service"] == "memcached"]
        assert row["well"] and row["port"] == "11211" and row["version"], row
        # metrics, and an alert that Prometheus has loaded
        lab.wait(
            "its metrics",
            lambda: (
                "collectd_memcached_memcached_items{" in lab.run("curl -s 127.0.0.1:9103/metrics")
            ),
        )
        assert '"MemcachedDown"' in lab.run("curl -s 127.0.0.1:9090/api/v1/rules")
        # logs
        lab.run("systemctl restart memcached")
        lab.wait(
            "its log",
            lambda: "memcached" in lab.run("central-logs show --service memcached", check=False),
        )
        # firewall: it is open to nobody else
        with pytest.raises(OSError), socket.create_connection((lab.address, 11211), 5):
            pass
        assert "11211" not in lab.run("firewall-cmd --zone=stack --list-all")
    finally:
        lab.run(f"rm -rf {CHECKOUT} /etc/systemd/system/memcached.service.d")
        lab.run("systemctl disable --now memcached; apt-get purge -qq -y memcached", check=False)
        lab.run("rm -f /etc/memcached.conf; systemctl daemon-reload; systemctl reset-failed")
        lab.apply()
