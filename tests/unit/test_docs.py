"""The documentation says what the code does: nothing stale, no link or command that leads nowhere."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate import (  # noqa: E402
    cloud_diagrams,
    diagrams,
    facts,
    pipeline,
    reference,
    runnable,
    site,
    tickets,
)
from docs.generate.__main__ import everything, stale  # noqa: E402
from docs.generate.svg import Canvas  # noqa: E402

PAGES = sorted([*site.pages(), Path("README.md")])


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    return everything()


def machine(name: str, number: int, *roles: str) -> facts.Machine:
    """A machine that lets in what the real formulas of its roles do."""
    said = {
        "edge": [("haproxy", 80, facts.ANYBODY), ("haproxy", 443, facts.ANYBODY)],
        "app": [("counter", 8001, "edge"), ("counter", 8002, "edge")],
        "store": [("redis", 6379, "app"), ("redis", 26379, "edge")],
        "monitor": [("rsyslog", 2514, role) for role in ("edge", "app", "store")],
    }
    listed = [("base", 22, facts.ANYBODY), ("collectd", 9104, "monitor")]
    listed += [one for role in roles for one in said[role]]
    openings = tuple(facts.Opening(f, p, "tcp", s) for f, p, s in listed if s not in roles)
    return facts.Machine(
        name, f"10.0.0.{number}", roles, ("base", *roles), openings, ("base", *roles)
    )


def topology(edges: int, apps: int, stores: int) -> facts.Topology:
    members = [machine(f"edge{n}", n, "edge") for n in range(1, edges + 1)]
    members += [machine(f"app{n}", 10 + n, "app") for n in range(1, apps + 1)]
    members += [machine(f"store{n}", 200 + n, "store") for n in range(1, stores + 1)]
    members += [machine("monitor1", 250, "monitor")]
    return facts.Topology("made-up", "10.0.0.0/16", "example.org", tuple(members))


def cloud(made_up: facts.Topology) -> facts.Cloud:
    """As cloud/ would have it; several edges have a load balancer."""
    names = [one.name for one in made_up.machines]
    check = {"check_interval_seconds": 3, "unhealthy_threshold": 2}
    balancer = {"size_unit": 2, "health_check": check}
    return facts.Cloud(
        "fra1",
        "counter-made-up",
        dict.fromkeys(names, "s-1vcpu-1gb"),
        {},
        {one.name: f"counter-made-up-{one.tier}" for one in made_up.machines},
        balancer if len(made_up.tiers()["edge"]) > 1 else None,
        123.4,
    )


def target(made_up: facts.Topology) -> str:
    return cloud_diagrams.target(made_up, cloud(made_up))


# --- generated -----------------------------------------------------------------------------------


def test_generated_files_are_not_stale(made: dict[Path, str]) -> None:
    assert stale(made) == [], "`make docs` mends that"


def test_a_changed_port_makes_diagram_and_port_matrix_stale() -> None:
    before = topology(1, 2, 1)
    edge = before.machines[0]
    moved = tuple(
        dataclasses.replace(one, port=8443) if one.port == 443 else one for one in edge.openings
    )
    after = dataclasses.replace(
        before, machines=(dataclasses.replace(edge, openings=moved), *before.machines[1:])
    )
    for picture in (target, diagrams.port_matrix):
        assert picture(before) != picture(after)
    assert reference.ports_page([before]) != reference.ports_page([after])


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 2, 1), (2, 3, 3), (2, 7, 3)])
def test_nothing_in_a_picture_lies_on_something_else(size: tuple[int, int, int]) -> None:
    """The pictures refuse it themselves; here for shapes that are yet to come."""
    ET.fromstring(target(topology(*size)))
    ET.fromstring(diagrams.port_matrix(topology(*size)))


def test_one_machine_with_every_role_is_a_picture_too() -> None:
    alone = facts.Topology(
        "alone", "10.0.0.0/24", "example.org", (machine("dev", 1, *facts.ROLES),)
    )
    ET.fromstring(diagrams.port_matrix(alone))


def test_a_picture_names_what_lies_on_something_else() -> None:
    picture = Canvas(300, "t", "d")
    picture.card(10, 10, 100, 40, [("one", "b")], "one")
    picture.card(60, 30, 100, 40, [("two", "b")], "two")
    picture.text(280, 100, "runs out of the picture")
    assert any("'one' lies on 'two'" in line for line in picture.collisions())
    assert any("outside" in line for line in picture.collisions())


def test_pictures_are_legible_in_light_and_dark(made: dict[Path, str]) -> None:
    for path, text in made.items():
        if path.suffix == ".svg":
            ET.fromstring(text)
            assert "prefers-color-scheme: dark" in text, path
            assert "<title" in text and "<desc" in text, path
            # A colour that is written out is right in one scheme at most.
            body = text.split("</style>")[1]
            assert not re.search(r'(?:fill|stroke)="#', body), path


def test_what_holds_for_every_machine_is_said_once() -> None:
    found = diagrams.connections(topology(1, 2, 1))
    shown = {(one.source, one.target, one.ports) for one in found}
    assert ("everybody", "every machine", "22") in shown
    assert ("monitor", "every machine", "9104") in shown
    assert ("every machine", "monitor", "2514") in shown
    assert ("edge", "app", "8001-8002") in shown
    assert len(found) == 7


# --- the reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", facts.formulas(), ids=lambda folder: folder.name)
def test_every_setting_is_in_the_reference_with_its_words(folder: Path) -> None:
    page = reference.settings_page(folder)
    for one in reference.settings_of(folder):
        assert f"`{one['path']}`\n" in page
        assert one["comment"] or one["about"], f"{one['path']}: nobody says what it is"


@pytest.fixture(scope="module")
def whole() -> facts.Topology:
    """The topology whose one machine has every role."""
    return facts.load_topology("dev")


@pytest.fixture(scope="module")
def measuring(whole: facts.Topology) -> list[facts.Topology]:
    """Those in which every formula measures something: several edges and stores are in the second alone."""
    return [whole, facts.load_topology("ha")]


def test_every_formula_that_measures_is_in_the_reference(
    measuring: list[facts.Topology],
) -> None:
    """With each metric of its readers, and what it means."""
    page = reference.metrics_page(measuring)
    for folder in facts.formulas():
        if not (folder / "metrics.yaml.j2").exists():
            continue
        part = re.search(rf"(?ms)^## {folder.name}\n(.*?)(?=^## |\Z)", page)
        assert part, folder.name
        assert "collectd_" in part[1] or "prometheus_" in part[1], folder.name
        for name in reference.reader_metrics(reference.measured_by(folder.name, measuring)):
            assert f"`{name}`" in part[1], f"{folder.name}/README.md, Metrics: nothing on {name}"


def test_no_metric_is_in_the_reference_that_nobody_reads(measuring: list[facts.Topology]) -> None:
    own = {
        name: reference.reader_metrics(reference.measured_by(name, measuring))
        for name in measuring[0].machines[0].metrics
    }
    assert {"apps", "keepalived", "sentinel"} <= set(own)
    page = reference.metrics_page(measuring)
    for formula, known in own.items():
        part = re.search(rf"(?ms)^## {formula}\n(.*?)(?=^## |\Z)", page)
        assert part
        rows = "\n".join(line.split(" | ")[0] for line in part[1].splitlines() if line[:1] == "|")
        assert set(re.findall(r"`(collectd_\w+)`", rows)) == set(known), formula


def test_every_formula_that_logs_is_in_the_reference(whole: facts.Topology) -> None:
    page = reference.logs_page(whole)
    for folder in facts.formulas():
        if not (folder / "logs.yaml.j2").exists():
            continue
        part = re.search(rf"(?ms)^## {folder.name}\n(.*?)(?=^## |\Z)", page)
        assert part, folder.name
        assert reference._section((folder / "README.md").read_text(encoding="utf-8"), "Log")
        for name in whole.machines[0].logs[folder.name]:
            assert f"| `{name}` |" in part[1], folder.name
    for field in ("`duration_ms`", "`termination`", "`cursor`"):
        assert field in page


def test_the_command_table_is_make_help() -> None:
    page = reference.commands_page()
    for name, _ in facts.commands():
        assert f"| `make {name}` |" in page


def test_settings_of_commands_stand_in_their_own_column() -> None:
    for line in reference.commands_page().splitlines():
        if line.startswith("| `make "):
            assert not re.search(r"[A-Z_]+=", re.split(r"(?<!\\) \| ", line)[1]), line


def test_operate_names_every_command_of_make_help() -> None:
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    named = set(re.findall(r"make ([a-z][a-z-]*)", text))
    assert {name for name, _ in facts.commands()} - named - {"help"} == set()


def test_readme_names_every_command_of_make_help() -> None:
    """But help and clean, which everybody finds."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"make ([a-z][a-z-]*)", text))
    assert {name for name, _ in facts.commands()} - named - {"help", "clean"} == set()


