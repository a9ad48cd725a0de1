"""What the controller does around a deploy: order, the way back, the lock, and its refusals."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from control import bundle, converge, fleet, local_state, releases, ssh, topology
from control.application import COUNTER, Application
from control.artifacts import repository
from control.artifacts.folder import Folder
from control.commands import deploy as deploy_command
from control.commands import releases as releases_command
from control.commands import rollback as rollback_command
from control.deploy import lock, lock_agent, roll
from control.deploy.lock import Held
from control.errors import ControlError
from control.options import Options
from tests.unit.control.topologies import ONE


@pytest.fixture
def prod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """
    A topology with two application machines that only remember: `order` is what was done, `history`
    what each was brought to, `fails` where a version does not come up.
    """
    machines = {
        "edge1": {"address": "10.1.0.2", "roles": ["edge", "store"]},
        "app1": {"address": "10.1.0.3", "roles": ["app"]},
        "app2": {"address": "10.1.0.4", "roles": ["app"]},
    }
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"domain": "counter.test", "network": "10.1.0.0/24", "machines": machines})
    )
    order: list[str] = []
    known: dict[str, list[str]] = {"app1": ["v0", "v1"], "app2": ["v0", "v1"]}
    fails: set[tuple[str, str]] = set()
    asked: list[dict[str, Any]] = []
    refused: list[tuple[str, str, str]] = []
    # Machines whose roll goes on without the connection: what comes of it.
    orphans: dict[str, str] = {}
    attempts: dict[str, list[dict[str, Any]]] = {}
    lost: set[str] = set()

    def run(where: Any, host: str, command: str, *words: Any, **more: Any) -> str:
        if "record.refused" in command:
            given = next(word for word in shlex.split(command) if word.startswith("STACK_DEPLOY="))
            told = json.loads(given.partition("=")[2])
            refused.append((host, told["version"], told["reason"]))
            return ""
        if "flock -n" in command:
            if host in orphans:
                return "process 7, since yesterday\n"
            return ""
        if "flock -w" in command:
            order.append(f"{host} rolls to its end")
            if orphans.pop(host) == "succeeded":
                known[host].append("v2")
            return ""
        if COUNTER.attempts in command:
            return "".join(f"{json.dumps(one)}\n" for one in attempts.get(host, []))
        assert COUNTER.history in command
        return json.dumps({"history": [{"version": one} for one in known[host]]})

    def stream(where: Any, host: str, command: str) -> int:
        given = next(word for word in shlex.split(command) if word.startswith("STACK_DEPLOY="))
        request = json.loads(given.partition("=")[2])
        asked.append(request)
        order.append(f"{host} {request['action']} {request['version']}")
        if host in lost:
            lost.remove(host)
            one = {"id": request["id"], "to": request["version"]}
            attempts[host] = [{**one, "outcome": "started"}]
            if host in orphans:
                attempts[host].append({**one, "outcome": orphans[host]})
            return 255
        if (host, request["version"]) in fails:
            one = {"id": request["id"], "to": request["version"], "outcome": "failed"}
            attempts[host] = [{**one, "reason": f"counter@1 of {host}: not ready\nlast words"}]
            return 2
        known[host].append(request["version"])
        return 0

    @contextlib.contextmanager
    def hold_lock(where: Any, host: str, request: dict[str, str]) -> Iterator[Held]:
        order.append(f"{host} locked")

        def held() -> None:
            if host in unheld:
                raise ControlError(f"{host}: the deploy lock was lost")

        yield held
        order.append(f"{host} free")

    unheld: set[str] = set()
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "counter-v2.tar.gz").write_bytes(b"v2")
    repository.publish(Folder(folder), folder / "counter-v2.tar.gz")
    monkeypatch.setenv("ARTIFACT_STORE", str(folder))
    monkeypatch.setenv("VERSION", "v2")
    for name in ("WHY", "PILLAR", "CI_JOB_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(releases, "FETCHED", tmp_path / "fetched")
    monkeypatch.setattr(local_state, "is_up", lambda where: True)
    monkeypatch.setattr(ssh, "run", run)
    monkeypatch.setattr(ssh, "stream", stream)
    monkeypatch.setattr(
        bundle,
        "upload",
        lambda where, host, version, folder, app: order.append(f"{host} gets {version}"),
    )
    monkeypatch.setattr(lock, "hold_lock", hold_lock)
    unused: set[str] = set()

    def wait_for_edges(where: Any, hosts: Sequence[str]) -> None:
        order.extend(f"{host} in use" for host in hosts if host not in unused)
        if unused & set(hosts):
            raise ControlError(f"edge1 does not use counter@1 of {hosts[0]}")

    monkeypatch.setattr(fleet, "wait_for_edges", wait_for_edges)
    # Instances that the edge does not use before the deploy, as it says so.
    down: list[str] = []
    monkeypatch.setattr(fleet, "_not_used", lambda where, edge, *apps: down)
    yield SimpleNamespace(
        where=topology.load("test", tmp_path),
        order=order,
        known=known,
        fails=fails,
        asked=asked,
        unused=unused,
        down=down,
        refused=refused,
        orphans=orphans,
        lost=lost,
        unheld=unheld,
        store=folder,
    )


def test_machines_are_deployed_to_one_after_the_other_all_of_them_locked(
    prod: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy_command.run(prod.where, Options.read()) == 0
    assert prod.order == [
        *("app1 locked", "app2 locked"),
        *("app1 gets v2", "app1 deploy v2", "app1 in use"),
        *("app2 gets v2", "app2 deploy v2", "app2 in use"),
        *("app2 free", "app1 free"),
    ]
    assert "==> app1: v1 -> v2" in capsys.readouterr().out


def test_a_machine_that_is_out_of_use_is_deployed_to_first(prod: SimpleNamespace) -> None:
    """Else the only other one would be taken out of use, and nobody served."""
    prod.down.append("app2-1 (DOWN)")
    assert deploy_command.run(prod.where, Options.read()) == 0
    assert [one for one in prod.order if "deploy" in one] == ["app2 deploy v2", "app1 deploy v2"]


def test_a_failure_stops_there_and_puts_the_machines_before_it_back(prod: SimpleNamespace) -> None:
    prod.fails.add(("app2", "v2"))
    with pytest.raises(
        ControlError, match=r"app2: the deploy of v2 failed: .*; app1 is back on v1"
    ) as no:
        deploy_command.run(prod.where, Options.read())
    assert no.value.code == 2
    assert [one for one in prod.order if "deploy" in one or "rollback" in one] == [
        *("app1 deploy v2", "app2 deploy v2", "app1 rollback v1"),
    ]
    assert prod.asked[-1]["why"] == "deploy of v2 failed on app2"
    assert prod.asked[-1]["id"] == prod.asked[0]["id"]


def test_a_machine_that_the_edge_does_not_use_again_stops_the_deploy(prod: SimpleNamespace) -> None:
    prod.unused.add("app1")
    with pytest.raises(
        ControlError, match="app1 runs v2, but edge1 does not use .*app1 is back on v1"
    ):
        deploy_command.run(prod.where, Options.read())
    assert not [one for one in prod.order if one.startswith("app2 d")]


def test_a_machine_that_cannot_be_put_back_is_said_loudly(prod: SimpleNamespace) -> None:
    prod.fails |= {("app2", "v2"), ("app1", "v1")}
    with pytest.raises(ControlError, match="app1 COULD NOT BE PUT BACK"):
        deploy_command.run(prod.where, Options.read())


@pytest.mark.parametrize("outcome", ["succeeded", "failed", ""])
def test_a_roll_that_outlives_its_connection_is_judged_by_its_end(
    prod: SimpleNamespace, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first machine goes back while the second goes on: two releases, and nobody is told."""
    monkeypatch.setattr(roll.time, "sleep", lambda seconds: None)
    prod.lost.add("app2")

    def converge(*words: Any) -> int:
        # It runs only now, not when the deploy began.
        if words[1] == "app2" and outcome:
            prod.orphans["app2"] = outcome
        return real(*words)

    real = roll.converge_release
    monkeypatch.setattr(roll, "converge_release", converge)
    if outcome == "succeeded":
        assert deploy_command.run(prod.where, Options.read()) == 0
        assert not [one for one in prod.order if "rollback" in one]
        assert (prod.known["app1"][-1], prod.known["app2"][-1]) == ("v2", "v2")
        assert prod.order.index("app2 rolls to its end") < prod.order.index("app2 in use")
        return
    with pytest.raises(ControlError, match=r"app2: the deploy of v2 failed .*; app1 is back on v1"):
        deploy_command.run(prod.where, Options.read())
    assert (prod.known["app1"][-1], prod.known["app2"][-1]) == ("v1", "v1")


