"""Converging again, wrongly, half-way and by hand."""

from __future__ import annotations

import itertools
import re
import subprocess

import pytest
from lab_machine import Lab

SERVICES = "haproxy redis-server counter@1 counter@2"
UNIT_TESTED = pytest.mark.nightly("tests/unit/salt/test_property.py has every setting refused")


def starts(lab: Lab) -> str:
    """When each service was started: unchanged means untouched."""
    return lab.run(f"systemctl show -P ExecMainStartTimestampMonotonic {SERVICES}")


@pytest.mark.differs("other packages, other files beside ours")
def test_second_apply_changes_nothing(lab: Lab) -> None:
    lab.apply()
    before = starts(lab)
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")
    assert starts(lab) == before


def test_plain_salt_call_from_the_root_of_the_tree(lab: Lab) -> None:
    said = lab.run("cd /srv/stack && salt-call state.apply haproxy")
    assert re.search(r"Succeeded: \d+\n", said), said
    assert re.search(r"Failed: +0\n", said), said


def test_a_test_run_shows_what_would_change_and_changes_nothing(lab: Lab) -> None:
    before = starts(lab)
    told = lab.apply(TEST="1", PILLAR='{"haproxy": {"maxconn": 3999}}').stdout
    assert "+    maxconn 3999" in told
    assert told.strip().endswith("1 would change, 0 failed")
    assert "maxconn 4000" in lab.run("cat /etc/haproxy/haproxy.cfg")
    assert starts(lab) == before


@pytest.mark.parametrize("sls", ["", "haproxy"])
@pytest.mark.parametrize(
    ("pillar", "line"),
    [
        (
            '{"haproxy": {"frontned": {}}}',
            "pillar haproxy:frontned: unknown key; did you mean 'frontend'?",
        ),
        ('{"redi": {}}', "pillar redi: unknown key; did you mean 'redis'?"),
        pytest.param(
            '{"counter": {"instances": "two"}}',
            "pillar counter:instances: 'two' is not of type integer or null",
            marks=UNIT_TESTED,
        ),
        pytest.param(
            '{"redis": {"port": 70000}}',
            "pillar redis:port: 70000 is out of range; allowed: 1..65535",
            marks=UNIT_TESTED,
        ),
    ],
)
def test_bad_pillar_is_refused_before_any_change(
    lab: Lab, pillar: str, line: str, sls: str
) -> None:
    before = starts(lab)
    refused = lab.apply(check=False, PILLAR=pillar, SLS=sls)
    assert refused.returncode != 0
    assert line in refused.stdout
    assert refused.stdout.count("pillar is refused") == 1, "said once"
    assert starts(lab) == before


@pytest.mark.differs("HAProxy 2.6, Redis 7.0, Prometheus 2.42 and their checks")
@pytest.mark.parametrize(
    ("sls", "pillar", "words"),
    [
        # Once the whole stack, then one formula, which is the same check in a quarter of the time.
        ("", '{"haproxy": {"tls": {"curves": ["X25518"]}}}', "X25518"),
        (
            "redis",
            '{"redis": {"users": {"counter": {"secret": "redis-counter", "keys": ["counter:seen"], "commands": ["incrr"]}}}}',
            "incrr",
        ),
        (
            "prometheus",
            '{"prometheus": {"scrape_timeout": "20s"}}',
            "scrape timeout greater than scrape interval",
        ),
        pytest.param(
            "prometheus",
            '{"prometheus": {"alerts": {"webhook": "http://127.0.0.1/%zz"}}}',
            "invalid URL escape",
            marks=pytest.mark.nightly("Alertmanager's part of the same check"),
        ),
    ],
)
def test_a_config_that_its_own_program_refuses_leaves_the_good_one_running(
    lab: Lab, sls: str, pillar: str, words: str
) -> None:
    before, count = starts(lab), lab.see()
    refused = lab.apply(check=False, PILLAR=pillar, SLS=sls)
    assert refused.returncode != 0
    assert "refused by its own check, nothing was changed" in refused.stdout
    assert words in refused.stdout, "the program's own message"
    assert starts(lab) == before
    assert lab.see() == count + 1
    assert lab.apply(SLS=sls).stdout.strip().endswith("0 changed, 0 failed")


@pytest.mark.differs("HAProxy 2.6, systemd 252")
def test_a_config_that_passes_its_check_but_does_not_start_is_taken_back(lab: Lab) -> None:
    """HAProxy's check does not see that another program holds a port."""
    count = lab.see()
    lab.run("systemd-run --unit=squatter --collect python3 -m http.server 8499 --bind 127.0.0.1")
    try:
        lab.wait("the port is taken", lambda: ":8499" in lab.run("ss -Hltn"))
        # Alone: what else follows this port, such as who scrapes it, is not what is shown here.
        failed = lab.apply(
            check=False, SLS="haproxy", PILLAR='{"haproxy": {"admin": {"port": 8499}}}'
        )
        assert failed.returncode != 0
        assert "the previous configuration is back and in use" in failed.stdout
        assert "8405" in lab.run("grep -A1 'frontend admin' /etc/haproxy/haproxy.cfg")
        assert lab.see() == count + 1
    finally:
        lab.run("systemctl stop squatter")
    assert lab.apply(SLS="haproxy").stdout.strip().endswith("0 changed, 0 failed")


