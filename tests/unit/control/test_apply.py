"""What an apply is told, where it goes, and who failed."""

from __future__ import annotations

import pytest

from control import (
    apply,
    topology,
)
from control.errors import ControlError
from control.options import Options
from tests.unit.control.topologies import ONE, PROD

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("verbose", "words"), [(None, ["verbose=False"]), ("0", ["verbose=False"]), ("1", [])]
)
def test_an_apply_names_what_changes_and_with_verbose_every_state(
    monkeypatch: pytest.MonkeyPatch, verbose: str | None, words: list[str]
) -> None:
    """Of the controller and of a server that converges itself alike."""

    given: list[list[str]] = []
    monkeypatch.setattr(apply, "apply_here", lambda where, words, options: given.append(words) or 0)
    for name in ("TEST", "PILLAR", "SLS", "VERBOSE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOST", "local")
    if verbose is not None:
        monkeypatch.setenv("VERBOSE", verbose)
    assert apply.apply(topology.load("dev"), Options.read()) == 0
    assert given == [words]


def test_a_formula_alone_is_applied_where_roles_bring_it() -> None:
    def filtered(formulas: str, *hosts: str) -> dict[str, list[str]]:
        return apply.filter_by_formula(PROD, hosts or list(PROD.machines), formulas)

    assert filtered("haproxy") == {"edge1": ["haproxy"]}
    assert filtered("base.people") == {host: ["base.people"] for host in PROD.machines}
    assert filtered("redis,counter") == {
        "app1": ["counter"],
        "app2": ["counter"],
        "store1": ["redis"],
    }
    with pytest.raises(ControlError, match="SLS=haproxy: nothing for app1, by roles"):
        filtered("haproxy", "app1")
    with pytest.raises(
        ControlError, match="SLS=haprox: no formula of salt/top.sls, which has base, "
    ):
        filtered("haprox")


def test_the_exit_code_and_a_line_say_who_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert apply.report_failed(PROD, list(PROD.machines), {"monitor1": 1, "app1": 255}) == 255
    assert capsys.readouterr().err == "2 of 5 machines failed: app1, monitor1\n"
    assert apply.report_failed(ONE, ["one"], {}) == 0
