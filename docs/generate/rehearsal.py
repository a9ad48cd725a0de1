"""
What of the tickets is carried out by a test, and who must carry out the rest.

Every command block of a ticket says where it runs: ```` ```sh here ````. A line may say what it prints:
`command     # -> TEXT`, all of it, where `…` stands for anything. Blocks without a mark are no commands: lines of
somebody else's configuration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .runnable import Check
from .tickets import Ticket, load

# Mark -> where a block runs.
PLACES = {
    "here": "the checkout alone",
    "stand-in": "the checkout and the provider's API",
    "host": "a host, where it installs packages",
    "lab": "machines, which may be the lab's",
    "lab-ha": "machines of `ha`, which may be the lab's",
    "cloud": "droplets, a reserved address, a public name",
    "gitlab": "a GitLab project and its runner",
    "dns": "the public zone",
    "outside": "a host elsewhere, or another provider",
    "old": "the system that is there today",
}
# These a test carries out, in the order of the tickets: the second against a stand-in that validates by the
# published API.
CARRIED_OUT = ("here", "stand-in")
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
        """Its commands, each with what it has to print; one that goes on after a backslash is one."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = [line for line in joined.splitlines() if line.strip()]
        found = []
        for line in lines:
            expected = _EXPECTED.search(line)
            command = re.sub(r"\s{2,}#.*$", "", line)
            found.append(Check(self.part, command, expected[1].strip() if expected else ""))
        return found


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
