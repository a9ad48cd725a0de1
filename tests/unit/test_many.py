"""Several machines: who gets which secret, in which order they are converged, who is spared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import access, certificates, fleet, lab, machines, pillar, remote, vault
from control.errors import Refused
from control.topology import Machine, Topology


def topology(**roles: list[str]) -> Topology:
    found = {
        name: Machine(name, f"10.0.0.{number}", tuple(given))
        for number, (name, given) in enumerate(roles.items(), 2)
    }
    return Topology("test", "counter.test", IPv4Network("10.0.0.0/24"), found)


PROD = topology(edge1=["edge"], app1=["app"], app2=["app"], store1=["store"], monitor1=["monitor"])
ONE = topology(one=["edge", "app", "store", "monitor"])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept of a topology is kept here."""
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    return tmp_path


# --- secrets --------------------------------------------------------------------------------------


def test_a_machine_gets_the_secrets_of_its_roles_and_no_others() -> None:
    given = {name: vault.of(PROD, machine) for name, machine in PROD.machines.items()}
    assert {name: sorted(found) for name, found in given.items()} == {
        "edge1": ["pki"],
        "app1": ["pki", "redis-counter"],
        "app2": ["pki", "redis-counter"],
        "store1": ["backup-identity", "pki", "redis-counter"],
        "monitor1": ["pki"],
    }
    assert "AGE-SECRET-KEY-1" in str(given["store1"]["backup-identity"])
    passwords = {found["redis-counter"] for found in given.values() if "redis-counter" in found}
    assert len(passwords) == 1, "app and store know the same"
    keys = {found["pki"]["key"] for found in given.values()}  # type: ignore[index]
    assert len(keys) == 5, "each has a key of its own"


def test_a_topology_of_one_machine_makes_its_own_secrets(home: Path) -> None:
    assert vault.of(ONE, ONE.machines["one"]) == {}
    assert [path for path, _, _ in pillar.files(ONE, "one", "1")] == [pillar.IDENTITY]
    assert not (home / ".lab").exists()


def test_secrets_are_made_once_also_by_many_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: vault.of(PROD, PROD.machines["app1"]), range(16)))
    assert all(one == found[0] for one in found)


def test_what_is_kept_is_for_its_owner_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        vault.of(PROD, PROD.machines["app1"])
    finally:
        os.umask(before)
    place = home / ".lab" / "test" / "secrets"
    assert place.stat().st_mode & 0o777 == 0o700
    for path in place.iterdir():
        if path.stat().st_size:
            assert path.stat().st_mode & 0o777 == 0o600, path


def test_secrets_travel_in_a_file_of_their_own_that_only_root_reads() -> None:
    files = {path: (text, mode) for path, text, mode in pillar.files(PROD, "app1", "1")}
    text, mode = files[pillar.SECRETS]
    assert mode == 0o600
    assert set(yaml.safe_load(text)) == {"pki", "redis-counter"}
    assert b"PRIVATE KEY" not in files[pillar.IDENTITY][0]


def test_the_ca_key_never_leaves_the_controller(home: Path) -> None:
    (home / "x").mkdir()
    for host in PROD.machines:
        sent = b"".join(text for _, text, _ in pillar.files(PROD, host, "1"))
        for path in (home / ".lab/test/secrets").glob("*.key"):
            own = path.name == f"machine-{host}.key"
            body = path.read_text().splitlines()[1]
            assert (body.encode() in sent) == own, f"{path.name} in what {host} gets"


def test_machines_believe_the_certificate_that_the_controller_makes(
    load_source: Callable[..., Any],
) -> None:
    """Judged by the formula's own eyes."""
    checks = load_source("salt/_utils/certificate_checks.py")
    machine = PROD.machines["app1"]
    parts = vault.of(PROD, machine)["pki"]
    assert checks.problems(parts, "app1", [machine.address, "127.0.0.1"], 30) == []


def test_an_application_gets_a_certificate_of_its_own_that_passes_for_no_machine(
    load_source: Callable[..., Any], home: Path
) -> None:
    """Judged by the formula's own eyes. Each machine with an application gets its own, no other any."""
    checks = load_source("salt/_utils/certificate_checks.py")
    given = {host: vault.of(PROD, machine)["pki"] for host, machine in PROD.machines.items()}
    keys = set()
    for host, parts in given.items():
        assert isinstance(parts, dict)
        assert checks.identity_shape(parts) is None
        own = parts.get("application")
        assert bool(own) == ("app" in PROD.machines[host].roles)
        if own:
            own = {**own, "ca": parts["ca"]}
            assert (
                checks.problems(
                    own, certificates.application(host), renew_days=30, application=True
                )
                == []
            )
            assert checks.problems(own, host) != []
            keys |= {own["key"], parts["key"]}
    assert len(keys) == 4
    assert given == {host: vault.of(PROD, one)["pki"] for host, one in PROD.machines.items()}
    vault.drop(PROD, "app1")
    assert not list((home / ".lab/test/secrets").glob("*app1*"))


