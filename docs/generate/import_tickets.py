"""Tickets (docs/tickets) into a tracker: labels, milestones, issues and what blocks what.

    GITLAB_TOKEN=… .venv/bin/python -m docs.generate.import_tickets gitlab https://gitlab.example.org/api/v4/projects/ID [--dry-run]
    .venv/bin/python -m docs.generate.import_tickets github OWNER/REPOSITORY [--dry-run]

GitLab by its REST API, GitHub by `gh api` (https://cli.github.com), whose login is used. An issue is known by
the ticket's id, with which its title begins: a second run makes nothing twice and only changes what differs. Title,
description, milestone and labels follow the files; state, assignees, comments and other labels are the tracker's.
Ends with 0, or with 1 and one line that says what failed; run it again and it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from . import tickets

# Of a label that is made: for what a ticket builds, for whose it is, for an issue template.
COLOURS = {"builds": "1d76db", "owner": "fbca04", "template": "d93f0b"}
# Those of the issue templates, .gitlab/ and .github/.
TEMPLATES = ("incident", "change")


class TrackerError(Exception):
    """What the tracker refused, in one line. ``status``: of HTTP; 0: none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Issue:
    """An issue as the tracker has it. ``number`` is in its address, ``key`` is what links want."""

    number: int
    key: int
    title: str
    body: str
    labels: set[str]
    milestone: str
    blockers: set[int] = field(default_factory=set)


class Tracker(Protocol):
    """What is asked of either; each writes at once."""

    def labels(self) -> set[str]: ...
    def make_label(self, name: str, colour: str) -> None: ...
    def milestones(self) -> dict[str, int]: ...
    def make_milestone(self, title: str) -> None: ...
    def issues(self) -> list[Issue]: ...
    def make_issue(self, ticket: tickets.Ticket, title: str, body: str, milestone: int) -> None: ...
    def change_issue(
        self, issue: Issue, title: str, body: str, milestone: int, add: set[str], drop: set[str]
    ) -> None: ...
    def blockers(self, issue: Issue) -> set[int]: ...
    def block(self, issue: Issue, by: Issue) -> None: ...


