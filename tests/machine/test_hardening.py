"""A hardened machine: who gets in, what the kernel, the journal and sudo do, and that a change of
these never cuts off or breaks what works."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_machine import ROOT, Lab

# On the machine itself: failures from there neither ban nor slow down the tests' own address.
HERE = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5"


def keys(folder: Path, name: str) -> tuple[Path, str]:
    path = folder / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True
    )
    return path, path.with_suffix(".pub").read_text().strip()


def log_in(lab: Lab, user: str, key: Path, command: str) -> subprocess.CompletedProcess[str]:
    """By a connection of its own, from outside."""
    return subprocess.run(
        [
            "ssh",
            "-F",
            "none",
            "-i",
            str(key),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ConnectTimeout=10",
            f"{user}@{lab.address}",
            command,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def without_people(lab: Lab) -> Iterator[None]:
    yield
    lab.apply()
    assert lab.run("ls /etc/ssh/authorized_keys.d 2>/dev/null || true") == ""


# --- ssh ------------------------------------------------------------------------------------------


@pytest.mark.differs("OpenSSH 9.2")
@pytest.mark.parametrize("user", ["root", "vagrant", "nobody-there"])
def test_no_password_is_even_asked_for(lab: Lab, user: str) -> None:
    said = lab.run(
        f"{HERE} -o PreferredAuthentications=password,keyboard-interactive"
        f" -o NumberOfPasswordPrompts=1 {user}@127.0.0.1 true 2>&1",
        check=False,
    )
    assert "Permission denied (publickey)." in said


@pytest.mark.differs("OpenSSH 9.2")
@pytest.mark.parametrize(
    "option",
    [
        "KexAlgorithms=ecdh-sha2-nistp256",
        "KexAlgorithms=diffie-hellman-group14-sha256",
        "Ciphers=aes128-cbc",
        "Ciphers=chacha20-poly1305@openssh.com",
        "HostKeyAlgorithms=ecdsa-sha2-nistp256",
    ],
)
def test_weak_algorithms_find_no_match(lab: Lab, option: str) -> None:
    said = lab.run(f"{HERE} -o BatchMode=yes -o {option} vagrant@127.0.0.1 true 2>&1", check=False)
    assert "no matching" in said


@pytest.mark.differs("OpenSSH 9.2")
def test_weak_macs_find_no_match(lab: Lab) -> None:
    said = lab.run(
        f"{HERE} -o BatchMode=yes -o Ciphers=aes256-ctr -o MACs=hmac-sha1 vagrant@127.0.0.1 true 2>&1",
        check=False,
    )
    assert "no matching MAC" in said


@pytest.mark.differs("OpenSSH 9.2")
def test_a_short_key_and_a_fourth_try_are_refused(lab: Lab) -> None:
    own = "/root/.ssh/authorized_keys"

    def try_keys(*names: str) -> str:
        options = "-o BatchMode=yes -o IdentitiesOnly=yes -o RequiredRSASize=1024"
        offered = " ".join(f"-i /root/keys/{name}" for name in names)
        return lab.run(f"{HERE} {options} {offered} root@127.0.0.1 echo in 2>&1", check=False)

    lab.run(f"mkdir -p -m 700 /root/keys /root/.ssh; touch {own}; cp -p {own} /root/keys/before")
    try:
        for name, kind in (
            ("short", "rsa -b 1024"),
            ("long", "rsa -b 2048"),
            ("one", "ed25519"),
            ("two", "ed25519"),
            ("three", "ed25519"),
        ):
            lab.run(f"ssh-keygen -q -N '' -t {kind} -f /root/keys/{name}")
        lab.run(f"cat /root/keys/short.pub /root/keys/long.pub >>{own}; chmod 600 {own}")
        assert try_keys("long").endswith("in\n")
        assert "Permission denied" in try_keys("short")
        assert "Too many authentication failures" in try_keys("one", "two", "three", "long")
    finally:
        lab.run(f"cat /root/keys/before >{own}; rm -r /root/keys")


@pytest.mark.differs("OpenSSH 9.2")
def test_sessions_recorded_today_stay_closed_to_a_quantum_computer(lab: Lab) -> None:
    """The client's first choice that the server has is taken (RFC 4253, 7.1): both begin with a hybrid."""
    hybrids = ("mlkem768x25519", "sntrup761x25519")
    wanted = re.search(r"(?m)^kexalgorithms (.+)$", lab.run("sshd -T"))
    assert wanted
    # All that the release has, under whichever name, the best first.
    offered = [name.partition("-")[0] for name in wanted[1].split(",")]
    known = {name.partition("-")[0] for name in lab.run("ssh -Q kex").split()}
    first = [name for name in hybrids if name in known]
    assert first
    assert list(dict.fromkeys(offered))[: len(first)] == first
    ssh = ["ssh", "-v", "-F", str(lab.state / "ssh_config"), "-o", "ControlPath=none"]
    # What the lab's and the cloud's configurations say, which is nothing: OpenSSH's own order.
    done = subprocess.run(
        [*ssh, "-o", "LogLevel=DEBUG1", lab.host, "true"],
        capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    agreed = re.search(r"kex: algorithm: (\S+)", done.stderr)
    assert agreed and agreed[1].startswith(hybrids), done.stderr


@pytest.mark.differs("OpenSSH 9.2")
def test_only_local_forwarding_and_only_to_loopback(lab: Lab) -> None:
    said = lab.run("sshd -T")
    for line in (
        "allowtcpforwarding local",
        "permitopen 127.0.0.1:* localhost:*",
        "allowagentforwarding no",
        "x11forwarding no",
        "permitrootlogin without-password",
        "clientaliveinterval 300",
        "clientalivecountmax 2",
        "logingracetime 30",
        "authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2",
    ):
        assert line in said.splitlines(), line
    people = lab.run("sshd -T -C user=root,host=x,addr=127.0.0.1 | grep authorizedkeysfile")
    assert ".ssh/authorized_keys" in people, "the machine's own accounts keep theirs"


@pytest.mark.differs("OpenSSH 9.2")
def test_a_value_that_sshd_alone_can_judge_is_refused_and_nothing_moves(lab: Lab) -> None:
    before = lab.run(
        "systemctl show -P MainPID ssh; sha256sum /etc/ssh/sshd_config.d/10-stack.conf"
    )
    refused = lab.apply(check=False, PILLAR='{"base": {"ssh": {"ciphers": ["aes257-ctr"]}}}')
    assert refused.returncode != 0
    assert "refused by its own check, nothing was changed" in refused.stdout
    assert "aes257-ctr" in refused.stdout
    after = lab.run("systemctl show -P MainPID ssh; sha256sum /etc/ssh/sshd_config.d/10-stack.conf")
    assert after == before
    assert lab.run("echo in") == "in\n"


def test_a_file_that_lets_passwords_in_before_ours_stops_the_change(lab: Lab) -> None:
    early = "/etc/ssh/sshd_config.d/05-cloud.conf"
    lab.run(f"echo 'PasswordAuthentication yes' > {early}")
    try:
        refused = lab.apply(check=False, PILLAR='{"base": {"ssh": {"login_grace_time": 31}}}')
        assert refused.returncode != 0
        assert "sshd would not have 'passwordauthentication no'" in refused.stdout
    finally:
        lab.run(f"rm {early}")


@pytest.mark.differs("OpenSSH 9.2")
def test_a_change_of_sshd_keeps_the_session_that_applies_it_and_others(lab: Lab) -> None:
    session = subprocess.Popen(
        ["ssh", "-F", str(lab.state / "ssh_config"), "-o", "ControlPath=none", lab.host, "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert session.stdin is not None
    pid = lab.run("systemctl show -P MainPID ssh")
    try:
        done = lab.apply(PILLAR='{"base": {"ssh": {"login_grace_time": 29}}}')
        assert "ssh running: changed" in done.stdout
        assert "logingracetime 29" in lab.run("sshd -T")
        assert lab.run("systemctl show -P MainPID ssh") == pid, "reloaded, not restarted"
        assert session.poll() is None
        said, _ = session.communicate("still here\n", timeout=120)
        assert said == "still here\n"
    finally:
        session.kill()
        lab.apply()
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


# --- people ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_people")
def test_people_are_added_rotated_and_removed(lab: Lab, tmp_path: Path) -> None:
    old, old_public = keys(tmp_path, "old")
    new, new_public = keys(tmp_path, "new")

    def with_people(**people: object) -> str:
        return lab.apply(PILLAR=json.dumps({"base": {"users": people}})).stdout

    with_people(
        alice={"full_name": "Alice Example", "keys": [old_public], "sudo": True},
        bob={"keys": [new_public]},
    )
    assert log_in(lab, "alice", old, "sudo -n id -u").stdout == "0\n"
    assert log_in(lab, "bob", new, "id -un").stdout == "bob\n"
    assert log_in(lab, "bob", new, "sudo -n id -u").returncode != 0
    assert log_in(lab, "alice", new, "true").returncode == 255

    # A key that she adds by herself opens nothing.
    log_in(lab, "alice", old, f"mkdir -m 700 .ssh; echo '{new_public}' > .ssh/authorized_keys")
    assert log_in(lab, "alice", new, "true").returncode == 255

    with_people(alice={"keys": [new_public]}, bob={"keys": [new_public]})
    assert log_in(lab, "alice", old, "true").returncode == 255
    assert log_in(lab, "alice", new, "id -un").stdout == "alice\n"
    assert log_in(lab, "alice", new, "sudo -n id -u").returncode != 0, "nor is she root any more"

    log_in(
        lab, "alice", new, "echo precious > note; setsid -f sleep 1000 >/dev/null 2>&1 </dev/null"
    )
    assert lab.run("pgrep -u alice sleep").strip()
    said = with_people(bob={"keys": [new_public]})
    assert "user accounts: changed" in said
    assert lab.run(
        "getent passwd alice; getent group alice; ls -d /home/alice 2>&1", check=False
    ) == ("ls: cannot access '/home/alice': No such file or directory\n")
    assert lab.run("pgrep -f '[s]leep 1000'", check=False) == ""
    assert "user@" not in lab.run("systemctl --failed --no-legend")
    archive = lab.run("ls /var/backups/people/alice-*.tar.gz").split()[-1]
    assert lab.run(f"stat -c %a {archive}; tar -xOf {archive} alice/note") == "600\nprecious\n"
    lab.run("rm /var/backups/people/alice-*.tar.gz")
    assert log_in(lab, "alice", new, "true").returncode == 255

    with_people(bob={"state": "absent"})
    assert "no such user" in lab.run("id bob 2>&1", check=False)
    lab.run("rm /var/backups/people/bob-*.tar.gz")


@pytest.mark.parametrize("name", ["vagrant", "root", "haproxy"])
def test_accounts_of_the_machine_are_never_touched(lab: Lab, name: str) -> None:
    before = lab.run(f"getent passwd {name}; getent shadow {name}")
    refused = lab.apply(
        check=False, PILLAR=json.dumps({"base": {"users": {name: {"state": "absent"}}}})
    )
    assert refused.returncode != 0
    assert f"user {name}:" in refused.stdout
    assert lab.run(f"getent passwd {name}; getent shadow {name}") == before


@pytest.mark.differs("sudo 1.9.13")
def test_sudo_settings_are_valid_and_in_effect(lab: Lab) -> None:
    assert "parsed OK" in lab.run("visudo -c")
    said = lab.run("sudo -l -U root")
    for words in ("use_pty", "timestamp_timeout=5", "umask=0022"):
        assert words in said
    assert lab.run("umask").strip() == "0022"


@pytest.mark.differs("no pam_umask in its stacks")
def test_what_a_login_makes_is_not_for_everybody_and_an_idle_one_ends(lab: Lab) -> None:
    made = "rm -f ~/made; touch ~/made; stat -c %a ~/made; rm ~/made"
    for user in ("root", "vagrant"):
        mode = lab.run(f"su - {user} -c '{made}'").split()[-1]
        assert mode.endswith("0"), f"{user}: {mode}"
    assert lab.run("su - root -c 'bash -lic \"echo \\$TMOUT\"' 2>/dev/null").split()[-1] == "3600"
    # Commands by sudo write what services read.
    assert lab.run("umask").strip() == "0022"


# --- kernel, journal, updates ---------------------------------------------------------------------


@pytest.mark.differs("systemd 252")
def test_network_settings_are_in_effect_and_what_is_the_hosts_is_named(lab: Lab) -> None:
    for key, value in (
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.eth0.rp_filter", "1"),
        ("net.ipv4.conf.all.accept_redirects", "0"),
        ("net.ipv4.tcp_rfc1337", "1"),
    ):
        assert lab.run(f"sysctl -n {key}").strip() == value, key
    if lab.run("systemd-detect-virt --container || true").strip() == "none":
        return
    told = lab.run(
        "cd /srv/stack && salt-call --out json state.sls_id 'kernel settings in effect' base.kernel"
    )
    states = json.loads(told)["local"].values()
    (comment,) = (one["comment"] for one in states if one["__id__"] == "kernel settings in effect")
    assert "kernel.kptr_restrict (the host's, not this container's)" in comment
    assert "# kernel.kptr_restrict: " in lab.run("cat /etc/sysctl.d/60-stack.conf")


def test_a_setting_changed_by_hand_is_set_again(lab: Lab) -> None:
    lab.run("sysctl -q -w net.ipv4.tcp_rfc1337=0")
    assert "kernel settings in effect: changed" in lab.apply().stdout
    assert lab.run("sysctl -n net.ipv4.tcp_rfc1337").strip() == "1"
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


def test_the_journal_keeps_a_burst_of_a_unit_and_is_bounded(lab: Lab) -> None:
    began = lab.moment()
    lab.run(
        "systemd-run -q --wait --collect --unit=burst sh -c"
        " 'i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done'"
    )
    kept = f"journalctl -u burst -o cat --since {began} | grep -c '^line'"
    lab.wait("all lines", lambda: int(lab.run(f"{kept} || true")) >= 20000)
    limits = lab.run("systemd-analyze cat-config systemd/journald.conf")
    assert "\nSystemMaxUse=1G\n" in limits
    assert lab.run("test -d /var/log/journal && echo kept") == "kept\n"
    assert "Unknown" not in lab.run("journalctl -b -u systemd-journald -o cat")


@pytest.mark.differs("systemd 252")
def test_what_we_tell_systemd_is_what_it_goes_by(lab: Lab) -> None:
    """A drop-in whose name comes later undoes ours, from whichever folder: Debian has one for journald."""
    found = lab.run("ls /etc/systemd/*.conf.d/*stack.conf").split()
    assert len(found) >= 4
    undone = []
    for path in found:
        name = path.removeprefix("/etc/").split(".d/")[0]
        last = _settings(lab.run(f"systemd-analyze cat-config {name}"))
        ours = _settings(lab.run(f"cat {path}"))
        undone += [f"{path}: {k}={v}: {last[k]}" for k, v in ours.items() if last[k] != v]
    assert undone == []


def _settings(text: str) -> dict[str, str]:
    """``{key: its last value}``; none of ours is a key of two sections."""
    return dict(re.findall(r"^([A-Z][A-Za-z]*)=(.*)$", text, re.MULTILINE))


def test_a_crash_leaves_no_core(lab: Lab) -> None:
    lab.run("systemctl daemon-reload; rm -rf /tmp/crash; mkdir -m 777 /tmp/crash")
    crash = "cd /tmp/crash; sleep 30 & kill -SEGV $!; wait $!; ulimit -H -c"
    lab.run(f"systemd-run -q --wait --collect --working-directory=/tmp/crash sh -c '{crash}'")
    said = lab.run(f"su - vagrant -c '{crash}' 2>&1", check=False)
    assert said.strip().splitlines()[-1] == "0"
    assert lab.run("ls /tmp/crash") == ""


@pytest.mark.differs("other origins")
def test_security_upgrades_and_nothing_else(lab: Lab) -> None:
    said = lab.run("unattended-upgrade --dry-run -v 2>&1", timeout=300)
    allowed = re.search(r"Allowed origins are: (.*)", said)
    assert allowed, said
    assert allowed[1].count("origin=") == 1
    assert "-security" in allowed[1]
    config = lab.run("apt-config dump")
    assert 'Automatic-Reboot "false"' in config
    assert 'DPkg::Options:: "--force-confold"' in config, "files that Salt wrote stay"


@pytest.mark.nightly("two applies, for a line of apt's configuration")
@pytest.mark.one_release
def test_a_machine_reboots_in_its_window_where_the_pillar_says_so(lab: Lab) -> None:
    window = {"base": {"updates": {"reboot": True, "reboot_time": "03:30"}}}
    try:
        lab.apply(SLS="base.updates", PILLAR=json.dumps(window))
        config = lab.run("apt-config dump")
        assert 'Automatic-Reboot "true"' in config
        assert 'Automatic-Reboot-Time "03:30"' in config
        window["base"]["updates"]["reboot_time"] = "25:00"
        refused = lab.apply(check=False, SLS="base.updates", PILLAR=json.dumps(window))
        assert refused.returncode != 0
        assert "base:updates:reboot_time" in refused.stdout
    finally:
        lab.apply(SLS="base.updates")
    assert 'Automatic-Reboot "false"' in lab.run("apt-config dump")


def test_needrestart_reports_and_never_restarts_our_services(lab: Lab) -> None:
    program = (
        "our (%nrconf, $nrconf); do q(/etc/needrestart/needrestart.conf); die $@ if $@;"
        " print qq($nrconf{restart}\\n); for my $unit (qw(haproxy.service counter@1.service"
        " redis-server.service)) { for (keys %{$nrconf{override_rc}}) { print qq($unit"
        " $nrconf{override_rc}{$_}\\n) if $unit =~ /$_/ } }"
    )
    said = lab.run(f"perl -e '{program}'").splitlines()
    assert said[0] == "l"
    assert sorted(said[1:]) == [
        "counter@1.service 0",
        "haproxy.service 0",
        "redis-server.service 0",
    ]
    assert "NEEDRESTART-VER" in lab.run("needrestart -b -r l", check=False, timeout=300)


def test_who_logs_in_is_told_whose_and_from_where(lab: Lab) -> None:
    assert "authorized users only" in lab.run("cat /etc/issue.net")
    assert "managed by Salt, from " in lab.run("cat /etc/motd")
    said = lab.run(f"{HERE} -v -o BatchMode=yes x@127.0.0.1 2>&1", check=False)
    assert "Managed by Salt, from " in said
    # Which patches it lacks is nobody's business.
    told = re.search(r"remote software version (.*)", said)
    assert told and re.fullmatch(r"OpenSSH_[0-9.p]+", told[1].strip()), said


def test_files_of_packages_are_compared_by_a_sandboxed_unit(lab: Lab) -> None:
    said = lab.run("systemd-analyze security --no-pager stack-debsums.service | tail -1")
    assert float(re.search(r": ([0-9.]+) ", said)[1]) <= 2.0, said  # type: ignore[index]
    lab.run("systemctl start stack-debsums.service", timeout=300)
    assert lab.run("systemctl is-active stack-debsums.timer").strip() == "active"


@pytest.mark.differs("systemd 252")
def test_every_unit_of_ours_is_sandboxed(lab: Lab) -> None:
    """
    Each that a file of ours is for, also what runs for a moment: at most 2.0, or what its own file gives
    reasons for ("At most 2.5 on ...").
    """
    files = lab.run(
        "grep -rlsF 'anaged by Salt' /etc/systemd/system --include='*.service' --include='*.conf'"
    )
    units = set(re.findall(r"/([^/]+\.service)(?:\.d/[^/]+)?\n", files))
    assert {"haproxy.service", "stack-backup.service", "firewall-.service"} <= units, files
    # Those of a prefix are transient ones: one that stays while it is looked at.
    prefixes = {unit for unit in units if unit.endswith("-.service")}
    for unit in prefixes:
        lab.run(f"systemd-run -q --collect --remain-after-exit --unit={unit[:-8]}test true")
    exposed = {}
    try:
        for unit in units:
            one = unit.replace("@.", "@1.").replace("-.", "-test.")
            said = lab.run(f"systemd-analyze security --no-pager {one} | tail -1")
            level = float(re.search(r": ([0-9.]+) ", said)[1])  # type: ignore[index]
            reason = re.search(
                r"(?m)^# At most ([0-9.]+) on `systemd-analyze security`: \w",
                lab.run(f"systemctl cat {one}"),
            )
            if level > (float(reason[1]) if reason else 2.0):
                exposed[unit] = level
    finally:
        for unit in prefixes:
            lab.run(f"systemctl stop {unit[:-8]}test")
    assert exposed == {}


@pytest.mark.differs("systemd 252")
def test_metrics_are_read_by_an_account_that_is_not_root(lab: Lab) -> None:
    """root in a sandbox, whatever its powers, may ask systemd to run anything outside of it."""
    process = lab.run("systemctl show -P MainPID collectd").strip()
    assert lab.run(f"stat -c %U /proc/{process}").strip() == "collectd"
    within = f"nsenter -t {process} -m --"
    for path in ("/etc/stack/secrets", "/etc/ssh"):
        assert lab.run(f"{within} ls -A {path}") == "", path
    # What counts bans may reach fail2ban; fail2ban, which is root, reaches neither systemd nor the bus.
    assert "fail2ban" in lab.run("id -nG collectd").split()
    server = lab.run("systemctl show -P MainPID fail2ban").strip()
    said = lab.run(f"nsenter -t {server} -m -- systemctl start nothing 2>&1", check=False)
    assert "connect to" in said, said


# --- the auditor ----------------------------------------------------------------------------------


@pytest.fixture
def lynis(lab: Lab) -> Iterator[str]:
    """What Lynis reports of this machine; it is there for the audit alone."""
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300"
    here = lab.run("command -v lynis || true").strip()
    try:
        lab.run(f"{apt} update; {apt} -y install lynis >/dev/null 2>&1", timeout=300)
        # What is audited is a converged machine, not what the tests before have left of it.
        lab.apply()
        lab.run("lynis audit system --quick --no-colors >/dev/null 2>&1", timeout=1200)
        yield lab.run("cat /var/log/lynis-report.dat")
    finally:
        if not here:
            lab.run(f"{apt} -y purge lynis >/dev/null 2>&1; rm -f /var/log/lynis*", timeout=300)


@pytest.mark.one_release
def test_lynis_has_no_warning_and_every_suggestion_has_its_reason(lab: Lab, lynis: str) -> None:
    found = dict(re.findall(r"(?m)^(hardening_index|lynis_tests_done)=(\d+)$", lynis))
    warnings = set(re.findall(r"(?m)^warning\[\]=([A-Z0-9-]+)\|", lynis))
    # An upgrade that Debian brought out since last night is one that this machine installs tonight.
    would = lab.run("apt-get -s -qq dist-upgrade", timeout=60)
    due = set(re.findall(r"(?m)^Inst (\S+) .*Debian-Security", would))
    assert warnings == ({"PKGS-7392"} if due else set())
    if due:
        tonight = lab.run("unattended-upgrade --dry-run --verbose 2>&1", timeout=300)
        said = re.search(r"(?m)^.*Packages that will be upgraded: (.*)$", tonight)
        assert said and due <= set(said[1].split()), tonight
    assert int(found["hardening_index"]) >= 78
    reasons = (ROOT / "salt" / "base" / "LYNIS.md").read_text()
    suggested = set(re.findall(r"(?m)^suggestion\[\]=([A-Z0-9-]+)\|", lynis))
    assert suggested
    assert {one for one in suggested if one not in reasons} == set()


@pytest.mark.differs("other packages")
def test_recommended_packages_stay_out(lab: Lab) -> None:
    assert 'APT::Install-Recommends "false";' in lab.run("apt-config dump")
    would = lab.run("apt-get install --simulate --reinstall firewalld | grep ^Inst", timeout=60)
    assert "iptables" not in would
    there = lab.run("dpkg-query -W -f '${Package}\\n'").split()
    assert {"iptables", "ipset", "whois"} & set(there) == set()


@pytest.mark.differs("other packages")
def test_root_writes_no_file_into_a_folder_that_an_account_owns(lab: Lab) -> None:
    """A link that is put there at the right moment would lead it anywhere: Debian gives /etc/redis to redis."""
    loaded = lab.run("cat /var/lib/stack/loaded/*.json").replace("}{", "}\n{")
    paths = {path for line in loaded.splitlines() for path in json.loads(line)}
    paths |= {"/etc/redis/redis.conf", "/var/log/redis/x", "/run/stack/x", "/var/lib/stack/x"}
    folders = {str(parent) for path in paths for parent in Path(path).parents}
    said = lab.run(f"stat -c '%u %A %n' {' '.join(sorted(folders))}")
    assert "/etc/haproxy" in said
    wrong = [line for line in said.splitlines() if not re.match(r"0 d....-..-. ", line)]
    assert not wrong


# As nobody: connections that never log in, as many as there are let in, from ever other addresses.
CROWD = """
import contextlib, socket, time
held = []
for number in range(1, 100):
    for address in ("127.0.0.1", "{own}"):
        link = socket.socket()
        link.settimeout(1)
        with contextlib.suppress(OSError):
            link.bind((f"127.0.0.{{number}}", 0))
            link.connect((address, 22))
            held.append(link)
print(len(held), flush=True)
time.sleep(60)
"""


@pytest.mark.differs("OpenSSH 9.2")
def test_no_account_of_the_machine_keeps_operators_out_of_ssh(lab: Lab) -> None:
    """sshd drops whom it does not know yet from a number of them on: sixty idle ones stopped every deploy."""
    lab.run("cat > /run/crowd.py", data=CROWD.format(own=lab.address))
    become = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    try:
        start = "systemd-run -q --collect --unit=crowd -p StandardOutput=truncate:/run/crowd.out"
        lab.run(f"{start} {become} python3 /run/crowd.py")
        lab.wait("all were tried", lambda: lab.run("cat /run/crowd.out"))
        words = ["ssh", "-F", str(lab.state / "ssh_config"), "-o", "ControlPath=none", lab.host]
        for _ in range(5):
            subprocess.run([*words, "true"], check=True, timeout=30)
    finally:
        lab.run("systemctl stop crowd; rm -f /run/crowd.*", check=False)
    said = lab.run("sshd -T")
    assert "persourcemaxstartups 10" in said
    assert "persourcenetblocksize 32:64" in said
