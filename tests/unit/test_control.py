"""The controller refuses what is wrong in one line, before it touches any machine."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from control import __main__ as main
from control import lab, remote, topology
from control.errors import Refused

GOOD: dict[str, Any] = {
    "name": "test",
    "domain": "counter.test",
    "network": "10.1.0.0/24",
    "machines": {
        "one": {"address": "10.1.0.2", "roles": ["edge", "app"]},
        "two": {"address": "10.1.0.3", "roles": ["store"]},
    },
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., topology.Topology]:
    """`load(data)`: the topology `test`, with `data` as its file."""

    def read(data: Any, name: str = "test") -> topology.Topology:
        text = data if isinstance(data, str) else yaml.safe_dump(data)
        (tmp_path / "test.yaml").write_text(text, encoding="utf-8")
        return topology.load(name, tmp_path)

    return read


def changed(**machine: Any) -> dict[str, Any]:
    machines = {**GOOD["machines"], "two": {**GOOD["machines"]["two"], **machine}}
    return {**GOOD, "machines": machines}


def test_every_topology_of_the_project_loads() -> None:
    names = sorted(path.stem for path in topology.FOLDER.glob("*.yaml"))
    assert {"dev", "prod"} <= set(names)
    for name in names:
        assert topology.load(name).name == name, "the file and its name differ"


def test_a_good_topology_is_read(load: Callable[..., topology.Topology]) -> None:
    read = load(GOOD)
    assert read.edge.name == "one"
    assert read.gateway == "10.1.0.1"
    assert read.suite == "trixie"
    assert read.machine("two").roles == ("store",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(roles=["stroe"]), "machines:two:roles: unknown role stroe; did you mean store?"),
        (changed(roles=["xyz"]), "unknown role xyz; known: edge, app, store, monitor"),
        (changed(address="10.1.0.2"), "machines:two:address: 10.1.0.2 is one's already"),
        (changed(address="10.2.0.3"), "10.2.0.3 is not in network 10.1.0.0/24"),
        (changed(address="10.1.0"), "machines:two:address: "),
        (changed(address=None), "machines:two:address: "),
        (changed(roles=[]), "no machine has role store"),
        ({**GOOD, "network": "10.1.0.0/40"}, "network: "),
        ({k: v for k, v in GOOD.items() if k != "machines"}, "machines: is missing"),
        ({**GOOD, "netwrok": "x"}, "netwrok: unknown key; did you mean network?"),
        ({**GOOD, "name": "other"}, "name: other is not the file's own, test"),
        ({**GOOD, "domain": "a b"}, "domain: 'a b': allowed: the name clients use"),
        (
            {**GOOD, "machines": {**GOOD["machines"], "Web_1": {}}},
            "machines: 'Web_1': allowed: a-z",
        ),
        (changed(memroy=4), "machines:two:memroy: unknown key; did you mean memory?"),
        ({k: v for k, v in GOOD.items() if k != "domain"}, "domain"),
        ({**GOOD, "machines": ["one", "two"]}, "machines: needs a map"),
        ({**GOOD, "trusted": "10.0.0.1"}, "trusted: needs a list"),
        ({**GOOD, "trusted": ["10.0.0.1/8"]}, "trusted: 10.0.0.1/8 has host bits"),
        ({**GOOD, "trusted": ["0.0.0.0/0"]}, "is everybody"),
        ({**GOOD, "machines": {"one": None}}, "machines:one"),
        # What YAML makes of `no:`, `123:`, `2.0` and `|`.
        ({**GOOD, "machines": {**GOOD["machines"], False: {}}}, "machines:False: key False is not"),
        ({**GOOD, "machines": {123: {}}}, "machines:123: key 123 is not text: quote it"),
        ({**GOOD, None: 1, "x": 2}, "None: key None is not text"),
        (changed(cpus=2.0), "machines:two:cpus: 2.0 is no whole number"),
        ({**GOOD, "domain": "a.test\n"}, "domain: 'a.test\\n' has a control character"),
        (changed(roles=[True]), "machines:two:roles: unknown role True"),
        ("[1, 2", "not a topology"),
        ("just words", "not a topology"),
    ],
)
def test_a_wrong_topology_is_refused_with_its_file_and_key(
    load: Callable[..., topology.Topology], data: Any, said: str
) -> None:
    with pytest.raises(Refused) as caught:
        load(data)
    assert str(caught.value).startswith("test.yaml: ")
    assert said in str(caught.value)
    assert caught.value.code == 2


def test_an_unknown_topology_gets_a_hint(load: Callable[..., topology.Topology]) -> None:
    with pytest.raises(Refused, match=r"TOPOLOGY=tset: no such topology; did you mean test\?"):
        load(GOOD, "tset")
    with pytest.raises(Refused, match="there are: test"):
        load(GOOD, "../../etc/passwd")


def test_an_unknown_machine_gets_a_hint(load: Callable[..., topology.Topology]) -> None:
    with pytest.raises(Refused, match=r"HOST=tow: no such machine in topology test; did you mean"):
        load(GOOD).machine("tow")
    with pytest.raises(Refused, match="there are: one, two"):
        load(GOOD).machine("xyz")


NONE = topology.Topology("none", "x", None, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variable", "call"),
    [
        ("PROVIDER", lambda: lab.provider(NONE)),
        ("SUITE", lambda: lab.suite(NONE)),
    ],
)
def test_an_unknown_provider_or_suite_is_refused_with_the_known_ones(
    variable: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "banana")
    with pytest.raises(Refused, match=f"{variable}=banana: .*use ") as caught:
        call()
    assert caught.value.code == 2


# --- the tree that a machine gets -----------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with all that must stay at home."""
    files = {
        "Saltfile": "x",
        "salt/a/init.sls": "state",
        "pillar/top.sls": "x",
        "pillar/machine.yaml": "of-this-host",
        "bootstrap/bootstrap.sh": "#!/bin/sh",
        "dist/counter-1.tar.gz": "artifact",
        "dist/counter-1.tar.gz.sha256": "hash",
        "dist/counter-0.tar.gz": "old",
        ".git/config": "x",
        ".venv/bin/python": "x",
        ".lab/dev/vagrant/private_key": "x",
        "webapp/src/a.py": "x",
        "tests/a.py": "x",
        "salt/_modules/__pycache__/a.pyc": "x",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "bootstrap/bootstrap.sh").chmod(0o755)
    monkeypatch.setattr(remote, "ROOT", tmp_path)
    return tmp_path


