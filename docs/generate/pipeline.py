""".gitlab-ci.yml as data: which jobs run on which occasion, by their own rules."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import yaml

from . import facts

# What GitLab sets on each occasion; both topologies are there, as T07 and T17 set them.
_ALWAYS = {"CI_DEFAULT_BRANCH": "main", "STAGING_TOPOLOGY": "x", "PRODUCTION_TOPOLOGY": "x"}
OCCASIONS: dict[str, dict[str, str]] = {
    "merge request": {"CI_PIPELINE_SOURCE": "merge_request_event"},
    "main": {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"},
    "tag": {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1"},
    "schedule": {"CI_PIPELINE_SOURCE": "schedule", "CI_COMMIT_BRANCH": "main"},
}


@dataclass(frozen=True)
class Job:
    """A job on one occasion. ``by_hand``: a person presses it; ``by_change``: only where files of it have changed;
    ``environment``: where it deploys to, or nothing."""

    name: str
    stage: str
    commands: tuple[str, ...]
    environment: str
    by_hand: bool
    by_change: bool


class _Loader(yaml.SafeLoader):
    """Knows GitLab's `!reference`."""


_Loader.add_constructor("!reference", lambda loader, node: None)


@functools.cache
def _read() -> dict[str, Any]:
    path = facts.ROOT / ".gitlab-ci.yml"
    return dict(yaml.load(path.read_text(encoding="utf-8"), _Loader))


def stages() -> list[str]:
    return [str(one) for one in _read()["stages"]]


def _whole(name: str) -> dict[str, Any]:
    """A job with what it extends laid under it."""
    job = _read()[name]
    bases = job.get("extends", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged |= _whole(base)
    return {**merged, **job}


def holds(condition: str, variables: dict[str, str]) -> bool:
    """
    Whether a rule's `if:` holds, of those that are written here: `$NAME`, `$NAME == "text"`, `$NAME == $OTHER`, `!=`,
    joined by `&&` and `||`. ValueError for any other.
    """

    def value(word: str) -> str:
        return variables.get(word[1:], "") if word[0] == "$" else word[1:-1]

    def one(term: str) -> bool:
        found = re.fullmatch(r"(\$\w+)(?: (==|!=) (\$\w+|\"[^\"]*\"))?", term.strip())
        if not found:
            raise ValueError(f".gitlab-ci.yml: pipeline.py cannot read the condition {term!r}")
        left, sign, right = found.groups()
        if sign is None:
            return bool(value(left))
        return (value(left) == value(right)) == (sign == "==")

    return any(all(map(one, part.split("&&"))) for part in condition.split("||"))


def jobs(occasion: str) -> list[Job]:
    """What runs then, in the order of the file; a rule of changed files counts as met."""
    variables = _ALWAYS | OCCASIONS[occasion]
    found = []
    for name, given in _read().items():
        if name.startswith(".") or not isinstance(given, dict) or "script" not in _whole(name):
            continue
        job = _whole(name)
        for rule in job.get("rules", [{}]):
            if "if" in rule and not holds(rule["if"], variables):
                continue
            if rule.get("when") != "never":
                environment = job.get("environment") or {}
                found.append(
                    Job(
                        name,
                        job["stage"],
                        tuple(str(line) for line in job["script"]),
                        str(environment.get("name", "")),
                        rule.get("when") == "manual",
                        "changes" in rule,
                    )
                )
            break
    return found