def test_a_certificate_is_made_anew_when_it_no_longer_fits_or_lasts(home: Path) -> None:
    machine = PROD.machines["app1"]
    first = vault.of(PROD, machine)["pki"]
    assert vault.of(PROD, machine)["pki"] == first
    moved = Machine("app1", "10.0.0.99", ("app",))
    second = vault.of(PROD, moved)["pki"]
    assert second != first
    assert second["ca"] == first["ca"], "the others still trust it"  # type: ignore[index]
    place = home / ".lab/test/secrets"
    ca, ca_key = (place / "ca.crt").read_text(), (place / "ca.key").read_text()
    old, key = certificates.issue(ca, ca_key, "app1", ["10.0.0.99", "127.0.0.1"], 29)
    (place / "machine-app1.crt").write_text(old)
    (place / "machine-app1.key").write_text(key)
    assert vault.of(PROD, moved)["pki"]["certificate"] != old  # type: ignore[index]


def test_an_interrupted_rotation_goes_on_with_the_value_it_had(home: Path) -> None:
    app = PROD.machines["app1"]
    old = vault.of(PROD, app)["redis-counter"]
    vault.rotate(PROD, "redis-counter")
    new = vault.of(PROD, app)["redis-counter"]
    assert new != old
    vault.rotate(PROD, "redis-counter")
    assert vault.of(PROD, app)["redis-counter"] == new
    vault.forget(PROD, "redis-counter")
    vault.rotate(PROD, "redis-counter")
    assert vault.of(PROD, app)["redis-counter"] not in (old, new)


