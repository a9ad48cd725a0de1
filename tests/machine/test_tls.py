"""What a TLS scanner finds."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from lab_machine import Lab

# testssl.sh's words for findings above LOW. WARN is none: it says that a check of its own could not
# be made (an old openssl on this computer, a connection that was cut); FATAL that it gave up.
BAD = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
# Findings that come from the machine's certificate being signed by its own small CA, which is no
# public one, with neither revocation list nor transparency log.
PRIVATE_CA = {
    "cert_chain_of_trust", "cert_trust", "cert_revocation", "cert_crlDistributionPoints",
    "cert_ocspURL", "certificate_transparency", "DNS_CAArecord", "cert_notAfter",
}  # fmt: skip


@pytest.mark.one_release
def test_a_scanner_finds_nothing_above_low_but_the_private_ca(lab: Lab, tmp_path: Path) -> None:
    assert shutil.which("testssl"), "testssl.sh is installed by `make test`"
    report = tmp_path / "report.json"
    subprocess.run(
        [
            # By default it also tries each cipher alone and what many browsers would choose: that only informs.
            "testssl", "--protocols", "--std", "--fs", "--server-preference", "--server-defaults", "--headers",
            "--vulnerable", "--quiet", "--warnings", "off", "--color", "0", "--nodns", "none",
            "--jsonfile", str(report), "--ip", lab.address, f"https://{lab.address}/",
        ],
        capture_output=True, timeout=560, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    findings = json.loads(report.read_text())
    named = {one["id"]: one for one in findings}
    assert len(named) > 60, "the scan did not run through"
    bad = {
        one["id"]: f"{one['severity']}: {one['finding']}"
        for one in findings
        if one["severity"] in BAD and one["id"].split(" ")[0] not in PRIVATE_CA
    }
    assert bad == {}
    for old in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert "not offered" in named[old]["finding"], named[old]
    for new in ("TLS1_2", "TLS1_3"):
        assert "offered" in named[new]["finding"]
        assert "not offered" not in named[new]["finding"]
    assert "HSTS" in named or "HSTS_time" in named
