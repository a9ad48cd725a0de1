"""Tickets come into a tracker once, with labels, milestones and dependencies, however often they are brought."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from control.by_path import load_yaml  # noqa: E402
from docs.generate import import_tickets, tickets  # noqa: E402

PUBLISHED = load_yaml(Path(__file__).parent / "published_trackers.yaml")
TOKEN = "not-to-be-shown"
# Stands for `gh`: what it takes of the words of the real one, and whom it asks.
# By hand, for it is started a hundred times and urllib takes as long to read as all the rest.
GH = r"""#!/usr/bin/python3 -IS
import socket, sys
words = sys.argv[1:]
if words[:1] != ["api"]: sys.exit("unknown command")
words, method, pages, data, path = words[1:], "GET", False, b"", None
while words:
    word = words.pop(0)
    if word in ("-X", "--method"): method = words.pop(0)
    elif word == "--paginate": pages = True
    elif word == "--input" and words[:1] == ["-"]: words.pop(0); data = sys.stdin.buffer.read()
    elif word.startswith("-") or path: sys.exit(f"unknown flag or argument: {word}")
    else: path = word
while path:
    head = f"{method} /{path} HTTP/1.0\r\nHost: STANDIN\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int("STANDIN".rpartition(":")[2]))) as sock:
        sock.sendall(head.encode() + data)
        said, _, body = sock.makefile("rb").read().decode().partition("\r\n\r\n")
    status, *lines = said.split("\r\n")
    _, code, reason = status.split(" ", 2)
    if int(code) >= 400:
        print(f"gh: {reason} (HTTP {code})", file=sys.stderr); sys.exit(1)
    sys.stdout.write(body)
    headers = dict(line.split(": ", 1) for line in lines)
    path = headers.get("x-next", "").partition("STANDIN/")[2] if pages else None