def pack(host: str = "dev", release: str = "1") -> tuple[str, dict[str, bytes]]:
    name, data = remote.pack(topology.load(host), host, release)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        # Of two members of one name the later would win, and hide the other.
        assert len(set(archive.getnames())) == len(archive.getnames())
        members = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore
    return name, members


def test_a_machine_gets_what_it_needs_and_nothing_of_this_host(checkout: Path) -> None:
    _, members = pack()
    assert set(members) == {
        "Saltfile",
        "salt/a/init.sls",
        "pillar/top.sls",
        "pillar/machine.yaml",
        "bootstrap/bootstrap.sh",
        "dist/counter-1.tar.gz",
        "dist/counter-1.tar.gz.sha256",
    }
    identity = yaml.safe_load(members["pillar/machine.yaml"])
    assert identity == {"topology": "dev", "name": "dev", "release": "1"}


def test_the_same_content_has_the_same_name_whatever_its_times(checkout: Path) -> None:
    name, _ = pack()
    os.utime(checkout / "salt/a/init.sls", (1, 1))
    assert pack()[0] == name


def test_any_change_of_content_mode_or_identity_changes_the_name(checkout: Path) -> None:
    (checkout / "dist/counter-2.tar.gz").write_text("artifact")
    (checkout / "dist/counter-2.tar.gz.sha256").write_text("hash")
    names = [pack()[0], pack("dev12")[0], pack(release="2")[0]]
    (checkout / "salt/a/init.sls").write_text("other")
    names.append(pack()[0])
    (checkout / "salt/a/init.sls").chmod(0o755)
    names.append(pack()[0])
    (checkout / "salt/a/new").write_text("")
    names.append(pack()[0])
    assert len(set(names)) == 6


