"""Tickets are orders that a newcomer types: each says where it runs, and names only what there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from control.commands import COMMANDS  # noqa: E402
from control.options import SETTINGS  # noqa: E402
from docs.generate import facts, reference, rehearsal, site, tickets  # noqa: E402

PAGES = sorted([*site.pages(), Path("README.md")])
VARIABLE = {name: one.metadata["variables"][0] for name, one in SETTINGS.items()}
# What targets that are no command of the controller take (Makefile).
OTHER = {
    "artifact": {"APP"},
    "bench": {"TOPOLOGY", "MANY", "ARGS"},
    "test-times": {"ARGS"},
    **{name: {"TESTS", "ARGS"} for name in ("test-unit", "test", "test-all", "test-faults")},
}
# Read by make itself and by the programs below it, whatever the target (control/options.py: surroundings).
ALWAYS = {"ARTIFACT_STORE", "PYTHON"}


def taken(target: str) -> set[str]:
    """Variables that ``make target`` takes."""
    for command in COMMANDS:
        if command.name == target:
            return {VARIABLE[str(one.name)] for one in command.params if one.name in VARIABLE}
    return OTHER.get(target, set())


def commands_in(text: str) -> list[str]:
    """Each shell command of a text's code: fenced lines and code between backticks, one a line."""
    code = re.findall(r"(?ms)^ *```[^\n]*\n(.*?)^ *```$", text)
    code += re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^ *```.*?^ *```$", "", text))
    joined = re.sub(r"\\\n\s*", "", "\n".join(code))
    return [re.sub(r"^\s*[$#] |\s+# .*$", "", line).strip() for line in joined.splitlines()]


def of_make(command: str) -> list[tuple[str, list[str]]]:
    """`(target, variables)` of each `make` in a line of shell; what stands in quotes is one word."""
    bare = re.sub(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"|\$\([^()]*\)", "x", command)
    found = []
    for call in re.split(r"\||;|&&|[()]|\bdo\b", bare):
        words = call.split()
        while words and re.fullmatch(r"[A-Z_]+=\S*|time|until|sudo|nice|if|!|\$", words[0]):
            words.pop(0)
        if len(words) > 1 and words[0] == "make" and re.fullmatch(r"[a-z][a-z-]*[a-z]", words[1]):
            found.append((words[1], re.findall(r"\b([A-Z_]+)=", " ".join(words[2:]))))
    return found


def not_taken(command: str) -> list[str]:
    """What a command line gives to commands that do not take it."""
    wrong = []
    for target, variables in of_make(command):
        strange = set(variables) - taken(target) - ALWAYS
        if strange and taken(target):
            wrong.append(f"make {target}: takes no {', '.join(sorted(strange))}: {command}")
    for call in re.findall(r"-m control ([a-z][a-z-]* .*?)(?:[|;&>)]|$)", command):
        name, *words = call.split()
        known = {one.name: one for one in COMMANDS}
        if name not in known:
            wrong.append(f"control {name}: there is no such command")
            continue
        options = {text for one in known[name].params for text in one.opts}
        wrong += [
            f"control {name}: no {word}"
            for word in words
            if word.startswith("--") and word not in options
        ]
    return wrong


def test_commands_of_a_page_take_what_they_are_given() -> None:
    """A variable that a command does not take is ignored in silence: the page would promise what does not happen."""
    wrong = [
        f"{page}: {why}"
        for page in PAGES
        for command in commands_in((ROOT / page).read_text(encoding="utf-8"))
        for why in not_taken(command)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("make up TOPOLOGY=prod", []),
        ("make url VERSION=1", ["make url: takes no VERSION: make url VERSION=1"]),
        ("python -m control none x", ["control none: there is no such command"]),
        ("python -m control up --none", ["control up: no --none"]),
    ],
)
def test_what_a_command_does_not_take_is_told(command: str, why: list[str]) -> None:
    assert not_taken(command) == why


def test_the_commands_of_a_line_are_found() -> None:
    assert of_make("until make status TOPOLOGY=x; do sleep 5; done") == [("status", ["TOPOLOGY"])]
    assert of_make("make ssh CMD='make lint HOST=1' && YES=1 make down") == [
        ("ssh", ["CMD"]),
        ("down", []),
    ]


