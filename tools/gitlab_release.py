#!/usr/bin/env -S python3 -EXutf8
"""Make the GitLab release of a tag, its notes on standard input; run by the pipeline.

    tools/release_notes.py v1.2.3 | tools/gitlab_release.py

By GitLab's Releases API with the job's own token, so that no image beside the pipeline's is needed.
A release that exists is left as it is.
"""

import json
import os
import sys
import urllib.error
import urllib.request


def url(store: str, project: str, version: str, name: str) -> str | None:
    """Where a browser finds the artifact (control/artifacts/repository.py); None for a store that it cannot ask."""
    if not store:
        store = f"gitlab+{project}"
    if store.startswith("gitlab+"):
        base = store.removeprefix("gitlab+").rstrip("/")
        return f"{base}/packages/generic/counter/{version}/{name}"
    return f"{store.rstrip('/')}/{name}" if store.startswith(("https://", "http://")) else None


def request(environment: dict[str, str], notes: str) -> urllib.request.Request:
    """The request that makes the release; KeyError for a variable that GitLab has not set."""
    api, project = environment["CI_API_V4_URL"], environment["CI_PROJECT_ID"]
    tag, version = environment["CI_COMMIT_TAG"], environment["VERSION"]
    name = f"counter-{version}.tar.gz"
    where = url(environment.get("ARTIFACT_STORE", ""), f"{api}/projects/{project}", version, name)
    body: dict[str, object] = {"tag_name": tag, "name": tag, "description": notes}
    if where:
        body["assets"] = {"links": [{"name": name, "url": where, "link_type": "package"}]}
    return urllib.request.Request(
        f"{api}/projects/{project}/releases",
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "JOB-TOKEN": environment["CI_JOB_TOKEN"],
        },
    )


def main() -> int:
    try:
        asked = request(dict(os.environ), sys.stdin.read().strip())
        with urllib.request.urlopen(asked, timeout=60) as answer:
            print(f"release: {json.load(answer)['name']} made")
    except KeyError as missing:
        print(f"release: {missing.args[0]} is not set: this runs in GitLab's CI", file=sys.stderr)
        return 2
    except urllib.error.HTTPError as error:
        if error.code == 409:
            print(f"release: {os.environ['CI_COMMIT_TAG']} exists already and is left as it is")
            return 0
        print(f"release: GitLab answered {error.code}: {error.read(500)!r}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"release: {os.environ['CI_API_V4_URL']}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
