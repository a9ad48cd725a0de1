"""Secrets: given by encrypted pillar or made on the machine, rotated, shown to nobody."""

from __future__ import annotations

import json
import re
import secrets
import subprocess

from lab_machine import Lab

# Another one in each run: what an earlier run left in a journal is no finding.
VALUE = f"given-by-the-pillar-{secrets.token_hex(16)}"


def test_a_rotated_password_is_used_and_the_old_one_dropped(lab: Lab) -> None:
    old = lab.run("cat /etc/stack/secrets/redis-counter")
    redis = lab.run("systemctl show -P MainPID redis-server")
    with lab.under_load(mode="keepalive", rate=200) as load:
        told = lab.make("rotate", SECRET="redis-counter").stdout
        load.wait_for(load.result.ok + 100)
    assert not load.result.duplicates
    # Redis closes connections of a user whose passwords changed, twice: what was on them may fail, and until there
    # is a new one each request is refused at once and counts nothing: less than a second of the load.
    assert load.result.missing_count <= 2 * 16, load.result.summary()
    assert set(load.result.statuses) <= {200, 503}, load.result.summary()
    assert load.result.error_count <= 2 * 16 + 200, load.result.summary()
    new = lab.run("cat /etc/stack/secrets/redis-counter")
    assert new != old
    assert new not in told
    assert old not in told
    assert lab.run("systemctl show -P MainPID redis-server") == redis, "no restart was needed"
    lab.run("umask 077; mkdir -p /root/old")
    try:
        lab.run("cat > /root/old/value", data=old)
        said = lab.run(
            "REDISCLI_AUTH=$(cat /root/old/value) redis-cli --user counter PING 2>&1 || true"
        )
        assert "WRONGPASS" in said
    finally:
        lab.run("rm -rf /root/old")
    assert lab.run("ls /etc/stack/secrets | grep -c previous || true").strip() == "0"
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


def test_rotating_an_unknown_secret_is_one_clear_line(lab: Lab) -> None:
    refused = lab.make("rotate", check=False, SECRET="redis-countre")
    assert refused.returncode != 0
    assert "has a secret redis-countre" in refused.stderr


# On Debian 12 by make test-all: what is asked of gpg there is the same.
def test_a_secret_given_by_encrypted_pillar_is_used_and_lies_open_nowhere(lab: Lab) -> None:
    """With Salt's gpg renderer: a key made on the machine, a pillar encrypted to it."""
    lab.run("command -v gpg >/dev/null || apt-get install -qq -y gnupg >/dev/null", timeout=300)
    before = lab.run("cat /etc/stack/secrets/redis-counter")
    home = "/etc/salt/gpgkeys"
    lab.run(
        f"mkdir -p {home} && chmod 700 {home} && gpg --homedir {home} --batch --quiet"
        " --passphrase '' --quick-generate-key machine@test default default never 2>/dev/null"
    )
    cipher = lab.run(
        f"gpg --homedir {home} --batch --trust-model always --armor --encrypt"
        " --recipient machine@test",
        data=VALUE,
    )
    text = "#!yaml|gpg\nsecrets:\n  redis-counter: |\n"
    text += "".join(f"    {line}\n" for line in cipher.strip().splitlines())
    pillar = "/srv/stack/pillar/secrets.sls"
    try:
        lab.run(f"cat > {pillar} <<'E'\n{text}E")
        said = lab.run("cd /srv/stack && bootstrap/converge")
        assert re.search(r"\d+ changed, 0 failed", said), said
        assert VALUE not in said
        assert lab.run("cat /etc/stack/secrets/redis-counter") == VALUE
        assert VALUE not in lab.run(f"cat {pillar}")
        lab.run("cd /srv/stack && salt-call secret.forget redis-counter")
        lab.run("cd /srv/stack && bootstrap/converge")
        lab.see()
        for place in ("/var/log", "/var/cache/salt", "/var/lib/stack", "/srv", "/opt/counter"):
            found = lab.run(
                f"grep -rlF -f /etc/stack/secrets/redis-counter {place} 2>/dev/null || true"
            )
            assert found == "", f"it lies open in {found}"
    finally:
        lab.run(f"rm -rf {pillar} {home}")
        assert before != VALUE
        # From now on it is an ordinary secret of the machine again.
        lab.make("rotate", SECRET="redis-counter")
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


