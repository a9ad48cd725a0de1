"""A secret that somebody gives reaches the machines that need it and no others, and no machine makes it up."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from control import (
    controller_state,
    local_state,
    machine_pillar,
    paths,
    salt_copy,
    settings,
    ssh,
    topology,
)
from control.commands import secret as secret_command
from control.credentials import given_secrets, shared_secrets
from control.errors import ControlError
from control.options import Options
from control.topology import Machine, Topology
from tests.unit.conftest import RELEASE, ask_salt, prepare

KEY = "-----BEGIN PRIVATE KEY-----\nof the site\n-----END PRIVATE KEY-----"


def made(*machines: tuple[str, str]) -> Topology:
    found = {
        name: Machine(name, f"10.0.0.{number}", tuple(roles.split()))
        for number, (name, roles) in enumerate(machines, 2)
    }
    return Topology("test", "counter.test", IPv4Network("10.0.0.0/24"), found)


TWO = made(("edge1", "edge monitor"), ("back1", "app store"))
ONE = made(("one", "edge app store monitor"))


@pytest.fixture
def tree(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose topology `test` serves a certificate of its own."""
    (tmp_path / "salt").symlink_to(root / "salt")
    (tmp_path / "pillar" / "settings").mkdir(parents=True)
    (tmp_path / "pillar" / "settings.sls").write_text("# Comments and nothing else.\n{}\n")
    own = {"haproxy": {"tls": {"certificate": "PEM", "key": "site-key"}}}
    (tmp_path / "pillar" / "settings" / "test.sls").write_text(yaml.safe_dump(own))
    for module in (local_state, given_secrets, machine_pillar, settings):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in ("SECRET", "HOST", "FORGET"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def delivered(where: Topology, host: str) -> dict[str, Any]:
    """The secrets in a machine's own pillar; for root alone."""
    for path, text, mode in machine_pillar.make_files(where, host, "1"):
        if path == paths.SECRETS:
            assert mode == 0o600
            return dict(yaml.safe_load(text))
    return {}


def typed(monkeypatch: pytest.MonkeyPatch, where: Topology, value: str, **words: str) -> int:
    for name in ("SECRET", "HOST", "FORGET"):
        monkeypatch.delenv(name, raising=False)
    for name, word in words.items():
        monkeypatch.setenv(name, word)
    stdin = SimpleNamespace(buffer=io.BytesIO(value.encode()), isatty=lambda: False)
    monkeypatch.setattr(secret_command.sys, "stdin", stdin)
    return secret_command.run(where, Options.read())


@pytest.mark.parametrize("words", [{}, {"HOST": "edge1"}])
def test_of_two_machines_only_the_one_that_needs_it_is_given_the_certificates_key(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Any
) -> None:
    before = os.umask(0)
    try:
        assert typed(monkeypatch, TWO, f"{KEY}\n", SECRET="site-key", **words) == 0
    finally:
        os.umask(before)
    said = capsys.readouterr().out
    assert (
        said
        == "site-key: kept for edge1; 'make apply TOPOLOGY=test' brings it there, a deploy too\n"
    )
    assert delivered(TWO, "edge1")["site-key"] == KEY
    assert set(delivered(TWO, "back1")) == {"pki", "redis-counter", "backup-identity"}
    for path in (tree / ".lab/test/secrets").iterdir():
        assert path.name == ".lock" or path.stat().st_mode & 0o777 == 0o600, path


def test_a_machine_made_anew_is_given_it_again_and_so_is_a_new_one_of_its_role(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, TWO, KEY, SECRET="site-key")
    shared_secrets.delete_machine_keys(TWO, "edge1")
    assert delivered(TWO, "edge1")["site-key"] == KEY
    three = made(("edge1", "edge"), ("back1", "app store"), ("edge2", "edge"))
    assert delivered(three, "edge2")["site-key"] == KEY


def test_a_bucket_s_keys_go_to_the_store_of_any_topology(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fetches the backup must not be in the backup, nor lost with the machine."""
    for where, host in ((TWO, "back1"), (ONE, "one")):
        shutil.rmtree(tree / ".lab", ignore_errors=True)
        for name in ("backup-s3-id", "backup-s3-key"):
            typed(monkeypatch, where, f"the {name}", SECRET=name)
        found = delivered(where, host)
        assert found["backup-s3-id"] == "the backup-s3-id"
        assert found["backup-s3-key"] == "the backup-s3-key"
    shutil.rmtree(tree / ".lab")
    assert delivered(ONE, "one") == {}


def test_a_later_value_replaces_the_one_before_wherever_that_was_given(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, TWO, "first", SECRET="site-key", HOST="edge1")
    typed(monkeypatch, TWO, "second", SECRET="site-key")
    assert delivered(TWO, "edge1")["site-key"] == "second"
    capsys.readouterr()
    typed(monkeypatch, TWO, "")
    assert capsys.readouterr().out == "site-key: for edge1\n", "names, never values"
    typed(monkeypatch, TWO, "", SECRET="site-key", FORGET="1")
    assert "site-key" not in delivered(TWO, "edge1")
    with pytest.raises(ControlError, match="SECRET=site-key: none is kept for topology test"):
        typed(monkeypatch, TWO, "", SECRET="site-key", FORGET="1")


@pytest.mark.parametrize(
    ("value", "words", "said"),
    [
        ("x", {"SECRET": "site-kye"}, "names such a secret; did you mean site-key?"),
        ("x", {"SECRET": "../x"}, "SECRET=../x: use a-z, 0-9 and -"),
        ("x", {"SECRET": "site-key", "FORGET": "yes"}, "FORGET=yes: use FORGET=1"),
        ("x", {"SECRET": "pki"}, "SECRET=pki: is made and signed, not given"),
        (
            "x",
            {"SECRET": "site-key", "HOST": "back1"},
            "nothing there uses site-key; it is for edge1",
        ),
        ("x", {"SECRET": "site-key", "HOST": "egde1"}, "HOST=egde1: no such machine"),
        (" \n", {"SECRET": "site-key"}, "its value is empty; nothing was changed"),
        ("a\0b", {"SECRET": "site-key"}, "its value is no text"),
        ("x" * 70_000, {"SECRET": "site-key"}, "standard input: more than 65536 bytes"),
        ("x", {"SECRET": "backup-identity"}, "backup-identity: needs an age identity"),
        (
            "x",
            {"SECRET": "redis-counter", "HOST": "back1"},
            "is shared by app, store: leave HOST out",
        ),
    ],
)
def test_what_is_not_to_be_given_is_refused_in_one_line_and_nothing_is_kept(
    tree: Path, monkeypatch: pytest.MonkeyPatch, value: str, words: dict[str, str], said: str
) -> None:
    with pytest.raises(ControlError, match=re.escape(said)) as no:
        typed(monkeypatch, TWO, value, **words)
    assert no.value.code == 2
    assert "\n" not in str(no.value)
    assert given_secrets.list_kept(TWO) == {}


def test_a_shared_secret_is_given_to_all_that_share_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = made(("edge1", "edge"), ("app1", "app"), ("store1", "store"))
    typed(monkeypatch, three, "of another system", SECRET="redis-counter")
    for host in ("app1", "store1"):
        assert delivered(three, host)["redis-counter"] == "of another system"
    assert "redis-counter" not in delivered(three, "edge1")
    shared_secrets.rotate(three, "redis-counter")
    assert delivered(three, "app1")["redis-counter"] != "of another system"


def test_settings_that_only_salt_can_read_want_a_host(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "pillar/settings/test.sls").write_text("{% set a = 1 %}\nhaproxy: {}\n")
    with pytest.raises(
        ControlError, match=r"settings/test.sls: not plain YAML.* HOST=… says for which"
    ):
        typed(monkeypatch, TWO, KEY, SECRET="site-key")
    typed(monkeypatch, TWO, KEY, SECRET="site-key", HOST="edge1")
    assert delivered(TWO, "edge1")["site-key"] == KEY


def test_a_second_controller_and_a_pipeline_have_what_was_given(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, TWO, KEY, SECRET="site-key")
    first = {host: delivered(TWO, host) for host in TWO.machines}
    (tree / ".lab/test/ssh_config").write_text("Host *\n")
    text = controller_state.export_state(TWO)
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setattr(local_state, "ROOT", other)
    monkeypatch.setattr(local_state, "CACHE", other / "cache")
    monkeypatch.setattr(ssh, "run", lambda *words, **more: "yes\n")
    controller_state.import_state(TWO, text.encode())
    assert {host: delivered(TWO, host) for host in TWO.machines} == first


def test_given_names_are_those_that_the_machines_know(
    root: Path, ask_dev: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller reads schemas without Salt: it must come to what a machine comes to."""
    names = given_secrets.find_users(topology.load("dev"))
    wrong = {"secrets": {"nobody-s": "x"}}
    (answer,) = ask_dev([["state.show_sls", ["base"], {"pillar": wrong}]])
    known = re.search(r"known: ([a-z0-9, -]+)", str(answer))
    assert known
    assert sorted(names) == known[1].split(", ")


# --- what nobody can make up ----------------------------------------------------------------------


def test_no_machine_makes_up_what_another_system_must_know(tmp_path: Path) -> None:
    """Else the pager refuses a random token, and nobody is woken."""
    settings = {
        "haproxy": {"tls": {"certificate": "PEM", "key": "site-key"}},
        "prometheus": {
            "alerts": {
                "webhook": "https://a.example",
                "webhook_token": "pager",
                "email": {"password": "smtp"},
            }
        },
        "filebeat": {
            "output": {"password": "beats", "api_key": "api", "tls": {"key": "beats-key"}}
        },
        "counter": {"credentials": {"redis-password": "redis-counter", "pay": "pay-token"}},
        "redis": {"users": {"report": {"secret": "redis-report", "keys": [], "commands": ["get"]}}},
    }
    kinds = {
        **dict.fromkeys(
            ("site-key", "pager", "smtp", "beats", "api", "beats-key", "pay-token"), "given"
        ),
        **dict.fromkeys(("backup-s3-id", "backup-s3-key", "never-heard-of"), "given"),
        **dict.fromkeys(
            ("redis-counter", "redis-admin", "redis-monitor", "redis-backup"), "random"
        ),
        "redis-report": "random",
        "backup-identity": "age",
    }
    prepare(tmp_path / "dev", {"topology": "dev", "name": "dev", "release": RELEASE})
    (tmp_path / "dev/pillar/settings.sls").write_text(yaml.safe_dump(settings))
    answers = ask_salt(tmp_path / "dev", [["formula.secret_kind", [name], {}] for name in kinds])
    assert dict(zip(kinds, answers, strict=True)) == kinds


def test_no_state_says_itself_that_a_secret_can_be_made(root: Path) -> None:
    """Whether it can is said once, where the secret is declared (formula.secret_kind)."""
    for path in sorted((root / "salt").glob("*/*.sls")):
        for chunk in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8")):
            if "secret.present:" in chunk:
                assert "kind:" not in chunk, f"{path.relative_to(root)}: {chunk}"


def test_a_state_asks_what_becomes_of_its_secret(load_source: Callable[..., Any]) -> None:
    asked: list[tuple[str, ...]] = []
    state = load_source(
        "salt/_states/secret.py",
        salt={
            "formula.secret_kind": lambda name: "given",
            "secret.pending": lambda *words: asked.append(words),
        },
    )
    state.present("pager")
    assert asked == [("pager", "given")]


# --- one topology's settings ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pillars(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What real Salt has of common settings, of settings per topology, and of wrong ones."""
    own = {"counter": {"instances": 3}, "base": {"timezone": "Etc/GMT"}}
    common = {"counter": {"instances": 2, "drain_seconds": 7}, "redis": {"maxmemory": "32mb"}}
    cases: dict[str, dict[str, Any]] = {
        "both": {"settings.sls": common, "settings/dev.sls": own},
        "another's": {"settings.sls": common, "settings/prod.sls": own},
        "wrong": {"settings/dev.sls": {"counter": {"instancse": 3}}},
    }
    configs: list[Path] = []
    for files in cases.values():
        tree = tmp_path_factory.mktemp("pillar") / "dev"
        identity = {"topology": "dev", "name": "dev", "release": RELEASE}
        configs.append(prepare(tree, identity))
        for path, data in files.items():
            (tree / "pillar" / path).parent.mkdir(exist_ok=True)
            (tree / "pillar" / path).write_text(yaml.safe_dump(data))
    questions: list[list[Any]] = [["pillar.raw", [], {}], ["formula.problems", [], {}]]
    return dict(zip(cases, salt_copy.ask(configs, questions), strict=True))


def test_a_topology_s_settings_lie_over_the_common_ones(pillars: dict[str, Any]) -> None:
    items, problems = pillars["both"]
    assert problems == []
    assert items["counter"] == {"instances": 3, "drain_seconds": 7}
    assert items["redis"] == {"maxmemory": "32mb"}
    assert items["base"] == {"timezone": "Etc/GMT"}
    assert items["machine"]["name"] == "dev"


def test_another_topology_s_settings_are_nothing_here(pillars: dict[str, Any]) -> None:
    items, problems = pillars["another's"]
    assert (items["counter"]["instances"], problems) == (2, [])
    assert "base" not in items


def test_a_topology_s_settings_are_checked_like_all_others(pillars: dict[str, Any]) -> None:
    _, problems = pillars["wrong"]
    (line,) = problems
    assert line.startswith("pillar counter:instancse: unknown key; did you mean 'instances'?")


def test_a_machine_is_carried_the_settings_of_its_topology_alone() -> None:
    for path, carried in {
        "pillar/settings.sls": True,
        "pillar/settings/test.sls": True,
        "pillar/settings/live.sls": False,
        "pillar/topologies/live.yaml": True,
        "salt/haproxy/init.sls": True,
    }.items():
        assert machine_pillar.is_included(TWO, path) is carried, path


def test_what_only_one_machine_can_decrypt_is_not_carried_to_several(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Salt refuses the whole pillar where it can't decrypt: each apply on the others would fail."""
    assert machine_pillar.is_included(ONE, "pillar/secrets.sls")
    assert not machine_pillar.is_included(TWO, "pillar/secrets.sls")
    machine_pillar.check_files(TWO)
    assert capsys.readouterr().err == ""
    (tree / "pillar/secrets.sls").write_text("#!yaml|gpg\n")
    machine_pillar.check_files(ONE)
    assert capsys.readouterr().err == ""
    machine_pillar.check_files(TWO)
    said = capsys.readouterr().err
    assert "not carried to the 2 of topology test: 'make secret' gives each its own" in said


def test_settings_of_a_topology_that_there_is_not_are_refused(tmp_path: Path) -> None:
    """A misspelt file would be read by nobody."""
    (tmp_path / "topologies").mkdir()
    (tmp_path / "settings").mkdir()
    (tmp_path / "topologies" / "live.yaml").write_text(
        yaml.safe_dump(
            {
                "domain": "l.test",
                "network": "10.0.0.0/24",
                "machines": {"a": {"address": "10.0.0.2", "roles": ["edge", "app", "store"]}},
            }
        )
    )
    assert topology.load("live", tmp_path / "topologies").name == "live"
    (tmp_path / "settings" / "lvie.sls").write_text("{}\n")
    with pytest.raises(
        ControlError, match=r"pillar/settings/lvie.sls: no such topology; did you mean live"
    ):
        topology.load("live", tmp_path / "topologies")