@pytest.mark.nightly("test_deploy.py takes such a release back, and test_release.py such a setting")
def test_a_release_that_never_gets_ready_goes_back_and_the_old_one_serves(lab: Lab) -> None:
    count = lab.see()
    failed = lab.apply(
        check=False,
        PILLAR='{"counter": {"ready_seconds": 3, "environment": {"REDIS_URL": "redis://127.0.0.1:1/0"}}}',
    )
    assert failed.returncode != 0
    assert "counter@1.service" in failed.stdout
    assert "it is back on" in failed.stdout
    assert lab.see() == count + 1
    lab.apply(SLS="counter")
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


def test_a_certificate_near_its_end_is_renewed_by_the_next_apply(lab: Lab) -> None:
    def serial() -> str:
        done = subprocess.run(
            f"openssl s_client -connect {lab.address}:443 </dev/null 2>/dev/null | openssl x509 -noout -serial -enddate",
            shell=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout

    before = serial()
    lab.run(
        "cd /etc/haproxy/tls && openssl x509 -x509toreq -in site.pem -signkey site.pem.key -out /root/site.csr 2>/dev/null"
        " && openssl x509 -req -in /root/site.csr -CA /etc/stack/pki/ca.pem -CAkey /etc/stack/pki/ca.key"
        " -days 20 -out site.pem 2>/dev/null && systemctl reload haproxy && rm /root/site.csr"
    )
    lab.wait("the short one is served", lambda: serial() != before)
    short = serial()
    started = lab.run("systemctl show -P ExecMainStartTimestampMonotonic haproxy")
    lab.apply()
    lab.wait("a new one is served", lambda: serial() != short)
    assert lab.run("systemctl show -P ExecMainStartTimestampMonotonic haproxy") == started, (
        "by a reload"
    )
    assert lab.status("healthz") == 200


def test_an_apply_killed_at_any_moment_is_finished_by_the_next(lab: Lab) -> None:
    # Of the run's 80 to 90 states: among the base's, before and in the roll of the application, at
    # HAProxy's, and near the end. The overlay changes the application and HAProxy.
    for turn, wanted in enumerate((12, 40, 66, 70, 76)):
        overlay = f'{{"haproxy": {{"maxconn": {3000 + turn}}}, "counter": {{"bake_seconds": 0, "environment": {{"COUNTER_THREADS": {3 + turn % 2}}}}}}}'
        process = subprocess.Popen(
            [
                "ssh",
                "-F",
                str(lab.state / "ssh_config"),
                lab.host,
                f"cd /srv/stack && sudo -n bootstrap/converge 'pillar={overlay}'",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        # A moment is a state, not a time: the same on a slow machine.
        for line in process.stdout:
            at = re.match(r"\[ *(\d+)/", line)
            if at and int(at[1]) >= wanted:
                break
        lab.run("pkill -9 -f '[b]ootstrap/converge' || true")
        process.wait(timeout=60)
        assert lab.status("healthz") == 200
    lab.apply()
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")
    assert "maxconn 4000" in lab.run("cat /etc/haproxy/haproxy.cfg")
    lab.wait("all instances", lab.all_ready)
    lab.see()


@pytest.mark.controller
def test_an_apply_with_nothing_to_do_is_one_line_and_with_verbose_all(lab: Lab) -> None:
    lab.apply()
    said = lab.apply().stdout.splitlines()
    # On a machine that is short of time, a state is also named when nothing was said for 10 s.
    named = [
        re.fullmatch(r"\[ *\d+/\d+\] +([\d.]+)s  .*: ok( \(.*\))?", line) for line in said[:-1]
    ]
    moments = [0.0, *(float(one[1]) for one in named if one)]
    assert len(moments) == len(said), said
    assert all(after - before >= 9.9 for before, after in itertools.pairwise(moments)), said
    assert said[-1] == "0 changed, 0 failed"
    said = lab.apply(VERBOSE="1").stdout.splitlines()
    assert len([line for line in said if re.match(r"\[ *\d+/\d+\] .*: ok", line)]) > 80


@pytest.mark.one_release
def test_a_data_folder_that_was_taken_from_redis_is_given_back(lab: Lab) -> None:
    folder = "/var/lib/redis"
    before = lab.run(f"stat -c '%U %G %a' {folder}")
    lab.run(f"chown root:root {folder} && chmod 755 {folder}")
    try:
        said = lab.apply(SLS="redis").stdout
        assert said.strip().endswith("1 changed, 0 failed"), said
        assert lab.run(f"stat -c '%U %G %a' {folder}") == before == "redis redis 750\n"
    finally:
        lab.run(f"chown redis:redis {folder} && chmod 750 {folder}")


@pytest.mark.differs("Python 3.11")
def test_bootstrap_again_does_nothing(lab: Lab) -> None:
    assert "is in place" in lab.run("/srv/stack/bootstrap/bootstrap.sh")


@pytest.mark.differs("other packages")
def test_packages_of_the_state_tree_are_all_that_was_installed(lab: Lab) -> None:
    failed = lab.run("dpkg --audit")
    assert failed == ""