def _explain(raw: bytes | str) -> str:
    """The message of an answer, or its beginning."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    try:
        said = json.loads(text)
        return str(said.get("message") or said.get("error") or said)
    except (ValueError, AttributeError):
        return text.strip()[:200]


class GitLab:
    """https://docs.gitlab.com/api/issues/, /labels/, /milestones/, /issue_links/"""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token
        # The free tier blocks nothing (403), and GitLab's community edition does not know the word (400).
        self.link_type = "is_blocked_by"
        self._project = 0

    def _ask(self, method: str, path: str, body: object = None) -> tuple[Any, str]:
        """``(answer, next page)``."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"PRIVATE-TOKEN": self.token, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer), answer.headers.get("x-next-page") or ""
        except urllib.error.HTTPError as error:
            message = f"{method} {path}: GitLab answered {error.code}: {_explain(error.read())}"
            raise TrackerError(message, error.code) from error
        except (OSError, ValueError) as error:
            raise TrackerError(f"{method} {path}: {error}") from error

    def _all(self, path: str) -> Iterable[Any]:
        page = "1"
        while page:
            found, page = self._ask(
                "GET", f"{path}{'&' if '?' in path else '?'}per_page=100&page={page}"
            )
            yield from found

    def labels(self) -> set[str]:
        return {one["name"] for one in self._all("/labels")}

    def make_label(self, name: str, colour: str) -> None:
        self._ask("POST", "/labels", {"name": name, "color": f"#{colour}"})

    def milestones(self) -> dict[str, int]:
        return {one["title"]: one["id"] for one in self._all("/milestones")}

    def make_milestone(self, title: str) -> None:
        self._ask("POST", "/milestones", {"title": title})

    def issues(self) -> list[Issue]:
        return [
            Issue(
                one["iid"], one["iid"], one["title"], one.get("description") or "", set(one["labels"]),
                (one.get("milestone") or {}).get("title", ""),
            )
            for one in self._all("/issues?scope=all")
        ]  # fmt: skip

    def make_issue(self, ticket: tickets.Ticket, title: str, body: str, milestone: int) -> None:
        labels = ",".join(ticket.labels)
        given = {"title": title, "description": body, "labels": labels, "milestone_id": milestone}
        made, _ = self._ask("POST", "/issues", given)
        # Only once: what was spent and estimated since is the tracker's.
        minutes = round(ticket.hours * 60)
        self._ask("POST", f"/issues/{made['iid']}/time_estimate", {"duration": f"{minutes}m"})

    def change_issue(
        self, issue: Issue, title: str, body: str, milestone: int, add: set[str], drop: set[str]
    ) -> None:
        given: dict[str, object] = {"title": title, "description": body, "milestone_id": milestone}
        if add:
            given["add_labels"] = ",".join(sorted(add))
        if drop:
            given["remove_labels"] = ",".join(sorted(drop))
        self._ask("PUT", f"/issues/{issue.number}", given)

    def blockers(self, issue: Issue) -> set[int]:
        kinds = {"is_blocked_by", "relates_to"}
        return {
            one["iid"]
            for one in self._all(f"/issues/{issue.number}/links")
            if one["link_type"] in kinds
        }

    def block(self, issue: Issue, by: Issue) -> None:
        if not self._project:
            self._project = self._ask("GET", "")[0]["id"]
        body = {"target_project_id": self._project, "target_issue_iid": by.number}
        path = f"/issues/{issue.number}/links"
        try:
            self._ask("POST", path, {**body, "link_type": self.link_type})
        except TrackerError as error:
            if error.status not in (400, 403) or self.link_type == "relates_to":
                raise
            print(
                "this GitLab lets no issue block another: the links are 'relates to'",
                file=sys.stderr,
            )
            self.link_type = "relates_to"
            self._ask("POST", path, {**body, "link_type": self.link_type})


class GitHub:
    """https://docs.github.com/en/rest/issues, asked by `gh api`."""

    def __init__(self, repository: str) -> None:
        self.base = f"repos/{repository}"
        self.knows_dependencies = True

    def _ask(self, method: str, path: str, body: object = None) -> list[Any]:
        """The answers, one a page."""
        words = ["gh", "api", "--method", method, f"{self.base}{path}"]
        words += ["--paginate"] if method == "GET" else []
        words += [] if body is None else ["--input", "-"]
        given = None if body is None else json.dumps(body)
        try:
            done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise TrackerError("gh is not on the PATH: https://cli.github.com") from error
        if done.returncode:
            status = re.search(r"HTTP (\d+)", done.stderr)
            message = f"{method} {path}: {done.stderr.strip() or _explain(done.stdout)}"
            raise TrackerError(message, int(status[1]) if status else 0)
        # Pages come one after the other, each an array of its own.
        decoder, pages, text = json.JSONDecoder(), [], done.stdout.strip()
        while text:
            page, end = decoder.raw_decode(text)
            pages.append(page)
            text = text[end:].lstrip()
        return pages

    def _all(self, path: str) -> Iterable[Any]:
        for page in self._ask("GET", f"{path}{'&' if '?' in path else '?'}per_page=100"):
            yield from page

    def labels(self) -> set[str]:
        return {one["name"] for one in self._all("/labels")}

    def make_label(self, name: str, colour: str) -> None:
        self._ask("POST", "/labels", {"name": name, "color": colour})

    def milestones(self) -> dict[str, int]:
        return {one["title"]: one["number"] for one in self._all("/milestones?state=all")}

    def make_milestone(self, title: str) -> None:
        self._ask("POST", "/milestones", {"title": title})

    def issues(self) -> list[Issue]:
        return [
            Issue(
                one["number"], one["id"], one["title"], one.get("body") or "",
                {label["name"] for label in one["labels"]}, (one.get("milestone") or {}).get("title", ""),
            )
            for one in self._all("/issues?state=all")
            if "pull_request" not in one
        ]  # fmt: skip

    def make_issue(self, ticket: tickets.Ticket, title: str, body: str, milestone: int) -> None:
        given = {
            "title": title,
            "body": body,
            "labels": list(ticket.labels),
            "milestone": milestone,
        }
        self._ask("POST", "/issues", given)

    def change_issue(
        self, issue: Issue, title: str, body: str, milestone: int, add: set[str], drop: set[str]
    ) -> None:
        given = {"title": title, "body": body, "milestone": milestone}
        self._ask("PATCH", f"/issues/{issue.number}", given)
        if add:
            self._ask("POST", f"/issues/{issue.number}/labels", {"labels": sorted(add)})
        for name in sorted(drop):
            self._ask("DELETE", f"/issues/{issue.number}/labels/{quote(name, safe='')}")

    def blockers(self, issue: Issue) -> set[int]:
        if not self.knows_dependencies:
            return set()
        try:
            found = self._all(f"/issues/{issue.number}/dependencies/blocked_by")
            return {one["number"] for one in found}
        except TrackerError as error:
            if error.status != 404:
                raise
            print(
                "this GitHub lets no issue block another: what depends on what is in their words",
                file=sys.stderr,
            )
            self.knows_dependencies = False
            return set()

    def block(self, issue: Issue, by: Issue) -> None:
        if self.knows_dependencies:
            self._ask(
                "POST", f"/issues/{issue.number}/dependencies/blocked_by", {"issue_id": by.key}
            )


