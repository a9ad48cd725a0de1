"""
What of the tickets is carried out by a test, and who must carry out the rest.

Every command block of a ticket says where it runs: ```` ```sh here ````. A line may say what it prints:
`command     # -> TEXT`, all of it, where `…` stands for anything. Blocks without a mark are no commands: lines of
somebody else's configuration.

A rehearsal types them as they stand, but for what the tables below say; the page is made from the same tables.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .runnable import Check
from .tickets import Ticket, load

# Mark -> where a block runs.
PLACES = {
    "here": "the checkout alone",
    "stand-in": "the checkout and the provider's API",
    "git": "the checkout and the repository that it is pushed to",
    "host": "a host, where it installs packages",
    "lab": "machines, which may be the lab's",
    "lab-ha": "machines of `ha`, which may be the lab's",
    "cloud": "droplets, a reserved address, a public name",
    "gitlab": "a GitLab project and its runner",
    "dns": "the public zone",
    "outside": "a host elsewhere, or another provider",
    "old": "the system that is there today",
}
# These need no machine: test_tickets_are_carried_out_in_order.
WITHOUT_MACHINES = ("here", "stand-in")
# These test_the_tickets_are_rehearsed carries out, in the order of the tickets.
ON_MACHINES = (*WITHOUT_MACHINES, "git", "lab", "cloud")

# What a person fills in -> what the rehearsal does.
FILLED = {
    "prod": "topology `prod` of this run's network, in the lab",
    "REPOSITORY": "a bare repository, which merges what is pushed to a branch",
    "EDGE1-PUBLIC-ADDRESS": "as `.lab/live/cloud.yaml` has it",
    "APP1-PUBLIC-ADDRESS": "as `.lab/live/cloud.yaml` has it",
    "RESERVED-ADDRESS": "the edge's own public address: no packet finds a reserved address of the stand-in",
    "STAGING-EDGE": "as `.lab/staging/cloud.yaml` has it",
    "OUTSIDER-ADDRESS": "an address of documentation, which nothing has banned",
    "ADDRESS": "the address that the rehearsal's own requests come from",
    "AUTHORITY-PORT": "of pebble, Debian's authority for tests",
    "ENDPOINT": "moto, which speaks S3",
    "BUCKET": "a bucket there",
    "PAGER": "a server that notes the alerts that it is sent",
    "WATCHDOG": "the same",
    "PUBLIC-KEY": "of a key pair made for it",
    "NAME": "an operator with that key",
    "NUMBER": "the number that the command before has printed",
    "OLD-KEY": "the controller's key before",
    "OLD": "100000",
    "v": "the release that the ticket means",
}
_PLACEHOLDER = re.compile(
    r"(?<![\w$-])(?:"
    + "|".join(sorted(map(re.escape, {*FILLED} - {"v", "prod"}), key=len, reverse=True))
    + r")(?![\w-])|(?<=VERSION=)v\b|(?<![\w-])prod\b"
)


@dataclass(frozen=True)
class Otherwise:
    """What is typed another way: each hit of regular expression ``text`` as ``typed``, because of ``reason``."""

    text: str
    typed: str
    reason: str


OTHERWISE = (
    Otherwise(
        r"^make lint$",
        "lint/run $(git ls-files --modified --others --exclude-standard) .gitlab-ci.yml pillar/topologies/*.yaml",
        "a whole lint takes a minute of two cores each time: the files that tickets change, and the pipeline's",
    ),
    Otherwise(
        r"^git clone (\S+) counter && cd counter$",
        r"git clone -q \1 counter && cd counter && ../provide",
        "what `make` installs for minutes is linked instead",
    ),
    Otherwise(
        r"^make (up|status|down)$",
        r"make \1 TOPOLOGY=$LAB_TOPOLOGY",
        "`dev` is another test's machine",
    ),
    Otherwise(
        r"--rate 20 --seconds 600",
        "--rate 20 --seconds 120",
        "about as long as what goes on beside it",
    ),
    Otherwise(
        r"--rate 40 --seconds 600",
        "--rate 40 --seconds 90",
        "about as long as what goes on beside it",
    ),
    Otherwise(
        r"--seconds 300 ", "--seconds 10 ", "what the lab can carry says nothing of a droplet"
    ),
    Otherwise(r"sleep 600;", "sleep 20;", "no watchdog of somebody else's waits for it"),
    Otherwise(r"\* 92 / 100", "* 0 / 100 + 1024", "the lab's machines share this computer's disk"),
    Otherwise(
        r"letsencrypt\.org/directory",
        "letsencrypt.org:AUTHORITY-PORT/dir",
        "pebble, Debian's authority for tests",
    ),
    Otherwise(
        r"export ARTIFACT_STORE=gitlab\+.*",
        "true",
        "the releases are in a folder, which ARTIFACT_STORE names already",
    ),
)


@dataclass(frozen=True)
class Played:
    """
    What the rehearsal does in the place of somebody, before the block of ``ticket`` that begins with ``before`` (after
    its last where that is empty); ``instead``: what that stands for.
    """

    ticket: str
    before: str
    text: str
    instead: str


_MERGE = "git add -A pillar && { git diff --cached --quiet || git commit -qm Settings; } && git push -q origin HEAD"
_VERSION = "$(.venv/bin/python webapp/build.py --print-version)"
_PIPELINE = (
    "printf '\\n\\n# Change {number}.\\n' >> webapp/src/counter/app.py && git commit -qam 'Change {number}' && git push -q"
    f" origin HEAD\nmake artifact\nmake publish\nmake deploy TOPOLOGY=staging VERSION={_VERSION} WHY=pipeline\nmake apply TOPOLOGY=staging"
)
_SETTINGS = "the merge request with the settings"
_COPY = (
    ".venv/bin/python -m control export-state --topology {topology} | age -p > {topology}.state.age"
)
# State to be in before the next fault of T22.
_WELL = "until make status TOPOLOGY=live; do sleep 10; done"
_BY_RUNBOOK = "somebody mends by the runbook"
PLAYED = (
    Played("T16", "make secret", _MERGE, _SETTINGS),
    Played(
        "T17",
        "git switch -c broken",
        _PIPELINE.format(number=1),
        "a merge, and the pipeline's deploy to staging",
    ),
    Played("T17", "", _COPY.format(topology="staging"), "the sealed copy of staging, for T24"),
    Played("T15", "make secret TOPOLOGY=live SECRET=pager", _MERGE, _SETTINGS),
    Played("T18", "make apply TOPOLOGY=live TEST=1", _MERGE, _SETTINGS),
    Played(
        "T19",
        ".venv/bin/python tests",
        _PIPELINE.format(number=2),
        "a merge, and the pipeline's deploy to staging",
    ),
    Played(
        "T19",
        "curl",
        f"make deploy TOPOLOGY=live VERSION={_VERSION} WHY=pipeline\nmake apply TOPOLOGY=live",
        "the pipeline's job `production`",
    ),
    Played(
        "T22",
        "make ssh TOPOLOGY=live HOST=store1 CMD=reboot",
        "make ssh TOPOLOGY=live HOST=monitor1 CMD='until amtool --alertmanager.url=http://127.0.0.1:9093 alert query"
        f" alertname=MachineDown | grep Machine; do sleep 5; done'\nmake cloud-up TOPOLOGY=live\n{_WELL}",
        f"the alert has come; {_BY_RUNBOOK}",
    ),
    Played("T22", "make ssh TOPOLOGY=live HOST=monitor1", _WELL, _BY_RUNBOOK),
    Played(
        "T22",
        "make ssh TOPOLOGY=live HOST=edge1",
        # The provider says so only when the machine has come to its end.
        "until make cloud-plan TOPOLOGY=live | grep 'droplet live-monitor1: it is off'; do sleep 5; done\n"
        f"make cloud-up TOPOLOGY=live\n{_WELL}",
        f"the watchdog's alarm has rung; {_BY_RUNBOOK}",
    ),
    Played("T22", "make ssh TOPOLOGY=live HOST=app2 CMD='fallocate", _WELL, _BY_RUNBOOK),
    Played("T26", "", _COPY.format(topology="live"), "step 2 of T08"),
    Played(
        "T27",
        "make ssh TOPOLOGY=live HOST=edge1",
        """curl -sS http://127.0.0.1:$NAMES_PORT/set-default-ipv4 -d '{"ip": "RESERVED-ADDRESS"}'""",
        "the reserved address is assigned to the new machine: the name leads there",
    ),
    Played("T27", "", _COPY.format(topology="live"), "step 2 of T08"),
    Played("T28", "", "rm -rf .lab/live", "the old controller goes on"),
    Played(
        "T24",
        "make status",
        "make ssh TOPOLOGY=staging HOST=app1 CMD='systemctl restart counter@1'\n"
        "until make status TOPOLOGY=staging; do sleep 10; done",
        "somebody mends by the runbook",
    ),
    Played("T24", "", "rm -rf .lab/staging", "their host does not become the controller"),
    Played(
        "T30",
        "for rate",
        "cp .lab/staging/ca.pem staging-ca.pem\n"
        "sed -i 's/^trusted: .*/trusted: [ADDRESS]/' pillar/topologies/staging.yaml\n"
        "make cloud-up TOPOLOGY=staging",
        "the load's host in staging's `trusted`, with staging's certificate",
    ),
    Played("T31", "curl", _MERGE, _SETTINGS),
    Played(
        "T34",
        "ssh -F",
        "$RECOVERY sh -c 'mv /root/authorized_keys.away /root/.ssh/authorized_keys;"
        " [ ! -d /root/keys.away ] || mv /root/keys.away /etc/ssh/authorized_keys.d'",
        "step 3, past ssh: the lab's way into a container",
    ),
    Played(
        "T23", "", "make maintenance TOPOLOGY=live OFF=1", "T23 begins anew, as its way back says"
    ),
    Played("T25", "make apply", _MERGE, _SETTINGS),
    Played("T29", "", "rm .lab/cloud/old*", "the old key goes"),
)