# --- what pages say -------------------------------------------------------------------------------


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"(?m)^([a-z][a-z-]*):", text)) | set(facts.to_come())


def unknown_commands(text: str) -> list[str]:
    """What a page calls a make command and is none."""
    code = "\n".join(re.findall(r"(?ms)^ *```.*?^ *```|`[^`\n]+`", text))
    named = set(re.findall(r"(?m)(?:^ *|[`#;&|($] *)make (?:-s )?([a-z][a-z-]*)", code))
    # `make cloud-*` is all that begin so.
    return [
        name
        for name in sorted(named - targets())
        if not name.endswith("-") or not any(one.startswith(name) for one in targets())
    ]


def unknown_tests(text: str) -> list[str]:
    """What a page calls a test and is none; `test_x…` names all that begin so."""
    known = facts.test_names()
    return [
        f"{name}{open_end}"
        for name, open_end in re.findall(r"`(test_\w+)(…?)`", text)
        if name not in known and not (open_end and any(one.startswith(name) for one in known))
    ]


# Of all pages at once: a test for each of hundreds would cost more than what it reads.
@pytest.mark.parametrize("unknown", [unknown_commands, unknown_tests])
def test_commands_and_tests_that_a_page_names_exist(unknown: Callable[[str], list[str]]) -> None:
    wrong = {str(page): unknown((ROOT / page).read_text(encoding="utf-8")) for page in PAGES}
    assert {page: names for page, names in wrong.items() if names} == {}