def test_the_real_tree_carries_nothing_private(root: Path) -> None:
    carried = {str(path.relative_to(root)) for path in remote._files()}
    assert {"Saltfile", "salt/top.sls", "pillar/topology.sls", "bootstrap/converge"} <= carried
    for name in carried:
        assert name.split("/")[0] in remote.CARRIED, name
        assert "__pycache__" not in name
        assert not name.endswith(("machine.yaml", ".pem", ".key", "private_key")), name


# --- as a person calls it -------------------------------------------------------------------------


def call(root: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = ("TOPOLOGY", "HOST", "SUITE", "PROVIDER", "TEST", "PILLAR", "SLS", "CMD", "SECRET")
    clean = {key: value for key, value in os.environ.items() if key not in given}
    return subprocess.run(
        [sys.executable, "-m", "control", command],
        cwd=root,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("command", "variables", "said"),
    [
        ("url", {"TOPOLOGY": "pord"}, "url: TOPOLOGY=pord: no such topology; did you mean prod?"),
        ("apply", {"HOST": "dve"}, "apply: HOST=dve: no such machine in topology dev;"),
        ("ssh", {"HOST": "nope", "TOPOLOGY": "prod"}, "ssh: HOST=nope: no such machine"),
        ("apply", {"PILLAR": "{port: 1"}, "apply: PILLAR: not JSON: "),
        ("apply", {"PILLAR": "[1]"}, "apply: PILLAR: must be a JSON object"),
        # Would narrow the apply that these do, and leave machines without what they need.
        (
            "rotate",
            {"SECRET": "redis-counter", "HOST": "app1"},
            "rotate: HOST=app1: not with rotate",
        ),
        (
            "cloud-up",
            {"TEST": "1", "SLS": "redis"},
            "cloud-up: TEST=1, SLS=redis: not with cloud-up",
        ),
        ("cloud-down", {"TEST": "1"}, "cloud-down: TEST=1: not with cloud-down"),
    ],
)
def test_a_wrong_word_is_one_line_on_stderr_and_exit_code_2(
    root: Path, command: str, variables: dict[str, str], said: str
) -> None:
    done = call(root, command, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


def test_url_is_alone_on_stdout(root: Path) -> None:
    done = call(root, "url", TOPOLOGY="prod")
    assert (done.returncode, done.stdout) == (0, "https://192.168.56.20/\n")


def test_an_unknown_command_is_told_what_there_is(root: Path) -> None:
    done = call(root, "banana")
    assert done.returncode == 2
    assert "'apply'" in done.stderr


@pytest.mark.parametrize("command", ["apply", "status"])
def test_machines_that_are_not_up_are_a_refusal_that_says_what_to_do(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from control import __main__ as main

    monkeypatch.setattr(lab, "ROOT", tmp_path)
    for name in ("HOST", "PILLAR", "SLS", "TEST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOPOLOGY", "dev12")
    monkeypatch.setattr(sys, "argv", ["control", command])
    assert main.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{command}: no machines of topology dev12 are up: 'make up' first")
    # Of a topology in a cloud it would make a second one, here.
    assert "made them, bring what the checkout that made them knows:" in said
    assert "-m control.access unpack dev12 FILE'" in said
    assert len(said.splitlines()) == 1


def test_pillar_and_sls_reach_the_machine_as_one_word_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quote or a space in PILLAR must neither split nor run on the machine."""
    import shlex

    from control import __main__ as main

    sent: list[str] = []

    def stream(where: Any, host: str, command: str, label: str) -> int:
        sent.append(command)
        return 0

    monkeypatch.setattr(remote, "stream", stream)
    overlay = {"base": {"timezone": "it's; rm -rf $HOME `x`"}}
    main.converge(topology.load("dev"), "dev", ["haproxy", f"pillar={json.dumps(overlay)}"])
    words = shlex.split(sent[0])
    assert words[-2] == "haproxy"
    assert json.loads(words[-1].removeprefix("pillar=")) == overlay


@pytest.mark.parametrize(
    ("verbose", "words"), [(None, ["verbose=False"]), ("0", ["verbose=False"]), ("1", [])]
)
def test_an_apply_names_what_changes_and_with_verbose_every_state(
    monkeypatch: pytest.MonkeyPatch, verbose: str | None, words: list[str]
) -> None:
    """Of the controller and of a server that converges itself alike."""
    from control import __main__ as main

    given: list[list[str]] = []
    monkeypatch.setattr(main, "apply_here", lambda where, words: given.append(words) or 0)
    for name in ("TEST", "PILLAR", "SLS", "VERBOSE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOST", "local")
    if verbose is not None:
        monkeypatch.setenv("VERBOSE", verbose)
    assert main.command_apply(topology.load("dev")) == 0
    assert given == [words]


def test_a_dollar_in_a_setting_is_the_machines_not_makes(root: Path, tmp_path: Path) -> None:
    """`make ssh CMD='echo $HOME'` must not be expanded here, let alone run here."""
    makefile = (root / "Makefile").read_text().split("# --- for people")[0]
    (tmp_path / "Makefile").write_text(makefile + "\nshow:\n\t@printenv CMD\n")
    (tmp_path / "lab").mkdir()
    shutil.copy(root / "lab" / "shell", tmp_path / "lab")
    typed = "echo $HOME $(shell touch ran) $$"
    for words in ([f"CMD={typed}"], []):
        done = subprocess.run(
            ["make", "-s", "show", *words], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, **({} if words else {"CMD": typed})}, check=True,
        )  # fmt: skip
        assert done.stdout == typed + "\n"
    assert not (tmp_path / "ran").exists()


# --- a changed firewall ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waits", "reachable", "code", "said"),
    [
        ("", True, 0, ""),
        ("/the/file", True, 0, "dev: firewall: confirmed (over a new ssh connection)\n"),
        ("/the/file", False, 1, "dev: the changed firewall could not be confirmed over a new"),
    ],
)
def test_a_changed_firewall_is_confirmed_over_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    waits: str,
    reachable: bool,
    code: int,
    said: str,
) -> None:
    from control import __main__ as main

    def run(where: Any, host: str, command: str, fresh: bool = False) -> str:
        if not fresh:
            return waits
        if not reachable:
            raise Refused("dev: firewall-confirm: timed out")
        return "firewall: confirmed\n"

    monkeypatch.setattr(remote, "run", run)
    monkeypatch.setattr(remote, "stream", lambda *words: 0)
    assert main.converge(topology.load("dev"), "dev", []) == code
    out, err = capsys.readouterr()
    assert (out, err[: len(said)]) == ("", said)
    assert main.converge(topology.load("dev"), "dev", ["test=True"]) == 0, "nothing was changed"


def test_clients_get_the_given_certificate_where_the_machine_has_no_ca_of_its_own(
    load: Callable[..., topology.Topology], tmp_path: Path, monkeypatch: Any
) -> None:
    """Also when the CA of before is still there; with neither it fails."""
    folder = tmp_path / "pki"
    folder.mkdir()

    def run(_: Any, host: str, command: str) -> str:
        assert host == "one"
        line = command.replace("/etc/stack/pki", str(folder))
        return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout

    monkeypatch.setattr(main.remote, "run", run)
    monkeypatch.setattr(main.lab, "state", lambda _: tmp_path)
    where = load(GOOD)
    with pytest.raises(subprocess.CalledProcessError):
        main.fetch_ca(where)
    (folder / "ca.pem").write_text("its own", encoding="ascii")
    assert main.fetch_ca(where).read_text(encoding="ascii") == "its own"
    (folder / "site.pem").write_text("given", encoding="ascii")
    assert main.fetch_ca(where).read_text(encoding="ascii") == "given"
