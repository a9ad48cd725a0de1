"""The filters catch every attack and no innocent; the jails that a machine gets are right."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable
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
        timeout=60,
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"maxretry": "banana"}, "maxretry: 'banana'"),
        ({"maxretry": True}, "maxretry: True"),
        ({"findtime": "1 minute"}, "findtime"),
        ({"bantime": None}, "bantime"),
        ({"journal": []}, "journal"),
        ({"journal": ["x=1\nbantime=1"]}, "journal"),
        ({"filter": "../x"}, "filter"),
        ({"ports": "22"}, "unknown key ports; known: "),
    ],
)
def test_a_wrong_value_names_formula_jail_and_key(jails: Any, change: Any, said: str) -> None:
    with pytest.raises(CommandExecutionError, match="shop/jail.yaml.j2: login: .*" + said[:12]):
        jails({"shop": {"login": {**GOOD, **change}}}).collect()


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


@pytest.mark.skipif(not shutil.which("fail2ban-client"), reason="no fail2ban on this computer")
def test_fail2ban_itself_reads_the_lines_of_those_units_alone(
    rendered: Any, config: Path, tmp_path: Path
) -> None:
    """Debian's filter for sshd would add `_COMM=sshd`, which any program can be called."""
    shutil.copytree(config, tmp_path / "etc")
    for path in rendered.files:
        if path.startswith("/etc/fail2ban/"):
            (tmp_path / path.lstrip("/").replace("fail2ban/", "")).write_bytes(rendered.data(path))
    told = subprocess.run(
        ["fail2ban-client", "-c", str(tmp_path / "etc"), "-d"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
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
        ["sh", check, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode == 0) == (spoilt is None), done.stderr
    assert ("nowhere" in done.stderr) == bool(spoilt)