def test_commands_and_tests_that_do_not_exist_are_told() -> None:
    text = "`make up`, `make pu`, `make cloud-*`, `make clod-*`\n```\nmake dwon HOST=a\n```\n"
    assert unknown_commands(text) == ["clod-", "dwon", "pu"]
    name = "test_commands_and_tests_that_do_not_exist_are_told"
    text = f"`{name}`, `{name[:-1]}…`, `{name[:-1]}`, `test_nothing_of_this_name…`"
    assert unknown_tests(text) == [name[:-1], "test_nothing_of_this_name…"]


def test_the_threat_model_names_tests_that_exist_and_every_promise_of_defending() -> None:
    """`path::name`, as TESTS= takes it."""
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    assert len(named) >= 40
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists() or f"def {name}(" not in (ROOT / path).read_text("utf-8")
    ]
    assert missing == []
    shown = {name for _, name in named}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    defending = readme.split("| **Defending** |")[1].split("| **")[0]
    for name, open_end in re.findall(r"`(test_\w+?)(…?)`", defending):
        found = any(one.startswith(name) for one in shown) if open_end else name in shown
        assert found, f"docs/threat-model.md does not say who is kept off by {name}"


def test_every_page_of_the_site_has_a_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sphinx refuses others: forms of a tracker and fragments of a changelog are no pages."""
    monkeypatch.setattr(site, "STAGE", tmp_path / "docs")
    site.stage()
    bare = [
        page.name
        for page in sorted(site.STAGE.rglob("*.md"))
        if not re.match(r"(\s|<!--.*?-->)*# ", page.read_text(encoding="utf-8"))
    ]
    assert bare == []


def anchors(path: Path) -> set[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    titles = [
        found
        for fenced, piece in site.split_fences(text)
        if not fenced
        for found in re.findall(r"(?m)^#+ (.*)$", piece)
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def leads_nowhere(page: Path, target: str) -> str:
    """Why a link of a page leads nowhere; empty when it leads somewhere."""
    name, _, anchor = target.partition("#")
    path = (ROOT / page.parent / name).resolve() if name else ROOT / page
    if not path.exists():
        return "there is no such file"
    if not path.is_relative_to(ROOT):
        return "leaves the repository"
    if anchor and path.suffix == ".md" and anchor not in anchors(path.relative_to(ROOT)):
        return "there is no such heading"
    return ""


def test_links_of_a_page_lead_somewhere() -> None:
    wrong = [
        f"{page}: [{label}]({target}): {why}"
        for page in PAGES
        for _, label, target in site.links((ROOT / page).read_text(encoding="utf-8"))
        if not re.match(r"[a-z][a-z0-9+.-]*:", target) and (why := leads_nowhere(page, target))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("docs/start.md", ""),
        ("docs/none.md", "there is no such file"),
        ("../none.md", "there is no such file"),
        ("..", "leaves the repository"),
        ("docs/start.md#none", "there is no such heading"),
        ("#run-it", ""),
        ("#none", "there is no such heading"),
    ],
)
def test_a_link_that_leads_nowhere_is_told(target: str, why: str) -> None:
    assert leads_nowhere(Path("README.md"), target) == why


def test_some_pages_have_runnable_blocks_and_all_can_be_read() -> None:
    """tests/machine/test_docs.py runs them."""
    assert sum(len(runnable.blocks(ROOT / page)) for page in PAGES) >= 5


def test_a_runnable_block_is_taken_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# t\n\n```console run\n$ make \\\n    status\n…ok…\n# redis-admin PING\nPONG\n```\n"
        "\n```\nnot run\n```\n"
    )
    assert runnable.blocks(page) == [
        (
            3,
            [
                runnable.Step("here", "make \\\n    status", ("…ok…",)),
                runnable.Step("there", "redis-admin PING", ("PONG",)),
            ],
        )
    ]


def test_an_expected_line_that_is_not_printed_is_named() -> None:
    assert runnable.missing(("a … c", "end"), "x\na b c\nend\n") == []
    assert runnable.missing(("end", "a … c"), "a b c\nend\n") == ["a … c"]


@pytest.mark.parametrize(
    ("part", "command", "code", "said", "fine"),
    [
        ("Verify", "redis-admin PING", 0, "PONG\r\n", True),
        ("Verify", "redis-admin PING", 0, "NOAUTH", False),
        ("Verify", "false | true", 1, "", False),
        ("Verify", "cat x | grep y", 1, "", False),
        ("Look here", "cat x | grep y", 1, "", True),
        ("Look here", "cat x | grep y", 2, "", False),
        ("Look here", "frob", 127, "not found", False),
        ("Look here", "tail -x", 124, "", False),
        ("Look here", "redis-admin --latency-history -i 5", 124, "", True),
        ("Look here", "journalctl -u x -f", 124, "", True),
        ("Look here", "journalctl -fu x", 124, "", True),
        ("Look here", "tail -F x | grep y", 124, "", True),
        ("Look here", "make logs SERVICE=x FOLLOW=1", 124, "", True),
        ("Look here", "haproxy -c -f x", 124, "", False),
        ("Look here", "haproxy -c -f x", 1, "", False),
        ("Look here", "ps | head -3", 141, "", True),
        ("Look here", "ps | tail -3", 141, "", False),
        ("Look here", "systemctl status x", 3, "", True),
        ("Verify", "systemctl status x", 3, "", False),
    ],
)
def test_a_command_of_a_runbook_is_judged(
    part: str, command: str, code: int, said: str, fine: bool
) -> None:
    expected = "PONG" if "PING" in command else ""
    assert (runnable.Check(part, command, expected).wrong(code, said) == "") is fine


@pytest.mark.parametrize(
    ("said", "fine"),
    [
        ("edge1 0 changed, 0 failed\nstore1 0 changed, 0 failed", True),
        ("edge1 0 changed, 0 failed\nstore1 1 changed, 0 failed", False),
        ("edge1 0 changed, 0 failed\nstore1 2 would change, 0 failed", False),
    ],
)
def test_what_an_apply_has_to_end_with_holds_for_each_machine(said: str, fine: bool) -> None:
    """One machine of five was enough, and four might have changed."""
    check = runnable.Check("Acceptance test", "make apply", "…0 changed, 0 failed…")
    assert (check.wrong(0, said) == "") is fine


def test_what_a_runbook_says_is_printed_is_expected(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "## Look here\n\n```\ntop     # on the edge\n```\n\n"
        "## Verify\n\n```\na | b     # on the store -> …:ok\nc     # -> 1\n```\n"
    )
    assert runnable.of_runbook(page) == [
        runnable.Check("Look here", "top"),
        runnable.Check("Verify", "a | b", "…:ok"),
        runnable.Check("Verify", "c", "1"),
    ]
    assert runnable.Check("Verify", "a", "x…:ok").wrong(0, "x\ny:ok\n") == ""
    assert "prints no" in runnable.Check("Verify", "a", "x…:ok").wrong(0, "x\ny:err\n")


def commands_of(page: Path) -> list[str]:
    """Every line between the fences of `Look here` and `Verify`, but comments."""
    lines, part, fenced = [], "", False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            part = line[3:]
        elif line.startswith("```"):
            fenced = not fenced
        elif fenced and part in ("Look here", "Verify") and line.strip() and line[0] != "#":
            lines.append(line)
    return lines


def test_no_command_of_a_runbook_goes_unrun() -> None:
    """tests/machine/test_docs.py types what is found: all, so how many are not is 0."""
    pages = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
    listed = [(page.name, line) for page in pages for line in commands_of(page)]
    found = [(page.name, one.command) for page in pages for one in runnable.of_runbook(page)]
    assert len(listed) >= 180
    unrun = [one for one, two in zip(listed, found, strict=True) if not one[1].startswith(two[1])]
    assert unrun == []


def test_what_a_runbook_leaves_to_be_filled_in_is_filled_in() -> None:
    """A word that nobody knows would be typed as it stands."""
    values = dict.fromkeys(runnable.PLACEHOLDERS, "filled")
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        for one in runnable.of_runbook(page):
            command = runnable.filled(one.command, values)
            bare = re.sub(r"'[^']*'|\"[^\"]*\"|redis-admin [A-Z ]+|\w+=\S*", "", command)
            assert not re.search(r"\b[A-Z]{3,}\b|<[a-z]+>|…", bare), f"{page.name}: {one.command}"
    assert (
        runnable.filled("ssh machine cat machine.d NAME", values)
        == "ssh filled cat machine.d filled"
    )


def test_runbooks_say_what_is_printed_when_all_is_well() -> None:
    folder = ROOT / "docs" / "runbooks"
    said = [
        one for page in folder.glob("*.md") for one in runnable.of_runbook(page) if one.expected
    ]
    assert len(said) >= 15


def test_every_decision_has_its_three_parts() -> None:
    for path, _ in facts.decisions():
        text = path.read_text(encoding="utf-8")
        parts = re.findall(r"(?m)^\*\*(Weighed|Chosen|Follows)\.\*\*", text)
        assert parts == ["Weighed", "Chosen", "Follows"], path.name


def test_every_decision_says_since_when_and_when_to_weigh_it_again() -> None:
    for path, _ in facts.decisions():
        status = facts.decision_status(path)
        assert re.match(
            r"(Accepted \d{4}-\d\d-\d\d(, [^.]+)?\. Revisit when .{10}|Replaced by \[\d+\]\(0\d{3}-[\w-]+\.md\) on)",
            status,
        ), f"{path.name}: below its title: **Status.** Accepted DATE. Revisit when …"


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path, _ in facts.decisions()]
    assert len(numbers) == len(set(numbers))


def test_every_alert_has_a_runbook() -> None:
    for one in facts.alerts():
        assert (ROOT / "docs" / "runbooks" / f"{one['alert']}.md").exists(), one["alert"]


# --- tickets --------------------------------------------------------------------------------------


def ticket(folder: Path, number: str, hours: float, *depends: str, body: str = "") -> None:
    words = body or "Words.\n\n```\ntrue\n```"
    parts = "".join(f"\n## {part}\n\n{words}\n" for part in tickets.PARTS)
    head = f"id: T{number}\ntitle: Do {number}\nmilestone: 1 One\nsystem: x\nhours: {hours}\n"
    head += "owner: operator\nbasis: judged, by nobody in particular\nwaits: nothing\n"
    listed = ", ".join(depends)
    text = f"---\n{head}depends: [{listed}]\n---\n\n# T{number} Do {number}\n{parts}"
    (folder / f"{number}-do.md").write_text(text)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("Words.", "Steps: has no command block"),
        ("```\ntrue\n```", "Acceptance test: does not say what"),
    ],
)
def test_a_ticket_without_command_or_expectation_is_refused(
    tmp_path: Path, body: str, said: str
) -> None:
    ticket(tmp_path, "01", 1, body=body)
    with pytest.raises(ValueError, match=said):
        tickets.load(tmp_path)


def test_no_ticket_waits_for_a_later_milestone() -> None:
    by_id = {one.id: one for one in tickets.load()}
    for one in by_id.values():
        for other in one.depends:
            assert by_id[other].milestone <= one.milestone, f"{one.id} waits for {other}"


def test_a_ticket_names_no_later_one_before_it_is_done() -> None:
    """What it needs is in `depends`, so nothing later is needed in its first parts."""
    found = tickets.load()
    slots = tickets.schedule(found)
    for one in found:
        part = re.search(r"(?ms)^## Before you start\n(.*?)^## ", one.body)
        assert part
        for other in re.findall(r"\bT\d\d\b", part[1]):
            assert slots[other].end <= slots[one.id].start, f"{one.id} needs {other}"


def test_tickets_are_whole_and_depend_in_no_circle() -> None:
    found = tickets.load()
    assert len(found) >= 20
    assert tickets.ordered(found)


def test_every_system_of_every_diagram_has_a_ticket() -> None:
    """Services and machines as the topology renders them, jobs that deploy as the pipeline has them."""
    built = {system for one in tickets.load() for system in one.systems}
    services = {name for one in facts.load_topology("prod").machines for name in one.formulas}
    assert {"haproxy", "fail2ban", "shipper", "stunnel"} <= services
    jobs = {job.environment for job in pipeline.jobs("main")} - {""}
    assert jobs
    delivery = {"pipeline", "artifact store", *jobs}
    around = {
        "account",
        "network",
        "dns",
        "certificates",
        "secrets",
        "machines",
        "alerts",
        "people",
    }
    assert (services | delivery | around) - built == set()


def test_a_circle_of_tickets_is_refused(tmp_path: Path) -> None:
    ticket(tmp_path, "01", 1, "T02")
    ticket(tmp_path, "02", 1, "T01")
    with pytest.raises(ValueError, match="circle: T01, T02"):
        tickets.load(tmp_path)


def test_a_ticket_that_waits_for_nothing_known_is_refused(tmp_path: Path) -> None:
    ticket(tmp_path, "01", 1, "T09")
    with pytest.raises(ValueError, match="depends on T09, which there is not"):
        tickets.load(tmp_path)


def test_the_critical_path_is_the_longest(tmp_path: Path) -> None:
    for number, hours, depends in (("01", 1, ()), ("02", 5, ("T01",)), ("03", 2, ("T01",)),
                                   ("04", 1, ("T02", "T03"))):  # fmt: skip
        ticket(tmp_path, number, hours, *depends)
    found = tickets.load(tmp_path)
    assert [one.id for one in tickets.critical_path(found)] == ["T01", "T02", "T04"]
    assert tickets.schedule(found)["T03"] == tickets.Slot(1, 3, 3)


def rows() -> Iterator[dict[str, str]]:
    text = (ROOT / "docs" / "tickets" / "tickets.csv").read_text(encoding="utf-8")
    yield from csv.DictReader(io.StringIO(text, newline=""))


def test_the_csv_is_what_gitlab_imports() -> None:
    """Columns as GitLab documents them; quick actions each on a line of its own."""
    found = list(rows())
    assert list(found[0]) == ["title", "description", "due_date", "milestone"]
    assert len(found) == len(tickets.load())
    for row in found:
        assert None not in row and None not in row.values(), row["title"]
        assert 0 < len(row["title"]) <= 255
        assert 0 < len(row["description"]) <= 1_048_576
        assert row["due_date"] == "" or re.fullmatch(r"\d{4}-\d\d-\d\d", row["due_date"])
        assert row["milestone"]
        actions = [line for line in row["description"].splitlines() if line.startswith("/")]
        assert [line.split()[0] for line in actions] == ["/label", "/estimate"], row["title"]
        # GitLab takes a label with a space only in quotes.
        assert re.fullmatch(r'/label( ~"[^"]+")+', actions[0]), actions[0]
        # A link relative to the page would lead nowhere from an issue.
        assert not re.search(r"\]\((?!https?:)[^)]*\)", row["description"]), row["title"]