def _by_ticket(issues: Iterable[Issue]) -> dict[str, Issue]:
    """``{ticket's id: its issue}``; TrackerError where one ticket has two."""
    found: dict[str, Issue] = {}
    for issue in sorted(issues, key=lambda one: one.number):
        known = re.match(r"(T\d\d) ", issue.title)
        if known and known[1] in found:
            raise TrackerError(
                f"#{found[known[1]].number} and #{issue.number} both begin with {known[1]}: rename one; nothing was changed"
            )
        if known:
            found[known[1]] = issue
    return found


def bring(tracker: Tracker, listed: list[tickets.Ticket], dry: bool = False) -> int:
    """Make the tracker what the tickets say; how much was, or with ``dry`` would be, changed."""
    changes = 0

    def say(what: str) -> bool:
        nonlocal changes
        changes += 1
        print(f"{'would ' if dry else ''}{what}", flush=True)
        return not dry

    there = _by_ticket(tracker.issues())
    wanted = {label: "builds" for one in listed for label in one.systems}
    wanted |= dict.fromkeys(TEMPLATES, "template")
    wanted |= {label: "owner" for one in listed for label in one.labels if label not in wanted}
    for name in sorted(set(wanted) - tracker.labels()):
        if say(f"make label {name}"):
            tracker.make_label(name, COLOURS[wanted[name]])
    for title in sorted({one.milestone for one in listed} - set(tracker.milestones())):
        if say(f"make milestone {title}"):
            tracker.make_milestone(title)
    milestones = tracker.milestones()
    for one in listed:
        title, body, issue = f"{one.id} {one.title}", tickets.description(one), there.get(one.id)
        if issue is None:
            if say(f"make issue {title}"):
                tracker.make_issue(one, title, body, milestones[one.milestone])
            continue
        add = set(one.labels) - issue.labels
        drop = {name for name in issue.labels if name.startswith("owner: ")} - set(one.labels)
        # A tracker may give lines back with other ends.
        same = [line.rstrip() for line in issue.body.strip().splitlines()] == [
            line.rstrip() for line in body.strip().splitlines()
        ]
        if not same or (issue.title, issue.milestone) != (title, one.milestone) or add or drop:  # noqa: SIM102
            if say(f"change #{issue.number} {title}"):
                tracker.change_issue(issue, title, body, milestones[one.milestone], add, drop)
    if not dry:
        there = _by_ticket(tracker.issues())
    for one in listed:
        issue = there.get(one.id)
        blockers = tracker.blockers(issue) if issue and one.depends else set()
        for other in one.depends:
            by = there.get(other)
            if (not by or by.number not in blockers) and say(
                f"link {one.id} as blocked by {other}"
            ):
                assert issue and by
                tracker.block(issue, by)
    return changes


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="docs.generate.import_tickets",
        description="Bring docs/tickets into a tracker, twice without doubles.",
    )
    parser.add_argument("tracker", choices=["gitlab", "github"])
    parser.add_argument("place", help="URL of the project in GitLab's API, or OWNER/REPOSITORY")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    options = parser.parse_args(arguments)
    tracker: Tracker
    if options.tracker == "gitlab":
        token = os.environ.get("GITLAB_TOKEN", "")
        if not token or not re.fullmatch(r"https?://[^/]+/api/v4/projects/[^/]+/?", options.place):
            parser.error(
                "GITLAB_TOKEN (scope api) and https://GITLAB/api/v4/projects/ID are needed"
            )
        tracker = GitLab(options.place, token)
    else:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.place):
            parser.error("OWNER/REPOSITORY is needed")
        tracker = GitHub(options.place)
    try:
        changes = bring(tracker, tickets.load(), options.dry_run)
    except TrackerError as error:
        print(f"tickets: {error}", file=sys.stderr)
        return 1
    print(f"{changes} changes" + (" to make" if options.dry_run else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
