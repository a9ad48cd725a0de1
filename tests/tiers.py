"""Which tests each make target runs, and what it leaves out.

A pytest plugin (see addopts in pyproject.toml). `make test`, `make test-all` and `make test-faults`
pass ``--tier``; without it pytest runs what it is told to. The markers carry the reason, and the
last line before the summary says how many were left out and which command runs them.
"""

from __future__ import annotations

import pytest

TIERS = ("test", "all", "faults")
# Debian 13: every test runs there. On the other release `make test` runs what can differ.
MAIN_RELEASE = "trixie"
# Topology of a lab machine -> its Debian release, where it is another one.
RELEASES = {"dev12": "bookworm"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=TIERS, help="tests of make test, test-all or test-faults")


def is_on_second_release(item: pytest.Item) -> bool:
    """Whether the test runs on a machine of another release than the main one."""
    chosen = getattr(item, "callspec", None)
    topology = chosen.params.get("lab") if chosen else None
    return RELEASES.get(str(topology), MAIN_RELEASE) != MAIN_RELEASE


def left_out(item: pytest.Item, tier: str | None) -> str:
    """Why ``tier`` does not run this test; empty if it does."""
    second = is_on_second_release(item)
    if second and item.get_closest_marker("one_release"):
        return "one_release"
    faults = item.get_closest_marker("faults") is not None
    if tier == "faults":
        return "" if faults else "not a fault run"
    if tier == "test":
        if faults:
            return "make test-faults"
        if item.get_closest_marker("nightly"):
            return "make test-all"
        if second and not item.get_closest_marker("differs"):
            return "make test-all"
    return ""


# Before pytest itself takes what `-m` does not choose.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("nightly")
        if marker and not (marker.args and isinstance(marker.args[0], str)):
            raise pytest.UsageError(f"{item.nodeid}: nightly wants its reason: nightly('…')")
    reasons = {item: left_out(item, config.getoption("--tier")) for item in items}
    dropped = [item for item in items if reasons[item]]
    if not dropped:
        return
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if not reasons[item]]
    config.stash[LEFT] = [reason for reason in reasons.values() if reason.startswith("make")]


LEFT = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left = config.stash.get(LEFT, [])
    for command in sorted(set(left)):
        terminalreporter.write_line(f"{left.count(command)} more tests: {command}")
