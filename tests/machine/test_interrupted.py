"""What was interrupted for real: a machine that was switched off, a dpkg that was killed."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from lab_machine import ROOT, Lab

from control import topology
from control.lab import containers, vagrant
from control.options import Options

# Ends dpkg once, after it has unpacked the files of a package and before it knows that it has.
KILLS_DPKG = "#!/bin/sh\n[ -e /run/died ] || { touch /run/died; kill -9 $PPID; sleep 5; }\n"
PACKAGE = "debsums"


def state(lab: Lab) -> str:
    return lab.run(f"dpkg-query -W -f='${{db:Status-Eflag}} ${{db:Status-Status}}' {PACKAGE}")


@pytest.mark.differs("dpkg 1.21, apt 2.6")
def test_a_package_whose_dpkg_was_killed_is_finished_by_the_next_apply(lab: Lab) -> None:
    script = f"/var/lib/dpkg/info/{PACKAGE}.postrm"
    lab.run(f"rm -f /run/died; cat >{script}; chmod 755 {script}", data=KILLS_DPKG)
    lab.run(f"apt-get -q -y install --reinstall {PACKAGE}", check=False, timeout=300)
    assert state(lab) == "reinstreq half-installed"
    assert "dpkg was interrupted" in lab.run("apt-get -q -y install less 2>&1", check=False)
    said = lab.apply().stdout
    assert "finishing what was interrupted: " in said
    assert PACKAGE in said
    assert said.strip().endswith(" 0 failed"), said
    assert state(lab) == "ok installed"
    assert lab.run("dpkg --audit") == ""
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


@pytest.mark.controller
@pytest.mark.one_release
@pytest.mark.parametrize(
    "how",
    ["cleanly", pytest.param("by force", marks=pytest.mark.nightly("the same start once more"))],
)
def test_a_machine_that_was_switched_off_is_started_by_make_up(lab: Lab, how: str) -> None:
    """Its sshd speaks nothing that every Vagrant knows."""
    where = topology.load(lab.topology)
    if vagrant.choose_provider(where, Options.read()) != "lxc" or not shutil.which("lxc-stop"):
        pytest.skip("the machine is switched off by lxc")
    before = lab.see()
    stop = ["--kill"] if how == "by force" else []
    name = containers.container_name(where, lab.host)
    subprocess.run([ROOT / "lab/enter", "lxc-stop", *stop, "-n", name], check=True, timeout=120)
    said = lab.make("up").stdout
    assert "0 changed, 0 failed" in said
    assert lab.see() == before + 1


@pytest.mark.controller
def test_a_login_with_odd_settings_changes_nothing_of_an_apply(lab: Lab) -> None:
    """Bare and by a state that asks whether its service is ready; what it writes is readable."""
    proxies = " ".join(f"{kind}_proxy=http://127.0.0.1:1" for kind in ("http", "https", "all"))
    odd = (
        f"umask 077; export {proxies} LC_ALL=tr_TR.UTF-8 LANGUAGE=tr POSIXLY_CORRECT=1 CDPATH=/"
        " PYTHONHOME=/nonexistent PYTHONWARNINGS=error PYTHONOPTIMIZE=2 GIT_DIR=/x TAR_OPTIONS=-x;"
        " cd /srv/stack"
    )
    files = "/etc/prometheus/prometheus.yml /etc/collectd/collectd.conf"
    before = lab.run(f"stat -c '%a %U' {files}")
    overlay = '{"prometheus": {"scrape_timeout": "4s"}, "collectd": {"interval": 9}}'
    try:
        for command in (
            f"bootstrap/converge prometheus,collectd 'pillar={overlay}'",
            "salt-call state.apply prometheus,collectd",
        ):
            said = lab.run(f"{odd}; {command} 2>&1", timeout=300)
            assert re.search(r"2 changed, 0 failed|changed=2\)\nFailed: +0\n", said), said
            assert lab.run(f"stat -c '%a %U' {files}") == before
    finally:
        assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")