def test_nobody_can_read_what_is_secret(lab: Lab) -> None:
    """As `nobody`, over everything that may hold a secret: the files of /etc and /var, processes."""
    for name in lab.run("ls /etc/stack/secrets").split():
        # The needle is read by root and handed over on standard input.
        with lab.needle(name) as needle:
            found = lab.run(
                "setpriv --reuid=nobody --regid=nogroup --clear-groups grep -rlsF -f /dev/stdin"
                f" /etc /var /srv /opt /run /tmp 2>/dev/null < {needle} || true",
                timeout=300,
            )
        assert found == "", f"nobody reads {name} in {found}"


def test_no_secret_is_in_the_tree_the_journal_the_processes_or_what_an_apply_says(lab: Lab) -> None:
    """An apply at its most talkative, which shows every file that it renders."""
    said = "/run/what-an-apply-says"
    lab.run(f"umask 077; cd /srv/stack && salt-call -l debug state.apply >{said} 2>&1", timeout=300)
    try:
        assert int(lab.run(f"grep -c '^.DEBUG' {said}")) > 100, "it is talkative"
        for name in lab.run("ls /etc/stack/secrets").split():
            with lab.needle(name) as needle:
                for place in (
                    f"cat {said}",
                    "journalctl -o cat --no-pager",
                    "cat /proc/[0-9]*/cmdline",
                    "find /srv/stack -type f -exec cat {} +",
                ):
                    found = lab.run(f"{place} 2>/dev/null | grep -acF -f {needle} || true")
                    assert found.strip() == "0", f"{name}: {place}"
    finally:
        lab.run(f"rm {said}")


def test_a_certificate_of_ones_own_is_served_and_a_wrong_key_refused(lab: Lab) -> None:
    """Certificate in the pillar, its key among the secrets."""

    def issuer() -> str:
        return subprocess.run(
            f"openssl s_client -connect {lab.address}:443 </dev/null 2>/dev/null"
            " | openssl x509 -noout -issuer",
            shell=True, capture_output=True, text=True, timeout=120,
        ).stdout  # fmt: skip

    own = issuer()
    secret, pillar = "/etc/stack/secrets/site-key", "/srv/stack/pillar/secrets.sls"
    for name in ("mine", "other"):
        lab.run(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30"
            f" -subj /CN={name}.test -keyout /root/{name}.key -out /root/{name}.pem 2>/dev/null"
        )
    overlay = {
        "haproxy": {"tls": {"certificate": lab.run("cat /root/mine.pem"), "key": "site-key"}}
    }
    try:
        lab.run(f"umask 077; cp /root/other.key {secret}")
        refused = lab.apply(check=False, PILLAR=json.dumps(overlay))
        assert refused.returncode != 0
        assert "key: is not the certificate's" in refused.stdout
        assert issuer() == own
        lab.run(f"umask 077; cp /root/mine.key {secret}")
        # What would be served no longer after the next restart does not replace what is.
        there = lab.run("sha256sum /etc/haproxy/tls/* /etc/stack/pki/*")
        pem = overlay["haproxy"]["tls"]["certificate"]
        for bad, why in (
            (pem + pem[:-200], "block 2 is cut off"),
            (lab.run("cat /root/other.pem") + pem, "is block 2 and must be the first"),
        ):
            given = {"haproxy": {"tls": {"certificate": bad, "key": "site-key"}}}
            for test in ("1", ""):
                refused = lab.apply(check=False, SLS="haproxy", PILLAR=json.dumps(given), TEST=test)
                assert refused.returncode != 0
                assert why in refused.stdout
                assert refused.stdout.strip().endswith("0 changed, 1 failed")
            assert lab.run("sha256sum /etc/haproxy/tls/* /etc/stack/pki/*") == there
        lab.run("systemctl restart haproxy")
        lab.wait("it serves after a restart", lambda: issuer() == own)
        told = lab.apply(PILLAR=json.dumps(overlay)).stdout
        assert "PRIVATE KEY" not in told
        lab.wait("it is served", lambda: "mine.test" in issuer())
        key = "/etc/haproxy/tls/site.pem.key"
        assert lab.run(f"stat -c '%a %U %G' {key}").strip() == "640 root haproxy"
        # It has not the name by which the machine asks itself, and is well all the same.
        said = lab.make("-s", "status", check=False).stdout
        assert re.search(r"(?m)^\S+ +haproxy +haproxy +active .* ok +", said), said
        # And `make up` gives it to clients.
        mine = lab.run("cat /root/mine.pem").strip()
        assert lab.run("cat /etc/stack/pki/site.pem").strip() == mine
        # What answers with another key is not the site.
        live = "/etc/haproxy/tls/site.pem"
        lab.run(f"cp -p {live} /root/mine.kept && cat /root/other.pem > {live}")
        try:
            said = lab.make("-s", "status", check=False).stdout
            assert not re.search(r"(?m)^\S+ +haproxy +haproxy +active .* ok +", said), said
        finally:
            lab.run(f"cat /root/mine.kept > {live}")
    finally:
        lab.run(f"rm -f {secret} {pillar} /root/mine.* /root/other.*")
        lab.apply()
    lab.wait("the machine's own is back", lambda: issuer() == own)
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