# Beginning of a block, by its ticket -> why no test carries it out though its place is one where it could.
LEFT: dict[tuple[str, str], str] = {
    ("T09", "make failover"): "a topology of three stores: `test_stores.py` does it",
    (
        "T10",
        "make deploy TOPOLOGY=live APP=notes",
    ): "only where the pillar has another application: `test_apps.py`",
    ("T14", "make secret"): "only where the company has Elasticsearch: `test_filebeat.py`",
    ("T34", "mv /mnt"): "the provider's recovery system; the rehearsal does the same past ssh",
    ("T36", "make up"): "`test_containers.py` does it on a host of its own",
    ("T36", "make apply"): "`test_containers.py` does it on a host of its own",
    ("T36", "make deploy"): "`test_containers.py` does it on a host of its own",
    ("T36", "curl"): "`test_containers.py` does it on a host of its own",
}
# Typed in a second terminal, as the ticket says: goes on while the rest of the ticket is typed.
BESIDE = re.compile(r"make dashboard|\.venv/bin/python tests/checked_load\.py .*--seconds 600")
_FENCE = re.compile(r"(?ms)^( *)```([^\n]*)\n(.*?)^\1```$")
_EXPECTED = re.compile(r"\s{2,}# -> (.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block of a ticket. ``place`` is '' for what is no command; ``line`` counts in the ticket's body."""

    ticket: str
    part: str
    line: int
    place: str
    text: str

    def checks(self) -> list[Check]:
        """
        Its commands, each with what it has to print; a command goes on after a backslash, and until what it opened
        (a loop, a text for its standard input) is closed.

        Raises ValueError, naming the ticket, for what no shell understands.
        """
        found, lines, expected = [], [], ""
        for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
            if says := _EXPECTED.search(line):
                expected = says[1].strip()
            lines.append(re.sub(r"\s{2,}#.*$", "", line))
            command = "\n".join(lines).strip()
            if command and is_complete(command):
                found.append(Check(self.part, command, expected))
                lines, expected = [], ""
        if "".join(lines).strip():
            raise ValueError(
                f"{self.ticket} {self.part}: no shell understands: {chr(10).join(lines)}"
            )
        return found

    @property
    def left(self) -> str:
        """Why it is not carried out though it could be; '' where it is."""
        reasons = [
            reason
            for (ticket, begins), reason in LEFT.items()
            if ticket == self.ticket and self.text.startswith(begins)
        ]
        return reasons[0] if reasons else ""


def is_complete(command: str) -> bool:
    """Whether a shell would carry it out, and not wait for more lines."""
    if not re.search(r"<<|^(for|while|until|if|case|\{|\()|\n", command):
        return True
    done = subprocess.run(
        ["bash", "-n"], input=command, capture_output=True, text=True, check=False
    )
    return not done.returncode and not done.stderr


def fill(command: str, value: Mapping[str, str]) -> str:
    """``command`` with what a person fills in; KeyError for a word of FILLED that ``value`` lacks."""
    return _PLACEHOLDER.sub(lambda hit: value[hit[0]], command)


def typed(command: str) -> str:
    """``command`` as a rehearsal types it."""
    for one in OTHERWISE:
        command = re.sub(one.text, one.typed, command)
    return command


def blocks(ticket: Ticket) -> list[Block]:
    """
    Every fenced block of a ticket, in its order.

    Raises ValueError, naming ticket and line, for a mark that is none of PLACES.
    """
    found = []
    for fence in _FENCE.finditer(ticket.body):
        line = ticket.body.count("\n", 0, fence.start()) + 1
        words = fence[2].split()
        if words and (len(words) != 2 or words[0] != "sh" or words[1] not in PLACES):
            raise ValueError(
                f"{ticket.path.name}:{line}: ```{fence[2]}: is none of {', '.join(PLACES)}"
            )
        part = re.findall(r"(?m)^## (.*)$", ticket.body[: fence.start()])[-1]
        margin = len(fence[1])
        text = "".join(one[margin:] for one in fence[3].splitlines(keepends=True))
        found.append(Block(ticket.id, part, line, words[1] if words else "", text))
    return found


def steps(ticket: Ticket, places: Sequence[str]) -> list[Block]:
    """The blocks of a ticket that a rehearsal of these places types, with what it does in somebody's place among them."""
    found = []
    for block in blocks(ticket):
        found += [
            Block(ticket.id, played.instead, block.line, block.place, played.text)
            for played in PLAYED
            if played.ticket == ticket.id and played.before and block.text.startswith(played.before)
        ]
        if block.place in places and not block.left:
            found.append(block)
    found += [
        Block(ticket.id, played.instead, 0, "", played.text)
        for played in PLAYED
        if played.ticket == ticket.id and not played.before
    ]
    return found


def in_order(tickets: list[Ticket]) -> list[Ticket]:
    """Tickets as somebody would take them: each after what it depends on, the lowest number first."""
    left, order, done = list(tickets), list[Ticket](), set[str]()
    while left:
        ready = next(one for one in left if set(one.depends) <= done)
        left.remove(ready)
        order.append(ready)
        done.add(ready.id)
    return order


def is_carried_out(block: Block) -> bool:
    return block.place in ON_MACHINES and not block.left


def _who(block: Block, owner: str) -> str:
    """Who carries a block out, and why not the test."""
    if is_carried_out(block):
        return "the test"
    return f"{owner}; {block.left}" if block.left else owner


def _code(text: str) -> str:
    """First line of a text, as code in a cell of a table."""
    first = text.strip().splitlines()[0].replace("|", "\\|")
    first = re.sub(r"\s{2,}#.*$", "", first)
    return f"`{first[:72]}{'…' if len(first) > 72 else ''}`"


def rehearsal_page() -> str:
    """What runs where, what a test carries out of it, and who must carry out the rest."""
    tickets = load()
    every = [(one, block) for one in in_order(tickets) for block in blocks(one) if block.place]
    lines = [
        "# What of the tickets was rehearsed",
        "",
        "Every command block of every ticket, in the order in which they can be taken. `test_the_tickets_are_rehearsed`"
        " (each night) types in that order, in a terminal, those that are marked so below, and compares what"
        " they print with what the ticket says. A stand-in of the provider's API validates each request by the published"
        " description; its droplets are machines of the lab, which `make cloud-up` converges, which a ticket destroys and which"
        " are then made anew. `test_tickets_are_carried_out_in_order` does the same for what needs no machine. Every other block was"
        " read against the code by `test_commands_of_a_page_take_what_they_are_given` (names of commands, options and"
        " variables), and is carried out by who is named: nobody of this project has an account, a zone or a GitLab to do it"
        " with.",
        "",
        "| runs on | blocks | carried out by a test |",
        "| --- | --- | --- |",
    ]
    for place, means in PLACES.items():
        there = [block for _, block in every if block.place == place]
        done = sum(map(is_carried_out, there))
        lines.append(f"| {means} (`{place}`) | {len(there)} | {done or 'no'} |")
    lines += [
        "",
        "## Block by block",
        "",
        "| ticket | part | first command | runs on | carried out by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one, block in every:
        who = _who(block, one.owner)
        lines.append(
            f"| [{one.id}]({one.path.name}) | {block.part} | {_code(block.text)} | {block.place} | {who} |"
        )
    lines += ["", "## What is filled in", "", "| in tickets | in the rehearsal |", "| --- | --- |"]
    lines += [f"| `{word}` | {means} |" for word, means in FILLED.items()]
    lines += [
        "",
        "## What is typed otherwise",
        "",
        "| instead of (a regular expression) | typed | because |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {_code(one.text)} | {_code(one.typed)} | {one.reason} |" for one in OTHERWISE]
    lines += [
        "",
        "## What is done in somebody's place",
        "",
        "| ticket | before | what | first command |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.ticket} | {_code(one.before) if one.before else 'its end'} | {one.instead} | {_code(one.text)} |"
        for one in PLAYED
    ]
    return "\n".join([*lines, ""])
