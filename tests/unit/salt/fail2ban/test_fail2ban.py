"""The filters catch every attack and no innocent; the jails that a machine gets are right."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

CORPORA = Path(__file__).parent / "corpora"
FILTERS = sorted(path.name.split(".")[0] for path in CORPORA.glob("*.attack.log"))
# In the corpora: attackers are these, whatever else a line says.
ATTACKERS = {"192.0.2.66", "2001:db8::66"}
GOOD = {"journal": ["_SYSTEMD_UNIT=a.service"], "maxretry": 5, "findtime": "1m", "bantime": "1h"}


@pytest.fixture(scope="module")
def config(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's configuration with the project's filters in it."""
    if not shutil.which("fail2ban-regex"):
        pytest.skip("no fail2ban on this computer")
    folder = tmp_path_factory.mktemp("fail2ban") / "etc"
    shutil.copytree("/etc/fail2ban", folder)
    for path in (root / "salt").glob("*/files/fail2ban/*.conf"):
        shutil.copy(path, folder / "filter.d")
    return folder


def hits(config: Path, name: str, corpus: Path) -> list[str]:
    """Addresses that the filter finds, in order."""
    options = "[mode=aggressive]" if name == "ssh-logins" else ""
    done = subprocess.run(
        [
            *("fail2ban-regex", "-c", str(config), "--usedns", "no", "-o", "ip", str(corpus)),
            f"{config}/filter.d/{name}.conf{options}",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.split()


def test_every_filter_has_its_corpora(root: Path) -> None:
    written = {path.stem for path in (root / "salt").glob("*/files/fail2ban/*.conf")}
    assert written == set(FILTERS)


@pytest.mark.parametrize("name", FILTERS)
def test_every_attack_is_found_and_its_own_address_named(config: Path, name: str) -> None:
    corpus = CORPORA / f"{name}.attack.log"
    found = hits(config, name, corpus)
    lines = corpus.read_text(encoding="utf-8").splitlines()
    wanted = [next(ip for ip in sorted(ATTACKERS) if ip in line) for line in lines]
    assert found == wanted


@pytest.mark.parametrize("name", FILTERS)
def test_no_innocent_line_is_found(config: Path, name: str) -> None:
    corpus = CORPORA / f"{name}.innocent.log"
    assert len(corpus.read_text(encoding="utf-8").splitlines()) >= 3
    assert hits(config, name, corpus) == []


@pytest.fixture
def jails(load_source: Callable[..., ModuleType]) -> Callable[..., Any]:
    def load(collected: dict[str, Any]) -> Any:
        return load_source(
            "salt/_modules/jails.py", salt={"formula.collect": lambda filename: collected}
        )

    return load


def test_a_jail_gets_its_filter_by_name_and_changes_from_the_pillar(jails: Any) -> None:
    found = jails({"shop": {"login": GOOD}}).collect({"login": {"bantime": "2d"}})
    assert found == {"login": {**GOOD, "enabled": True, "filter": "login", "bantime": "2d"}}


def test_two_formulas_cannot_share_a_jail(jails: Any) -> None:
    with pytest.raises(CommandExecutionError, match="another formula has a jail of this name"):
        jails({"a": {"login": GOOD}, "b": {"login": GOOD}}).collect()


def test_no_machine_can_ban_its_topology_or_its_trusted(rendered: Any) -> None:
    text = rendered.text("/etc/fail2ban/jail.local")
    ignored = set(re.search(r"(?m)^ignoreip = (.*)$", text)[1].split())  # type: ignore[index]
    wanted = {one["address"] for one in rendered.topology["machines"].values()}
    assert ignored >= wanted | set(rendered.topology["trusted"]) | {"127.0.0.0/8", "::1"}
    if "edge" in rendered.machine["roles"]:
        config = rendered.text("/etc/haproxy/haproxy.cfg")
        for line in re.findall(r"(?m)^    acl trusted src (.*)$", config):
            assert set(line.split()) >= ignored


def test_no_line_that_a_user_forges_can_ban(rendered: Any) -> None:
    """Each alternative of a journal match names a unit, which journald itself vouches for."""
    matches = re.findall(r"(?m)^journalmatch = (.*)$", rendered.text("/etc/fail2ban/jail.local"))
    assert matches
    for one in " + ".join(matches).split(" + "):
        assert re.search(r"(^| )_SYSTEMD_UNIT=[a-z0-9@-]+\.service( |$)", one), one


def test_every_jail_has_its_filter_beside_it(rendered: Any) -> None:
    text = rendered.text("/etc/fail2ban/jail.local")
    names = re.findall(r"(?m)^filter = ([a-z0-9-]+)", text)
    assert "ssh-logins" in names
    assert ("haproxy-scan" in names) == ("edge" in rendered.machine["roles"])
    for name in names:
        assert f"/etc/fail2ban/filter.d/{name}.conf" in rendered.files


@pytest.fixture(scope="module")
def dumped(
    config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, str]], str]:
    """`dumped({path: text})`: the commands that fail2ban's own client makes of a machine's configuration."""
    known: dict[tuple[tuple[str, str], ...], str] = {}

    def dump(files: dict[str, str]) -> str:
        key = tuple(sorted(files.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("dumped") / "etc"
            shutil.copytree(config, folder)
            for path, text in files.items():
                (folder / Path(path).relative_to("/etc/fail2ban")).write_text(text)
            known[key] = subprocess.run(
                ["fail2ban-client", "-c", str(folder), "-d"],
                capture_output=True,
                text=True,
                check=True,
                timeout=300,
            ).stdout
        return known[key]

    return dump


@pytest.mark.skipif(not shutil.which("fail2ban-client"), reason="no fail2ban on this computer")
def test_fail2ban_itself_reads_the_lines_of_those_units_alone(
    rendered: Any, dumped: Callable[[dict[str, str]], str]
) -> None:
    """Debian's filter for sshd would add `_COMM=sshd`, which any program can be called."""
    # Machines differ in whom they never ban, which says nothing of what is read.
    told = dumped(
        {
            path: re.sub(r"(?m)^ignoreip = .*$", "", rendered.text(path))
            for path in rendered.files
            if path.startswith("/etc/fail2ban/") and not path.endswith(".nft")
        }
    )
    matches = {}
    for line in told.splitlines():
        if line.startswith("[") and "'addjournalmatch'" in line:
            _, jail, _, *fields = ast.literal_eval(line)
            matches.setdefault(jail, []).append(fields)
    assert matches["sshd"] == [["_SYSTEMD_UNIT=ssh.service", "_UID=0"]]
    for jail, [fields] in matches.items():
        assert "+" not in fields, jail
        assert any(one.startswith("_SYSTEMD_UNIT=") for one in fields), jail


@pytest.mark.skipif(not shutil.which("fail2ban-client"), reason="no fail2ban on this computer")
@pytest.mark.parametrize("spoilt", [None, "jail.local"])
def test_fail2ban_itself_accepts_the_rendered_configuration(
    all_rendered: dict[Any, Any], root: Path, tmp_path: Path, spoilt: str | None
) -> None:
    one = all_rendered["dev", "dev"]
    for path in one.files:
        if path.startswith("/etc/fail2ban/"):
            target = tmp_path / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(one.data(path))
    if spoilt:
        with open(tmp_path / "etc/fail2ban" / spoilt, "a", encoding="utf-8") as file:
            file.write("[banana]\nenabled = true\nfilter = nowhere\n")
    check = str(root / "salt/fail2ban/files/check")
    done = subprocess.run(
        ["sh", check, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode == 0) == (spoilt is None), done.stderr
    assert ("nowhere" in done.stderr) == bool(spoilt)


# A jail of its own, which reads a file, takes four failures and bans into another file.
SERVER = """
[DEFAULT]
backend = polling
usedns = no
ignoreip = 2001:db8:9::5
ignoreself = false
action = networks.py
         note
maxmatches = 1
[door]
enabled = true
filter = door
logpath = {folder}/log
maxretry = 4
findtime = 10m
bantime = 1h
"""


@pytest.fixture
def door(config: Path, root: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The real fail2ban with one jail and the project's networks.py: `door("status")` asks its client."""
    folder = tmp_path / "etc"
    shutil.copytree(config, folder)
    for path in (folder / "jail.d").glob("*"):
        path.unlink()
    shutil.copy(root / "salt/fail2ban/files/networks.py", folder / "action.d")
    (folder / "action.d/note.conf").write_text(
        f"[Definition]\nactionban = echo + <ip> >>{tmp_path}/bans\n"
        f"actionunban = echo - <ip> >>{tmp_path}/bans\n"
    )
    (folder / "filter.d/door.conf").write_text("[Definition]\nfailregex = no entry for <ADDR>$\n")
    (folder / "fail2ban.local").write_text(
        f"[Definition]\ndbfile = {tmp_path}/db\nlogtarget = {tmp_path}/said\n"
    )
    (folder / "jail.local").write_text(SERVER.format(folder=tmp_path))
    (tmp_path / "log").write_text("")
    words = ["-c", str(folder), "-s", str(tmp_path / "socket"), "-p", str(tmp_path / "pid")]

    def ask(*command: str) -> str:
        done = subprocess.run(
            ["fail2ban-client", *words, *command], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    server = subprocess.Popen(["fail2ban-server", "-f", *words, "start"], stdout=subprocess.DEVNULL)
    try:
        wait("it answers", lambda: "pong" in ask("ping") and "door" in ask("status"))
        yield ask
    finally:
        server.terminate()
        server.wait(30)


def wait(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_an_ipv6_client_is_its_network_whatever_addresses_it_uses(
    door: Callable[..., str], tmp_path: Path
) -> None:
    """Counted and banned by single addresses, one host was never banned: it has as many as it wants."""

    def attack(addresses: list[str]) -> None:
        with open(tmp_path / "log", "a", encoding="utf-8") as log:
            for address in addresses:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} no entry for {address}\n")

    attack([f"2001:db8:0:7::{number:x}" for number in range(1, 5)])
    attack([f"2001:db8:0:{number:x}::1" for number in range(16, 20)])
    # One that is never banned, and an IPv4 client, which is one address.
    attack(["2001:db8:9::5"] * 6 + [f"192.0.2.{number}" for number in range(1, 5)])
    attack(["192.0.2.66"] * 4)
    # A ban is listed before what it does is done.
    bans = tmp_path / "bans"
    wait("bans", lambda: bans.exists() and "192.0.2.66\n" in bans.read_text())
    assert bans.read_text() == "+ 2001:db8:0:7::/64\n+ 192.0.2.66\n"
    assert sorted(door("get", "door", "banip").split()) == ["192.0.2.66", "2001:db8:0:7::/64"]
    # By hand, with the address that somebody complains of.
    assert door("unban", "2001:db8:0:7:1:2:3:4").strip() == "1"
    assert door("set", "door", "banip", "2001:db8:0:8::1").strip() == "1"
    wait("both", lambda: bans.read_text().endswith("- 2001:db8:0:7::/64\n+ 2001:db8:0:8::/64\n"))


def test_a_ban_closes_what_was_attacked_and_nothing_else(rendered: Any) -> None:
    """A web page's pictures had their viewer banned from ssh."""
    text = rendered.text("/etc/fail2ban/bans.nft")
    rules = re.findall(r"(?m)^        (meta l4proto .*|ip6? saddr .*) drop$", text)
    assert rules
    for rule in rules:
        ports = set(
            re.match(r"meta l4proto \{ tcp, udp \} th dport \{ ([\d, ]+) \} ", rule)[1].split(", ")
        )  # type: ignore[index]
        web = "haproxy-" in rule or "attacked-80" in rule
        assert ports == ({"80", "443"} if web else {"22"}), rule
        # A recidivist is shut out from what he attacked.
        assert ("@recidive-" in rule) == ("@attacked-" in rule), rule
    jails = re.findall(
        r"(?m)^\[([a-z0-9-]+)\]\nenabled = true", rendered.text("/etc/fail2ban/jail.local")
    )
    for name in jails:
        for family in "46":
            assert f"set {name}-{family} {{" in text
            assert any(f"@{name}-{family} " in rule + " " for rule in rules)


def test_jails_that_close_the_same_share_who_attacked_it(load_source: Any) -> None:
    found = load_source("salt/_modules/jails.py").attacked(
        {
            "a": {"enabled": True, "ports": [443, 80], "ignore": ["192.0.2.1"]},
            "b": {"enabled": True, "ports": [80, 443], "ignore": ["192.0.2.1", "2001:db8::1"]},
            "c": {"enabled": True},
            "off": {"enabled": False, "ports": [22]},
            "recidive": {"enabled": True},
        }
    )
    assert found == {
        "attacked-80-443": {
            "ports": [80, 443],
            "jails": ["a", "b"],
            "ignore": ["192.0.2.1", "2001:db8::1"],
        },
        "attacked-all": {"ports": [], "jails": ["c"], "ignore": []},
    }
    assert load_source("salt/_modules/jails.py").attacked({"a": {"enabled": True}}) == {}