@pytest.fixture
def reached(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """`{host: what it answers}`, in a checkout that has nothing but the ssh configuration."""
    (home / ".lab" / "test").mkdir(parents=True)
    (home / ".lab" / "test" / "ssh_config").write_text("Host *\n")
    answers: dict[str, str] = {}
    monkeypatch.setattr(remote, "run", lambda where, host, *words, **more: answers.get(host, ""))
    return answers


@pytest.mark.parametrize("act", ["of", "rotate"])
def test_secrets_are_not_made_anew_for_machines_that_share_some(
    home: Path, reached: dict[str, str], act: str
) -> None:
    """Else a deploy from a new checkout cuts the machines off from each other."""
    reached["store1"] = "yes\n"
    with pytest.raises(Refused, match=r"store1 has secrets .* DEPLOY_STATE.*, nothing was changed"):
        if act == "of":
            vault.of(PROD, PROD.machines["app1"])
        else:
            vault.rotate(PROD, "redis-counter")
    assert [one.name for one in (home / ".lab/test/secrets").iterdir()] == [".lock"]
    reached.clear()
    assert vault.of(PROD, PROD.machines["app1"]), "new machines get them all the same"
    reached["store1"] = "yes\n"
    assert vault.of(PROD, PROD.machines["app2"]), "this is where they were made"


def test_a_machine_in_a_cloud_is_not_told_the_labs_addresses(reached: dict[str, str]) -> None:
    reached["app1"] = "/srv/stack.d/1\ncloud\n"
    with pytest.raises(Refused, match=r"app1 is in a cloud, .*cloud\.yaml from where"):
        remote.carry(PROD, "app1", "1")


def test_a_second_controller_is_given_all_that_the_first_has(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {name: vault.of(PROD, one) for name, one in PROD.machines.items()}
    folder = home / ".lab" / "test"
    (folder / "cloud.yaml").write_text("network: 10.0.0.0/24\n")
    (home / "id").write_text("a key\n")
    (folder / "ssh_config").write_text(
        f"Host app1\n  IdentityFile {home}/id\nHost *\n  IdentityFile {home}/id\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  ControlPath {home}/x/%C\n"
    )
    text = access.pack(PROD)
    assert len(text) < access.LARGEST, "more than a variable of GitLab takes"
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setattr(lab, "ROOT", other)
    monkeypatch.setattr(lab, "CACHE", other / "cache")
    monkeypatch.setattr(remote, "run", lambda *words, **more: "yes\n")
    before = os.umask(0)
    try:
        access.unpack(PROD, text)
    finally:
        os.umask(before)
    assert {name: vault.of(PROD, one) for name, one in PROD.machines.items()} == first
    config = (other / ".lab/test/ssh_config").read_text()
    assert str(home) not in config
    assert config.count(f"IdentityFile {other}/.lab/test/keys/key-1\n") == 2
    assert (other / ".lab/test/keys/key-1").read_text() == "a key\n"
    assert f"ControlPath {other}/cache/ssh/%C" in config
    for path in (other / ".lab").rglob("*"):
        if path.name != ".lock":
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    for wrong in ("nothing", text[: len(text) // 2]):
        with pytest.raises(Refused, match="not what 'control.access pack' gives"):
            access.unpack(PROD, wrong)


# --- order ----------------------------------------------------------------------------------------


def test_machines_come_after_those_they_need() -> None:
    assert fleet.order(PROD) == ["store1", "app1", "app2", "edge1", "monitor1"]
    both = topology(one=["edge", "app"], two=["edge", "app"], s=["store"])
    assert fleet.order(both) == ["s", "one", "two"]


def test_machines_that_serve_are_never_all_worked_on_at_once() -> None:
    assert fleet.batches(PROD, fleet.order(PROD)) == [
        ["store1"],
        ["app1"],
        ["app2"],
        ["edge1"],
        ["monitor1"],
    ]
    many = topology(e=["edge"], s=["store"], **{f"app{n}": ["app"] for n in range(20)})
    sizes = [len(group) for group in fleet.batches(many, fleet.order(many))]
    assert sizes == [1, 5, 5, 5, 5, 1]


def test_machines_that_are_new_are_converged_together() -> None:
    new = ["app1", "app2", "store1"]
    assert fleet.batches(PROD, fleet.order(PROD), new)[:3] == [
        ["store1"],
        ["app1", "app2"],
        ["edge1"],
    ]


def test_where_nobody_serves_yet_only_applications_wait() -> None:
    assert fleet.batches(PROD, fleet.order(PROD), list(PROD.machines)) == [
        ["store1", "edge1", "monitor1"],
        ["app1", "app2"],
    ]
    assert fleet.batches(ONE, ["one"], ["one"]) == [["one"]]


def converge(
    codes: dict[str, int], monkeypatch: pytest.MonkeyPatch, **more: Any
) -> tuple[list[str], dict[str, int]]:
    """Who was converged, in which order, and who failed, when machines end with `codes`."""
    done: list[str] = []
    lock = threading.Lock()

    def one(where: Topology, host: str, words: list[str]) -> int:
        with lock:
            done.append(host)
        if codes.get(host) == -1:
            raise Refused(f"{host}: cannot be reached")
        return codes.get(host, 0)

    monkeypatch.setattr(fleet, "wait_for_edges", lambda *_: None)
    return done, machines.converge(PROD, fleet.order(PROD), [], one, **more)


def test_a_machine_that_cannot_be_reached_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, failed = converge({"app1": 255}, monkeypatch)
    assert done == ["store1", "app1", "app2", "edge1", "monitor1"]
    assert failed == {"app1": 255}


def test_what_breaks_one_machine_is_not_done_to_the_next_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, failed = converge({"app1": 2}, monkeypatch)
    assert done == ["store1", "app1", "edge1", "monitor1"]
    assert failed == {"app1": 2, "app2": 1}
    assert "app2: left as it is, for app1 failed" in capsys.readouterr().err


def test_an_edge_that_cannot_be_asked_is_named_once_and_the_others_finish(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def one(where: Topology, host: str, words: list[str]) -> int:
        done.append(host)
        return 255 if host == "edge1" else 0

    def run(where: Topology, host: str, command: str) -> str:
        raise Refused(f"{host}: ssh: connect to host: timed out")

    monkeypatch.setattr(remote, "run", run)
    failed = machines.converge(PROD, fleet.order(PROD), [], one)
    assert done == ["store1", "app1", "app2", "edge1", "monitor1"]
    assert failed == {"edge1": 255}
    said = capsys.readouterr().err
    assert said.count("timed out") == 1 and "edge1: not asked whether it uses app1" in said
    hosts = [host for host in fleet.order(PROD) if host != "edge1"]
    assert machines.converge(PROD, hosts, [], one, known=["edge1"]) == {}
    assert capsys.readouterr().err == "", "it was named already"
    with pytest.raises(Refused, match="timed out"):
        fleet.wait_for_edges(PROD, ["app1"])


def test_a_connection_that_is_killed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from control import __main__ as main

    monkeypatch.setattr(remote, "ssh", lambda *_, **__: ["sh", "-c", "kill -9 $$"])
    monkeypatch.setattr(main, "confirm_firewall", lambda *_: 0)
    for where, host in ((PROD, "app1"), (ONE, "one")):
        assert main.converge(where, host, []) == 137


def test_a_formula_alone_is_applied_where_roles_bring_it() -> None:
    def having(formulas: str, *hosts: str) -> dict[str, list[str]]:
        return machines.having(PROD, hosts or list(PROD.machines), formulas)

    assert having("haproxy") == {"edge1": ["haproxy"]}
    assert having("base.people") == {host: ["base.people"] for host in PROD.machines}
    assert having("redis,counter") == {
        "app1": ["counter"],
        "app2": ["counter"],
        "store1": ["redis"],
    }
    with pytest.raises(Refused, match="SLS=haproxy: nothing for app1, by roles"):
        having("haproxy", "app1")
    with pytest.raises(Refused, match="SLS=haprox: no formula of salt/top.sls, which has base, "):
        having("haprox")


def test_before_a_machine_goes_the_edge_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = converge({}, monkeypatch, edges_first=True)
    assert done == ["edge1", "store1", "app1", "app2", "monitor1"]


def test_the_exit_code_and_a_line_say_who_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert machines.summary(PROD, list(PROD.machines), {"monitor1": 1, "app1": 255}) == 255
    assert capsys.readouterr().err == "2 of 5 machines failed: app1, monitor1\n"
    assert machines.summary(ONE, ["one"], {}) == 0


def test_one_that_refuses_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(host: str) -> int:
        if host == "app1":
            raise Refused("app1: ssh: connect to host: timed out")
        if host == "app2":
            raise Refused("nothing there")
        return -15 if host == "edge1" else 0

    codes = fleet.each(PROD, work)
    assert codes == {"edge1": 143, "app1": 1, "app2": 1, "store1": 0, "monitor1": 0}
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == ["app1: ssh: connect to host: timed out", "app2: nothing there"]


# --- machines come and go -------------------------------------------------------------------------


def made(home: Path, *names: str) -> None:
    """As if 'make up' had made these."""
    data = {
        "name": "test",
        "domain": "counter.test",
        "network": "10.0.0.0/24",
        "machines": {
            name: {"address": f"10.0.0.{number}", "roles": ["edge", "app", "store"]}
            for number, name in enumerate(names, 2)
        },
    }
    (home / ".lab" / "test").mkdir(parents=True, exist_ok=True)
    (home / ".lab" / "test" / "topology.yaml").write_text(yaml.safe_dump(data))


def test_a_machine_that_the_topology_lost_is_known_to_be_there(home: Path) -> None:
    assert machines.refuse_swap(PROD) == []
    made(home, "edge1", "app1", "app2", "store1", "monitor1", "app3")
    assert machines.refuse_swap(PROD) == ["app3"]


def test_to_add_and_to_take_away_at_once_is_refused(home: Path) -> None:
    made(home, "edge1", "app1", "app3", "store1", "monitor1")
    with pytest.raises(Refused, match="lost app3 and gained app2: first add"):
        machines.refuse_swap(PROD)


def test_a_new_machine_wants_up_before_apply(home: Path) -> None:
    made(home, "edge1", "app1", "store1", "monitor1")
    assert machines.refuse_swap(PROD) == []
    with pytest.raises(Refused, match="app2: new in the topology: 'make up' makes it"):
        machines.refuse_swap(PROD, booted=True)


# --- output ---------------------------------------------------------------------------------------


def test_lines_of_several_machines_say_whose_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "ssh", lambda *a, **k: ["printf", "one\ntwo\n"])
    assert remote.stream(PROD, "app1", "x", fleet.label(PROD, "app1")) == 0
    assert capsys.readouterr().out == "app1      one\napp1      two\n"
    assert fleet.label(ONE, "one") == ""


def test_the_checkouts_own_machine_files_never_travel(root: Path) -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", pillar.IDENTITY, pillar.SECRETS, ".lab/prod/secrets/ca.key"],
        cwd=root,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert len(ignored) == 3


# --- salt-ssh, salt-master ------------------------------------------------------------------------


def roster(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """`salt/_etc/roster` as Salt's `py` renderer runs it, from the root of a checkout."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TOPOLOGY", name)
    names: dict[str, Any] = {}
    source = (root / "salt" / "_etc" / "roster").read_text()
    exec(compile(source, "roster", "exec"), names)
    return names["run"]()


def test_the_roster_of_salt_ssh_is_the_topology(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pillar" / "topologies").mkdir(parents=True)
    source = root / "pillar" / "topologies" / "prod.yaml"
    (tmp_path / "pillar" / "topologies" / "prod.yaml").write_text(source.read_text())
    with pytest.raises(ValueError, match="no machines of topology prod are up: 'make up' first"):
        roster(root, tmp_path, monkeypatch, "prod")
    (tmp_path / ".lab" / "prod").mkdir(parents=True)
    (tmp_path / ".lab" / "prod" / "ssh_config").write_text(
        'Host edge1\n  HostName 192.168.56.20\n  User vagrant\n  Port 2222\n  IdentityFile "/k"\n'
        "  UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n\n"
        "Host app1\n  HostName 203.0.113.7\n  User root\n\nHost *\n  IdentityFile /common\n"
    )
    found = roster(root, tmp_path, monkeypatch, "prod")
    assert list(found) == ["edge1", "app1"], "those that can be reached"
    assert found["edge1"] | {"ssh_options": None} == {
        "host": "192.168.56.20",
        "user": "vagrant",
        "port": 2222,
        "priv": "/k",
        "sudo": True,
        "ssh_options": None,
        "grains": {"roles": ["edge"]},
    }
    assert "StrictHostKeyChecking=no" in found["edge1"]["ssh_options"]
    assert (found["app1"]["priv"], found["app1"]["sudo"]) == ("/common", False)
    # A key that was never seen is not accepted where nobody said so.
    assert "StrictHostKeyChecking=yes" in found["app1"]["ssh_options"]


def test_under_a_master_a_minion_gets_its_roles_and_only_its_secrets(
    root: Path, tmp_path: Path
) -> None:
    """The example of docs/salt-master.md, compiled by the code a master runs for a minion."""
    text = (root / "docs" / "salt-master.md").read_text(encoding="utf-8")
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    for part in ("salt", "pillar"):
        (tmp_path / part).symlink_to(root / part)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "app1.yaml").write_text("secrets: {redis-counter: of-app1}\n")
    (secrets / "edge1.yaml").write_text("secrets: {pki: of-edge1}\n")
    asked = subprocess.run(
        [sys.executable, "-c", MASTER, str(tmp_path), json.dumps(example)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert asked.returncode == 0, asked.stderr[-3000:]
    found = json.loads(asked.stdout.splitlines()[-1])
    assert found["app1"]["pillar"]["machine"]["roles"] == ["app"]
    assert found["app1"]["pillar"]["secrets"] == {"redis-counter": "of-app1"}
    assert found["edge1"]["pillar"]["secrets"] == {"pki": "of-edge1"}
    assert found["app1"]["pillar"]["machine"]["address"] == "192.168.56.31"
    assert "counter" in found["app1"]["top"]
    assert "haproxy" not in found["app1"]["top"]
    assert "haproxy" in found["edge1"]["top"]
    assert "error" in found["stranger"], "a minion that the topology does not name gets nothing"


# Pillar and top file of minions as a master compiles them for each.
MASTER = """
import json, sys
import salt.config, salt.pillar, salt.state
root, example = sys.argv[1], json.loads(sys.argv[2])
state = f"{root}/state"
found = {}
for minion in ("app1", "edge1", "stranger"):
    master = salt.config.apply_master_config()
    options = {**salt.config.DEFAULT_MINION_OPTS, **master, **example}
    options |= {
        "file_roots": {"base": [f"{root}/salt"]}, "pillar_roots": {"base": [f"{root}/pillar"]},
        "ext_pillar": [{"cmd_yaml": f"cat {root}/secrets/%s.yaml"}],
        "id": minion, "file_client": "local", "cachedir": f"{state}/cache", "root_dir": state,
        "pki_dir": f"{state}/pki", "extension_modules": f"{state}/ext", "module_dirs": [f"{root}/salt"],
        "renderer": "jinja|yaml", "__role": "minion", "log_file": f"{state}/log", "sock_dir": state,
    }
    grains = {"id": minion, "os": "Debian", "os_family": "Debian"}
    pillar = salt.pillar.Pillar(options, grains, minion, "base").compile_pillar()
    if "_errors" in pillar:
        found[minion] = {"error": pillar["_errors"]}
        continue
    options |= {"grains": grains, "pillar": pillar}
    highstate = salt.state.HighState(options, pillar_override=pillar, initial_pillar=pillar)
    with highstate:
        top = highstate.top_matches(highstate.get_top())
    found[minion] = {"pillar": pillar, "top": top["base"]}
print(json.dumps(found, default=str))
"""