def test_a_secret_in_a_wrong_form_is_refused_unseen_and_a_broken_one_is_mended(lab: Lab) -> None:
    """A password of two lines starts no instance, and what YAML made of `yes` is nobody's password."""
    pillar, secret = "/srv/stack/pillar/secrets.sls", "/etc/stack/secrets/redis-counter"
    before = lab.run("sha256sum /etc/stack/secrets/*")
    try:
        for value in (r'"line1\nhidden"', "{hidden: b}", "yes", "01234567"):
            lab.run(f"cat > {pillar} <<'E'\nsecrets:\n  redis-counter: {value}\nE")
            said = lab.run("cd /srv/stack && bootstrap/converge 2>&1 || true")
            assert "pillar secrets:redis-counter: " in said
            assert said.strip().endswith("0 changed, 1 failed"), said
            assert "hidden" not in said
            assert len(said.splitlines()) < 10, said
        assert lab.run("sha256sum /etc/stack/secrets/*") == before
        lab.run(f"rm {pillar}")
        # As an older version has left it.
        lab.run(f"printf 'line1\\nline2' > {secret}")
        lab.make("rotate", SECRET="redis-counter")
        assert lab.run(f"wc -l < {secret}").strip() == "0"
        lab.run("systemctl restart counter@1 && systemctl is-active counter@1")
        lab.wait("it is served", lab.serving)
    finally:
        lab.run(f"rm -f {pillar}")
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


def test_a_combined_pem_is_refused_before_its_key_is_anywhere(lab: Lab) -> None:
    lab.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30"
        " -subj /CN=mine.test -keyout /root/both.key -out /root/both.pem 2>/dev/null"
    )
    try:
        pem = lab.run("cat /root/both.pem /root/both.key")
        overlay = {"haproxy": {"tls": {"certificate": pem, "key": "site-key"}}}
        refused = lab.apply(check=False, PILLAR=json.dumps(overlay))
        assert refused.returncode != 0
        assert "pillar haproxy:tls:certificate: holds a private key" in refused.stdout
        assert pem.splitlines()[-2] not in refused.stdout + refused.stderr
        assert lab.run(
            "grep -rl 'PRIVATE KEY' /etc/stack/pki/*.pem /etc/haproxy || true"
        ).strip() in (
            "",
            "/etc/haproxy/tls/site.pem.key",
        )
    finally:
        lab.run("rm -f /root/both.*")
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")