"""


class StandIn(http.server.BaseHTTPRequestHandler):
    """What both trackers share; `labels`, `milestones`, `issues`, `links` are what they keep."""

    kind: str
    base: str
    state: dict[str, Any]
    # Of a page; less than there are tickets.
    page = 4

    def answer(self, status: int, body: Any, **headers: str) -> None:
        raw = json.dumps(body).encode() if status != 204 else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def handle_one(self) -> None:
        where = urlsplit(self.path)
        path = where.path.removeprefix(self.base)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.state["asked"].append((self.command, path, body))
        if self.kind == "gitlab" and self.headers.get("PRIVATE-TOKEN") != TOKEN:
            return self.answer(401, {"message": "401 Unauthorized"})
        if self.command in ("POST", "PUT", "PATCH"):
            shape = re.sub(r"/issues/\d+", "/issues/N", path)
            rule = PUBLISHED[self.kind].get(f"{self.command} {shape}")
            if rule is None:
                return self.answer(404, {"message": f"404 {self.command} {shape}"})
            try:
                jsonschema.validate(body, {"type": "object", "additionalProperties": False, **rule})
            except jsonschema.ValidationError as error:
                return self.answer(
                    400 if self.kind == "gitlab" else 422, {"message": error.message}
                )
        if fault := self.state["faults"].pop(f"{self.command} {path}", None):
            return self.answer(fault, {"message": "as the test wants"})
        return self.serve(path, body, parse_qs(where.query))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

    def listed(self, found: list[Any], query: dict[str, list[str]]) -> None:
        page = int(query.get("page", ["1"])[0])
        part, more = found[(page - 1) * self.page : page * self.page], len(found) > page * self.page
        following = (
            f"http://{self.headers['Host']}{urlsplit(self.path).path}?state=all&page={page + 1}"
        )
        self.answer(
            200, part, x_next_page=str(page + 1) if more else "", x_next=following if more else ""
        )

    def serve(self, path: str, body: Any, query: dict[str, list[str]]) -> None:
        raise NotImplementedError

    def make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        number = len(self.state[kind]) + 1
        # As real ones: the number in the address is not the one that links want.
        one = {**body, "id": 1000 + number, "iid": number, "number": number}
        self.state[kind].append(one)
        return one

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class GitLab(StandIn):
    kind, base = "gitlab", "/api/v4/projects/7"

    def shown(self, one: dict[str, Any]) -> dict[str, Any]:
        milestone = next(
            (m for m in self.state["milestones"] if m["id"] == one.get("milestone_id")), None
        )
        return {**one, "milestone": milestone}

    def serve(self, path: str, body: Any, query: dict[str, list[str]]) -> None:
        kept = self.state
        if (self.command, path) == ("GET", ""):
            return self.answer(200, {"id": 7})
        if self.command == "GET" and path in ("/labels", "/milestones"):
            return self.listed(kept[path[1:]], query)
        if (self.command, path) == ("GET", "/issues"):
            return self.listed([self.shown(one) for one in kept["issues"]], query)
        if self.command == "POST" and path in ("/labels", "/milestones"):
            return self.answer(201, self.make(path[1:], body))
        if (self.command, path) == ("POST", "/issues"):
            assert set(body["labels"].split(",")) <= {one["name"] for one in kept["labels"]}
            return self.answer(
                201, self.make("issues", {**body, "labels": body["labels"].split(",")})
            )
        number = int(path.split("/")[2])
        issue = kept["issues"][number - 1]
        if self.command == "PUT":
            labels = set(issue["labels"]) | set(filter(None, body.pop("add_labels", "").split(",")))
            issue["labels"] = sorted(labels - set(body.pop("remove_labels", "").split(",")))
            issue.update(body)
            return self.answer(200, self.shown(issue))
        if path.endswith("/time_estimate"):
            issue["estimate"] = body["duration"]
            return self.answer(201, {})
        if self.command == "GET":
            links = [
                {"iid": other, "link_type": kind}
                for one, other, kind in kept["links"]
                if one == number
            ]
            return self.listed(links, query)
        if kept["free"] and body["link_type"] != "relates_to":
            return self.answer(403, {"message": "Blocked issues not available for current license"})
        link = (number, int(body["target_issue_iid"]), body["link_type"])
        if link in kept["links"]:
            return self.answer(409, {"message": "Issue(s) already assigned"})
        kept["links"].append(link)
        return self.answer(201, {})


class GitHub(StandIn):
    kind, base = "github", "/repos/o/r"

    def shown(self, one: dict[str, Any]) -> dict[str, Any]:
        milestone = next(
            (m for m in self.state["milestones"] if m["number"] == one.get("milestone")), None
        )
        return {**one, "milestone": milestone, "labels": [{"name": name} for name in one["labels"]]}

    def serve(self, path: str, body: Any, query: dict[str, list[str]]) -> None:
        kept = self.state
        if self.command == "GET" and path in ("/labels", "/milestones"):
            return self.listed(kept[path[1:]], query)
        if (self.command, path) == ("GET", "/issues"):
            pull = {
                "number": 999,
                "id": 1,
                "title": "T01 a pull request",
                "labels": [],
                "pull_request": {},
            }
            return self.listed([pull, *(self.shown(one) for one in kept["issues"])], query)
        if self.command == "POST" and path in ("/labels", "/milestones", "/issues"):
            return self.answer(201, self.make(path[1:], body))
        number = int(path.split("/")[2])
        issue = kept["issues"][number - 1]
        if self.command == "PATCH":
            issue.update(body)
            return self.answer(200, self.shown(issue))
        if path.endswith("/labels"):
            issue["labels"] += body["labels"]
            return self.answer(200, [])
        if self.command == "DELETE":
            issue["labels"].remove(unquote(path.rpartition("/")[2]))
            return self.answer(200, [])
        if kept["free"]:
            return self.answer(404, {"message": "Not Found"})
        if self.command == "GET":
            return self.listed(
                [{"number": other} for one, other, _ in kept["links"] if one == number], query
            )
        other = next(one["number"] for one in kept["issues"] if one["id"] == body["issue_id"])
        if (number, other, "") in kept["links"]:
            return self.answer(422, {"message": "already"})
        kept["links"].append((number, other, ""))
        return self.answer(201, {})


class Place:
    """A tracker, and what is kept there."""

    def __init__(self, kind: type[StandIn], folder: Path) -> None:
        self.state: dict[str, Any] = {
            name: [] for name in ("labels", "milestones", "issues", "links", "asked")
        } | {"free": False, "faults": {}}
        own = type("Own", (kind,), {"state": self.state})
        self.kind = kind.kind
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), own)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        program = folder / "gh"
        program.write_text(GH.replace("STANDIN", self.address.removeprefix("http://")))
        program.chmod(0o755)

    def bring(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command in this process, as it would end in one of its own."""
        where = f"{self.address}/api/v4/projects/7" if self.kind == "gitlab" else "o/r"
        self.state["asked"].clear()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = import_tickets.main([self.kind, where, *words])
            except SystemExit as ended:
                code = int(ended.code or 0)
        return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())

    def written(self) -> list[tuple[str, str, Any]]:
        return [one for one in self.state["asked"] if one[0] != "GET"]