def test_every_ticket_s_block_says_where_it_runs() -> None:
    """And what says nothing is no command."""
    doing = re.compile(
        r"^\s*(make|ssh|curl|git|dig|nmap|openssl|for|until|\.venv/|apt-get|salt-cloud|rm|mv|age)\b",
        re.M,
    )
    for ticket in tickets.load():
        blocks = rehearsal.blocks(ticket)
        assert any(block.place for block in blocks if block.part == "Steps"), ticket.id
        assert any(block.place for block in blocks if block.part == "Acceptance test"), ticket.id
        for block in blocks:
            if not block.place:
                assert not doing.search(block.text), f"{ticket.id}: {block.text}"


def test_files_that_tickets_name_exist() -> None:
    """Programs and files of the checkout, where they stand as commands or in backticks."""
    for ticket in tickets.load():
        text = re.sub(r"(?s)\]\([^)]*\)", "", ticket.body)
        for name in re.findall(
            r"(?<![\w./~-])((?:webapp|tests|tools|control|cloud|salt)/[\w./-]+\w)", text
        ):
            assert (ROOT / name).exists(), f"{ticket.id}: {name}"


def test_variables_of_the_pipeline_that_tickets_set_exist() -> None:
    pipeline = (ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8")
    for ticket in tickets.load():
        for name in re.findall(r"-F key=(\w+)", ticket.body):
            assert re.search(rf"\b{name}\b", pipeline), f"{ticket.id}: {name}"


def test_settings_that_tickets_name_exist() -> None:
    known = {one["path"] for folder in facts.formulas() for one in reference.settings_of(folder)}
    for ticket in tickets.load():
        text = re.sub(r"(?ms)^ *```.*?^ *```$", "", ticket.body)
        for name in re.findall(
            r"`((?:haproxy|prometheus|backup|rsyslog|base|filebeat|fail2ban|counter):[a-z0-9_:]+)",
            text,
        ):
            prefix = name.rstrip(":")
            assert any(
                path == prefix or path.startswith(f"{prefix}:") or prefix.startswith(f"{path}:")
                for path in known
            ), f"{ticket.id}: {name}"


def test_the_rotation_has_every_password_of_the_store() -> None:
    """One that is left out is the one that stays known to whoever has it."""
    users = yaml.safe_load((ROOT / "salt/redis/defaults.yaml").read_text(encoding="utf-8"))["users"]
    declared = yaml.safe_load((ROOT / "salt/redis/secrets.yaml").read_text(encoding="utf-8"))
    # Those of several stores are of a topology that no ticket makes.
    alone = {name for name, one in declared.items() if "several" not in one}
    (ticket,) = (one for one in tickets.load() if one.id == "T29")
    rotated = re.findall(r"make rotate TOPOLOGY=live SECRET=(\S+)", ticket.body)
    assert set(rotated) == alone | {one["secret"] for one in users.values()}


def test_what_make_says_of_a_failure_is_2() -> None:
    """`make` ends with 2 whatever its command ended with: a ticket that expects another code of it never passes."""
    for ticket in tickets.load():
        for block in rehearsal.blocks(ticket):
            for check in block.checks():
                if of_make(check.command) and 'echo "exit $?"' in check.command and check.expected:
                    assert re.search(r"exit [02]$", check.expected), f"{ticket.id}: {check}"


def test_no_ticket_before_its_time_destroys_what_users_are_on() -> None:
    """What destroys a topology stands in tickets on demand alone, and as a way back that says so; a single machine's loss
    is a drill before there are users."""
    everything = tickets.load()
    slots = tickets.schedule(everything)
    for ticket in everything:
        for block in rehearsal.blocks(ticket):
            if re.search(r"make cloud-down TOPOLOGY=live", block.text):
                assert ticket.is_on_demand, ticket.id
            if "salt-cloud -d" in block.text and not ticket.is_on_demand:
                assert slots[ticket.id].end <= slots[tickets.USERS].start, ticket.id
            assert "YES=" not in block.text and "FORCE=1" not in block.text.replace(
                "FORGET=1", ""
            ), ticket.id


def test_what_is_on_demand_is_on_no_path() -> None:
    everything = tickets.load()
    on_demand = {one.id for one in everything if one.is_on_demand}
    assert on_demand
    assert not on_demand & set(tickets.schedule(everything))
    for ticket in everything:
        assert not set(ticket.depends) & on_demand, f"{ticket.id} waits for what may never be done"


def test_the_critical_path_ends_with_users() -> None:
    path = tickets.critical_path(tickets.load())
    assert path[-1].id == tickets.USERS


def made(
    name: str, hours: float, *depends: str, waits: float = 0, milestone: str = "1 One"
) -> tickets.Ticket:
    return tickets.Ticket(
        name,
        name,
        milestone,
        ("x",),
        "operator",
        hours,
        "judged, by nobody",
        waits,
        "x",
        depends,
        "",
        Path(name),
    )


def test_waiting_is_no_work_and_still_takes_time() -> None:
    everything = [
        made("T01", 2, waits=2),
        made("T02", 8),
        made("T23", 1, "T01", "T02"),
        made("T25", 9, "T23"),
    ]
    slots = tickets.schedule(everything)
    assert slots["T23"].start == 2 + 2 * tickets.DAY
    assert [one.id for one in tickets.critical_path(everything)] == ["T01", "T23"]
    assert slots["T02"].slack == 2 + 2 * tickets.DAY - 8
    assert not slots["T25"].critical, "no user waits for it"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("owner", "somebody", "owner: somebody: is none of operator"),
        ("basis", "it felt right", "basis: say measured, counted or judged"),
        ("waits", "a while", "waits: a while: is `nothing` or `N days, for what`"),
    ],
)
def test_an_estimate_without_owner_basis_or_waiting_is_refused(
    key: str, value: str, said: str
) -> None:
    given = {"owner": "operator", "basis": "judged, by two people", "waits": "nothing", key: value}
    with pytest.raises(ValueError, match=re.escape(f"x.md: {said}")):
        tickets._estimate("x.md", **given)


