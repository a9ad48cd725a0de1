"""The pipeline's release of a tag, asked of a stand-in for GitLab's API on loopback."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class StandIn(http.server.BaseHTTPRequestHandler):
    """POST /projects/ID/releases as GitLab answers it; remembers what was asked."""

    asked: list[tuple[str, dict[str, str], Any]]
    answer = 201

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        said = json.dumps({"name": body["name"], "message": "Release already exists"}).encode()
        self.send_response(self.answer)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def gitlab() -> Iterator[tuple[type[StandIn], dict[str, str]]]:
    kind = type("One", (StandIn,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield (
            kind,
            {
                "CI_API_V4_URL": f"http://127.0.0.1:{server.server_port}/api/v4",
                "CI_PROJECT_ID": "7",
                "CI_COMMIT_TAG": "v1.2.3",
                "CI_JOB_TOKEN": "not-to-be-shown",
                "VERSION": "1.2.3-gabc",
            },
        )
    finally:
        server.shutdown()
        server.server_close()


def release(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # Nothing of a proxy: the stand-in is on loopback.
    kept = {"PATH": os.environ["PATH"], "no_proxy": "*"}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gitlab_release.py")],
        input="What is new.\n",
        capture_output=True,
        text=True,
        env={**kept, **environment},
        timeout=300,
        check=False,
    )


def test_a_tag_becomes_a_release_with_its_notes_and_a_link_to_the_stored_file(gitlab: Any) -> None:
    server, environment = gitlab
    done = release(environment)
    assert done.returncode == 0, done.stderr
    ((path, headers, body),) = server.asked
    assert path == "/api/v4/projects/7/releases"
    assert headers["job-token"] == "not-to-be-shown"
    assert (body["tag_name"], body["description"]) == ("v1.2.3", "What is new.")
    (link,) = body["assets"]["links"]
    assert link["url"].endswith("/packages/generic/counter/1.2.3-gabc/counter-1.2.3-gabc.tar.gz")
    assert "not-to-be-shown" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("store", "link"),
    [
        (
            "https://files.example/releases/",
            "https://files.example/releases/counter-1.2.3-gabc.tar.gz",
        ),
        ("s3://bucket/prefix", None),
    ],
)
def test_the_link_leads_to_the_store_that_is_used(
    gitlab: Any, store: str, link: str | None
) -> None:
    server, environment = gitlab
    done = release({**environment, "ARTIFACT_STORE": store})
    assert done.returncode == 0, done.stderr
    ((_, _, body),) = server.asked
    assert [one["url"] for one in body.get("assets", {}).get("links", [])] == [link] * bool(link)


@pytest.mark.parametrize(
    ("answer", "code", "said"), [(409, 0, "exists already"), (403, 1, "GitLab answered 403")]
)
def test_what_gitlab_says_decides_the_exit_code(
    gitlab: Any, answer: int, code: int, said: str
) -> None:
    server, environment = gitlab
    server.answer = answer
    done = release(environment)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_outside_of_gitlab_it_says_what_is_missing(gitlab: Any) -> None:
    _, environment = gitlab
    del environment["CI_JOB_TOKEN"]
    done = release(environment)
    assert done.returncode == 2
    assert "CI_JOB_TOKEN is not set" in done.stderr