def test_a_machine_that_does_not_answer_again_is_said_loudly(
    prod: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "REACH_PATIENCE", -1)
    prod.lost.add("app2")

    def away(where: Any, host: str) -> None:
        if host == "app2" and "app2 deploy v2" in prod.order:
            raise ControlError("app2: no route to host")

    monkeypatch.setattr(roll, "wait_for_roll", away)
    with pytest.raises(
        ControlError, match="app2: .*WHAT IT RUNS IS NOT KNOWN.*; app1 is back on v1"
    ):
        deploy_command.run(prod.where, Options.read())


def test_a_roll_of_a_killed_deployer_is_waited_for_before_anything_is_judged(
    prod: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prod.orphans["app1"] = "succeeded"
    monkeypatch.delenv("VERSION")
    with pytest.raises(ControlError, match=r"different releases \(app1: v1, app2: v0\)"):
        rollback_command.run(prod.where, Options.read())
    assert prod.order[:3] == ["app1 locked", "app2 locked", "app1 rolls to its end"]
    assert "app1: waiting for the end of an apply that runs there (process 7" in (
        capsys.readouterr().out
    )


def test_a_lost_lock_stops_the_deploy_before_the_next_machine(prod: SimpleNamespace) -> None:
    prod.unused.clear()
    prod.unheld.add("app2")
    with pytest.raises(
        ControlError, match="app1: the deploy of v2 failed: app2: the deploy lock was l"
    ):
        deploy_command.run(prod.where, Options.read())
    assert not [one for one in prod.order if "gets" in one]


def test_what_is_refused_is_in_the_record_of_every_machine(
    prod: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prod.store / "counter-v2.tar.gz").write_bytes(b"tampered with")
    with pytest.raises(ControlError, match="but the repository states"):
        deploy_command.run(prod.where, Options.read())
    monkeypatch.setenv("VERSION", "v3")
    with pytest.raises(ControlError, match="VERSION=v3 is not stored"):
        deploy_command.run(prod.where, Options.read())

    @contextlib.contextmanager
    def taken(where: Any, host: str, request: dict[str, str]) -> Iterator[Held]:
        raise ControlError(f"{host}: ann has been doing a deploy", 75)
        yield

    monkeypatch.setattr(lock, "hold_lock", taken)
    with pytest.raises(ControlError, match="ann"):
        rollback_command.run(prod.where, Options.read())
    assert [(host, version) for host, version, _ in sorted(prod.refused)] == [
        (host, version) for host in ("app1", "app2") for version in ("v2", "v3", "v3")
    ]
    assert any("the repository states" in reason for _, _, reason in prod.refused)
    assert sum("ann has been" in reason for _, _, reason in prod.refused) == 2


def test_a_failure_on_the_first_machine_touches_no_other(prod: SimpleNamespace) -> None:
    prod.fails.add(("app1", "v2"))
    with pytest.raises(ControlError, match="app1: the deploy of v2 failed") as no:
        deploy_command.run(prod.where, Options.read())
    assert not [one for one in prod.order if one.startswith("app2 d") or "rollback" in one]
    # The last line that is read: what the machine printed before may be pages.
    assert str(no.value) == "app1: the deploy of v2 failed: counter@1 of app1: not ready"


def test_a_rollback_goes_to_the_last_good_one_of_all(
    prod: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VERSION")
    assert rollback_command.run(prod.where, Options.read()) == 0
    done = [one for one in prod.order if "rollback" in one]
    assert done == ["app1 rollback v0", "app2 rollback v0"]
    assert not [one for one in prod.order if "gets" in one], "it needs neither store nor tree"


def test_a_rollback_is_refused_where_it_would_guess(
    prod: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ControlError, match="app1: v2 was never good here; .* one of: v0. Anything stored"
    ):
        rollback_command.run(prod.where, Options.read())
    monkeypatch.delenv("VERSION")
    prod.known["app2"] = ["v7", "v1"]
    with pytest.raises(
        ControlError, match=r"different releases \(app1: v0, app2: v7\): say VERSION="
    ):
        rollback_command.run(prod.where, Options.read())
    prod.known["app1"] = ["v1"]
    with pytest.raises(ControlError, match="nothing further to go back to: v1 is the first good"):
        rollback_command.run(prod.where, Options.read())
    monkeypatch.setattr(releases, "read_history", lambda *words: [{"version": "v1"}])
    with pytest.raises(ControlError, match="'make releases APP=shop' shows what is stored"):
        roll.choose_rollback_target(prod.where, ["app1"], "", Application("shop", "apps"))
    assert not [one for one in prod.order if "rollback" in one]


def test_a_version_that_is_not_given_or_not_there_touches_nothing(
    prod: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, said in (
        ("", "VERSION=… is needed; newest in .*: v2"),
        ("v3", "VERSION=v3 is not stored"),
        ("../v2", "use letters, digits"),
    ):
        monkeypatch.setenv("VERSION", version)
        with pytest.raises(ControlError, match=said):
            deploy_command.run(prod.where, Options.read())
    assert not [one for one in prod.order if "locked" in one]


def test_what_runs_is_told_also_when_the_store_is_away(
    prod: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = {
        "running": {"1": "v1", "2": "v2"},
        "installed": ["v0", "v1", "v2"],
        "history": [{"version": "v0"}, {"version": "v1"}],
    }
    monkeypatch.setattr(ssh, "run", lambda *words, **more: json.dumps({"local": told}))
    assert releases_command.run(prod.where, Options.read()) == 0
    said = capsys.readouterr()
    assert "v2  " in said.out and "<- app1, app2" in said.out
    assert "  app1: @1 v1, @2 v2; back: v0\n" in said.out
    assert "also installed: v0\n" in said.out
    assert "failed" not in said.out
    assert said.err == "not in this repository, but running: v1\n"
    # It failed there: who looks for something to deploy is not offered it as if nothing had been.
    attempts = [{"to": "v2", "outcome": one} for one in ("succeeded", "started", "failed")]
    log = "".join(f"{json.dumps(one)}\n" for one in attempts)
    monkeypatch.setattr(
        ssh,
        "run",
        lambda where, host, command, **more: (
            log if COUNTER.attempts in command else json.dumps({"local": told})
        ),
    )
    assert releases_command.run(prod.where, Options.read()) == 0
    assert "<- app1, app2  failed on app1, app2\n" in capsys.readouterr().out
    monkeypatch.setenv("ARTIFACT_STORE", "http://127.0.0.1:1/x")
    with pytest.raises(ControlError, match="the repository does not answer"):
        releases_command.run(prod.where, Options.read())
    assert "  app2: @1 v1, @2 v2; back: v0\n" in capsys.readouterr().out


def test_an_apply_says_where_it_keeps_another_release(
    prod: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    prod.known["app1"].append("v2")
    releases.warn_of_other_releases(prod.where, "v2")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("app2: counter stays on v1, as deployed; this checkout builds v2: ")
    assert "app1" not in said.err


def test_a_new_machine_gets_what_the_others_run(
    prod: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not what this checkout builds, which nobody has deployed."""
    carried: dict[str, Any] = {}
    monkeypatch.setattr(releases, "ROOT", tmp_path)
    monkeypatch.setattr(
        bundle, "upload", lambda where, host, *what: bool(carried.update({host: what}))
    )
    monkeypatch.setattr(ssh, "stream", lambda *words: 0)
    prod.known["app2"] = []
    prod.known["app1"].append("v2")
    assert converge.prepare_machines(prod.where, ["app1", "app2"], "v9", Options.read()) == ([], {})
    assert carried == {"app1": ("v9", None), "app2": ("v2", releases.FETCHED)}
    assert (releases.FETCHED / "counter-v2.tar.gz").read_bytes() == b"v2"
    said = capsys.readouterr().out
    assert said == "app2: gets counter v2, as the others run; this checkout builds v9\n"
    # Away from the store, what was built here once will do.
    prod.known["app1"].append("v3")
    _, failed = converge.prepare_machines(prod.where, ["app2"], "v9", Options.read())
    assert failed == {"app2": 1}
    assert "app2: the others run v3, which is to be had neither" in capsys.readouterr().err
    (tmp_path / "dist").mkdir()
    for suffix in ("", ".sha256"):
        (tmp_path / "dist" / f"counter-v3.tar.gz{suffix}").write_bytes(b"v3")
    assert converge.prepare_machines(prod.where, ["app2"], "v9", Options.read()) == ([], {})
    assert carried["app2"] == ("v3", tmp_path / "dist")
    # The very first machines, and those that all run what is built here.
    prod.known["app1"] = []
    assert releases.find_for_new_machines(prod.where) == {}
    assert releases.choose_for_host("app2", "v9", {"v9": ""}, Options.read()) == ("v9", None)
    with pytest.raises(ControlError, match=r"different releases \(v1, v2\): 'make deploy"):
        releases.choose_for_host("app2", "v9", {"v1": "", "v2": ""}, Options.read())
    with pytest.raises(ControlError, match="run v2 with sha256 abc, but"):
        releases.choose_for_host("app2", "v9", {"v2": "abc"}, Options.read())


def test_who_is_the_person_or_the_pipelines_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI_JOB_URL", raising=False)
    monkeypatch.setenv("SUDO_USER", "ann")
    assert roll.find_deployer(Options.read()).startswith("ann@")
    monkeypatch.setenv("CI_JOB_URL", "https://gitlab.example/-/jobs/1")
    monkeypatch.setenv("GITLAB_USER_LOGIN", "bob")
    assert roll.find_deployer(Options.read()) == "bob by https://gitlab.example/-/jobs/1"


# --- the lock -------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """`locked("ann")`: the deploy lock, on this computer instead of over ssh."""
    program = Path(lock_agent.__file__).read_text(encoding="utf-8")
    program = program.replace('"/run/stack/deploy.lock"', repr(str(tmp_path / "new" / "lock")))
    (tmp_path / "lock_agent.py").write_text(program)
    monkeypatch.setattr(lock, "__file__", str(tmp_path / "lock.py"))

    def command_line(where: Any, host: str, command: str, fresh: bool = False) -> list[str]:
        assert fresh, "a shared connection would outlive this process"
        return ["sh", "-c", command.replace("python3", sys.executable)]

    monkeypatch.setattr(ssh, "command_line", command_line)
    return lambda who: lock.hold_lock(
        ONE, "app1", {"action": "deploy", "version": "v2", "who": who, "why": "for a test"}
    )


def test_a_second_deploy_is_refused_and_told_of_the_first(locked: Callable[[str], Any]) -> None:
    with locked("ann@desk"):
        with pytest.raises(ControlError) as caught:
            with locked("bob@desk"):
                pytest.fail("two at once")
        assert "app1: ann@desk has been doing a deploy of v2 (for a test) since 20" in str(
            caught.value
        )
        assert caught.value.code == 75
    with locked("bob@desk"):
        pass


def test_a_holder_of_the_deploy_lock_that_is_false_or_gone_is_not_named(
    locked: Callable[[str], Any], tmp_path: Path
) -> None:
    with locked("ann@desk"):
        path = tmp_path / "new" / "lock"
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
        note = path.read_text().partition(" ")[2].replace("ann@desk", "eve@home")
        path.write_text(f"1 {note}")
        with pytest.raises(
            ControlError, match="another deploy is running, and has not said whose it is"
        ):
            with locked("bob@desk"):
                pytest.fail("two at once")


def test_the_lock_ends_when_nothing_is_heard_and_not_before(
    locked: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost network tells nobody; a deployer that is there says so again and again."""
    path = tmp_path / "lock_agent.py"
    path.write_text(path.read_text().replace("PATIENCE, BEAT = 60, 5", "PATIENCE, BEAT = 2, 5"))
    monkeypatch.setattr(lock_agent, "BEAT", 0.1)
    with locked("ann@desk") as held:
        time.sleep(3)
        held()
    monkeypatch.setattr(lock_agent, "BEAT", 60)
    with locked("ann@desk") as held:
        time.sleep(3)
        with pytest.raises(ControlError, match="lost"):
            held()


def test_the_lock_of_a_killed_deploy_is_free(locked: Callable[[str], Any], tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked("ann@desk"))
        # What is left of a deploy that was killed: a connection whose other end is closed.
        with subprocess.Popen(
            [sys.executable, str(tmp_path / "lock_agent.py")],
            stdin=subprocess.PIPE,
            stdout=-1,
            text=True,
        ) as second:
            said, _ = second.communicate('{"who": "bob"}\n', timeout=300)
        assert said.startswith("taken {")
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "lock_agent.py")],
        stdin=subprocess.PIPE,
        stdout=-1,
        text=True,
    ) as third:
        assert third.communicate("{}\n", timeout=300)[0] == "held\n"
        assert third.returncode == 0
    with locked("ann@desk"):
        pass