def test_a_block_is_taken_apart() -> None:
    body = "# T\n\n## Steps\n\n1. Do\n\n   ```sh here\n   a \\\n       b     # -> …c\n   d # e\n   ```\n\n```\nx\n```\n"
    ticket = tickets.Ticket(
        "T01", "t", "1", ("x",), "operator", 1, "b", 0, "", (), body, Path("01.md")
    )
    first, second = rehearsal.blocks(ticket)
    assert (first.place, first.part, second.place) == ("here", "Steps", "")
    assert [(one.command, one.expected) for one in first.checks()] == [("a b", "…c"), ("d # e", "")]
    wrong = tickets.Ticket(
        "T01",
        "t",
        "1",
        ("x",),
        "operator",
        1,
        "b",
        0,
        "",
        (),
        body.replace("sh here", "sh moon"),
        Path("01.md"),
    )
    with pytest.raises(ValueError, match="01.md:7: ```sh moon: is none of here"):
        rehearsal.blocks(wrong)


def test_what_the_rehearsal_says_of_a_block_is_said_of_one() -> None:
    blocks = {
        one.id: [block for block in rehearsal.blocks(one) if block.place] for one in tickets.load()
    }
    played = [(one.ticket, one.before) for one in rehearsal.PLAYED if one.before]
    for ticket, begins in [*rehearsal.LEFT, *played]:
        found = [block for block in blocks[ticket] if block.text.startswith(begins)]
        assert len(found) == 1, f"{ticket}: {begins}"


def test_all_that_the_rehearsal_types_is_filled_in_and_is_shell() -> None:
    used: set[str] = set()

    class Values(dict[str, str]):
        def __missing__(self, word: str) -> str:
            used.add(word)
            return "filled-in"

    for ticket in tickets.load():
        for step in rehearsal.steps(ticket, rehearsal.ON_MACHINES):
            for check in step.checks():
                command = rehearsal.fill(rehearsal.typed(check.command), Values())
                assert rehearsal.is_complete(f"{{ {command}\n}}"), f"{ticket.id}: {command}"
                left = re.findall(r"(?<![\w$-])[A-Z][A-Z0-9]*-(?:ADDRESS|KEY|EDGE|NAME)\b", command)
                assert not left, f"{ticket.id}: {command}"
    assert used == set(rehearsal.FILLED), "each word that is filled in is in a ticket"


def test_a_loop_and_a_text_are_one_command() -> None:
    text = "for x in a b; do\n    echo $x     # of each\ndone     # -> a…b\ncat > f <<'END'\nif\nEND\ntrue\n"
    checks = rehearsal.Block("T01", "Steps", 1, "here", text).checks()
    assert [(one.command.splitlines()[0], one.expected) for one in checks] == [
        ("for x in a b; do", "a…b"),
        ("cat > f <<'END'", ""),
        ("true", ""),
    ]
    with pytest.raises(ValueError, match="T01 Steps: no shell understands: for x"):
        rehearsal.Block("T01", "Steps", 1, "here", "for x in\n").checks()