@pytest.fixture(params=[GitLab, GitHub], ids=["gitlab", "github"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    # The first ones: each question to GitHub is a program of its own.
    some = tickets.load()[:6]
    known = {one.id for one in some}
    closed = [replace(one, depends=tuple(set(one.depends) & known)) for one in some]
    monkeypatch.setattr(tickets, "load", lambda: closed)
    made = Place(request.param, tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("GITLAB_TOKEN", TOKEN)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_tickets_are_brought_once_with_all_that_belongs_to_them(place: Place) -> None:
    listed = tickets.load()
    dry = place.bring("--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would make issue T01 " in dry.stdout and place.written() == []
    done = place.bring()
    assert (done.returncode, done.stderr) == (0, "")
    assert dry.stdout.splitlines()[-1] == done.stdout.splitlines()[-1] + " to make"
    assert TOKEN not in done.stdout
    kept = place.state
    assert [one["title"] for one in kept["issues"]] == [f"{one.id} {one.title}" for one in listed]
    assert {one["title"] for one in kept["milestones"]} == {one.milestone for one in listed}
    assert {"owner: operator", "dns", "incident", "change"} <= {
        one["name"] for one in kept["labels"]
    }
    numbers = {one.id: number for number, one in enumerate(listed, 1)}
    for one in listed:
        issue = kept["issues"][numbers[one.id] - 1]
        assert set(issue["labels"]) == set(one.labels)
        body = issue.get("description") or issue["body"]
        assert "## Acceptance test" in body and "## Estimate" in body
        # No quick action, no link that leads nowhere from an issue.
        assert not re.search(r"(?m)^/", body) and not re.search(r"\]\((?!https?:)[^)]*\)", body)
        linked = {other for who, other, _ in kept["links"] if who == numbers[one.id]}
        assert linked == {numbers[other] for other in one.depends}, one.id
    again = place.bring()
    assert (again.returncode, again.stdout) == (0, "0 changes\n")
    assert place.written() == []


def test_what_people_changed_is_theirs_and_what_the_files_say_is_brought_again(
    place: Place,
) -> None:
    assert place.bring().returncode == 0
    issue = place.state["issues"][4]
    text = "description" if "description" in issue else "body"
    right = issue[text]
    issue["labels"] = [
        "urgent",
        "owner: finance",
        *[one for one in issue["labels"] if one[:6] != "owner:"],
    ]
    issue["state"] = "closed"
    issue[text] = "something else"
    done = place.bring()
    assert done.stdout.splitlines() == [f"change #5 {issue['title']}", "1 changes"], done.stderr
    assert issue[text] == right and issue["state"] == "closed"
    assert {"urgent", "owner: operator"} <= set(issue["labels"])
    assert "owner: finance" not in issue["labels"]
    # Other ends of lines, as a tracker may give them back, are no difference.
    issue[text] = right.replace("\n", "\r\n") + "\n"
    assert place.bring().stdout == "0 changes\n"


def test_an_import_that_broke_off_goes_on(place: Place) -> None:
    place.state["faults"]["POST /issues"] = 500
    broken = place.bring()
    assert broken.returncode == 1 and len(broken.stderr.splitlines()) == 1
    assert broken.stderr.startswith("tickets: POST /issues: ")
    assert place.bring().returncode == 0
    titles = [one["title"] for one in place.state["issues"]]
    assert len(titles) == len(set(titles)) == len(tickets.load())
    assert len(place.state["labels"]) == len({one["name"] for one in place.state["labels"]})


def test_where_no_issue_blocks_another_the_words_say_so(place: Place) -> None:
    """GitLab's free tier links them as related; a GitHub without dependencies does not link them."""
    place.state["free"] = True
    done = place.bring()
    assert done.returncode == 0 and "lets no issue block another" in done.stderr
    kinds = {kind for _, _, kind in place.state["links"]}
    assert kinds == ({"relates_to"} if place.kind == "gitlab" else set())
    if place.kind == "gitlab":
        assert place.bring().stdout == "0 changes\n"


def test_two_issues_of_one_ticket_are_named_before_anything_changes(place: Place) -> None:
    assert place.bring().returncode == 0
    place.state["issues"].append(
        {**place.state["issues"][0], "number": 77, "iid": 77, "labels": []}
    )
    done = place.bring()
    assert done.returncode == 1
    assert (
        done.stderr == "tickets: #1 and #77 both begin with T01: rename one; nothing was changed\n"
    )
    assert place.written() == []


def test_what_is_missing_is_one_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.kind == "gitlab":
        monkeypatch.setenv("GITLAB_TOKEN", "wrong")
        refused = place.bring()
        assert refused.returncode == 1 and "401" in refused.stderr and "wrong" not in refused.stderr
        monkeypatch.delenv("GITLAB_TOKEN")
        refused = place.bring()
        assert refused.returncode == 2 and "GITLAB_TOKEN" in refused.stderr
    else:
        monkeypatch.setenv("PATH", "/nonexistent")
        refused = place.bring()
        assert refused.stderr == "tickets: gh is not on the PATH: https://cli.github.com\n"


def test_templates_of_issues_have_the_parts_of_a_ticket_in_both_trackers() -> None:
    for name in ("Ticket", "Incident", "Change"):
        text = (ROOT / ".gitlab" / "issue_templates" / f"{name}.md").read_text("utf-8")
        headings = re.findall(r"(?m)^## (.*)$", text)
        form = yaml.safe_load(
            (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name.lower()}.yml").read_text("utf-8")
        )
        assert [one["attributes"]["label"] for one in form["body"]] == headings
        (label,) = re.findall(r'/label ~"?([^"\n]+)"?', text)
        assert form["labels"] == [label]
    ticket = (ROOT / ".gitlab" / "issue_templates" / "Ticket.md").read_text("utf-8")
    assert re.findall(r"(?m)^## (.*)$", ticket) == [*tickets.PARTS, "Estimate"]
