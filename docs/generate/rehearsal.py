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
    + "|".join(
        sorted(map(re.escape, {*FILLED} - {"v", "prod"}), key=len, reverse=True)
    )
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
    Otherwise(r"^make (up|status|down)$", r"make \1 TOPOLOGY=$LAB_TOPOLOGY", "`dev` is another test's machine"),
    Otherwise(r"--seconds 600 ", "--seconds 240 ", "as long as what goes on beside it"),
    Otherwise(r"--seconds 600\b", "--seconds 60", "a minute shows what it is for"),
    Otherwise(r"--seconds 300 ", "--seconds 10 ", "what the lab can carry says nothing of a droplet"),
    Otherwise(r"sleep 600;", "sleep 20;", "no watchdog of somebody else's waits for it"),
    Otherwise(r"\* 92 / 100", "* 0 / 100 + 1024", "the lab's machines share this computer's disk"),
    Otherwise(
        r"letsencrypt\.org/directory", "letsencrypt.org:$AUTHORITY_PORT/dir", "pebble, Debian's authority for tests"
    ),
    Otherwise(
        r"export ARTIFACT_STORE=gitlab\+.*", "true", "the releases are in a folder, which ARTIFACT_STORE names already"
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
_PIPELINE = (
    "printf '\\n\\n# Change {number}.\\n' >> webapp/src/counter/app.py && git commit -qam 'Change {number}' &&"
    " git push -q origin HEAD && make artifact && make publish &&"
    " make deploy TOPOLOGY={topology} VERSION=$(.venv/bin/python webapp/build.py --print-version) WHY=pipeline"
)
PLAYED = (
    Played("T16", "make secret", _MERGE, "the merge request with the settings"),
    Played("T17", "git switch -c broken", _PIPELINE.format(number=1, topology="staging"), "a merge, and the pipeline"),
    Played("T15", "make secret", _MERGE, "the merge request with the settings"),
    Played("T18", "make apply", _MERGE, "the merge request with the settings"),
    Played(
        "T18", "make apply TOPOLOGY=live\nssh", "sed -i 's/^    NAME:/    NAME-away:/' pillar/settings/live.sls", "somebody leaves"
    ),
)


# Beginning of a block, by its ticket -> why no test carries it out though its place is one where it could.
LEFT: dict[tuple[str, str], str] = {
    ("T09", "make failover"): "a topology of three stores: `test_stores.py` does it",
    ("T10", "make deploy TOPOLOGY=live APP=notes"): "only where the pillar has another application: `test_apps.py`",
    ("T14", "make secret"): "only where the company has Elasticsearch: `test_filebeat.py`",
    ("T34", "mv /mnt"): "the provider's recovery system",
    ("T36", "make up"): "`test_containers.py` does it on a host of its own",
    ("T36", "make apply"): "`test_containers.py` does it on a host of its own",
    ("T36", "make deploy"): "`test_containers.py` does it on a host of its own",
    ("T36", "curl"): "`test_containers.py` does it on a host of its own",
}
# Typed in a second terminal, as the ticket says: goes on while the rest of the ticket is typed.
BESIDE = re.compile(r"^make dashboard|^\.venv/bin/python tests/checked_load\.py .*--seconds 600")
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
            raise ValueError(f"{self.ticket} {self.part}: no shell understands: {chr(10).join(lines)}")
        return found

    @property
    def left(self) -> str:
        """Why it is not carried out though it could be; '' where it is."""
        reasons = [
            reason for (ticket, begins), reason in LEFT.items() if ticket == self.ticket and self.text.startswith(begins)
        ]
        return reasons[0] if reasons else ""


def is_complete(command: str) -> bool:
    """Whether a shell would carry it out, and not wait for more lines."""
    if not re.search(r"<<|^(for|while|until|if|case|\{|\()|\n", command):
        return True
    done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
    return not done.returncode and not done.stderr


def fill(command: str, value: dict[str, str]) -> str:
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


def in_order(tickets: list[Ticket]) -> list[Ticket]:
    """Tickets as somebody would take them: each after what it depends on, the lowest number first."""
    left, order, done = list(tickets), list[Ticket](), set[str]()
    while left:
        ready = next(one for one in left if set(one.depends) <= done)
        left.remove(ready)
        order.append(ready)
        done.add(ready.id)
    return order
def rehearsal_page() -> str:
    """What runs where, what a test carries out of it, and who must carry out the rest."""
    tickets = load()
    every = [(one, block) for one in in_order(tickets) for block in blocks(one) if block.place]
    lines = [
        "# What of the tickets was rehearsed",
        "",
        "Every command block of every ticket, in the order in which they can be taken. `test_tickets_are_carried_out_in_order`"
        " carries out those that need nothing but a checkout, or the provider's API, for which a stand-in"
        " stands that validates each request by the published description; it compares what they print with what"
        " the ticket says. Every other block was read against the code by `test_commands_of_a_page_take_what_they_are_given`"
        " (names of commands, options and variables), and is carried out by who is named: nobody of this project has an"
        " account, a zone or a GitLab to do it with.",
        "",
        "| runs on | blocks | carried out by a test |",
        "| --- | --- | --- |",
    ]
    for place, means in PLACES.items():
        count = sum(block.place == place for _, block in every)
        lines.append(
            f"| {means} (`{place}`) | {count} | {'yes' if place in CARRIED_OUT else 'no'} |"
        )
    lines += [
        "",
        "| ticket | part | first command | runs on | carried out by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one, block in every:
        first = block.text.strip().splitlines()[0].replace("|", "\\|")
        first = re.sub(r"\s{2,}#.*$", "", first)
        who = "the test" if block.place in CARRIED_OUT else one.owner
        lines.append(
            f"| [{one.id}]({one.path.name}) | {block.part} | `{first[:72]}{'…' if len(first) > 72 else ''}` |"
            f" {block.place} | {who} |"
        )
    return "\n".join([*lines, ""])
