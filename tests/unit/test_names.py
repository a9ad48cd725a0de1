"""Names that are gone stay gone, but in the changelog: the field's terms stand in their place."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from control.git import GIT

ROOT = Path(__file__).resolve().parents[2]
# Old -> new. The changelog names each old alert once, for whoever looks for it.
ALERTS = {
    "AnswersSlow": "HighLatency",
    "NoServerLeft": "NoHealthyBackends",
    "ProcessorsBusy": "HighCPU",
    "DiskSpaceOut": "DiskFull",
    "CertificateEnds": "CertificateExpiring",
    "CertificateEndsSoon": "CertificateExpiresSoon",
    "ClockOff": "ClockSkew",
    "LinesLost": "LogLinesLost",
    "DenialStorm": "FirewallDenialsHigh",
    "BanStorm": "BansHigh",
    "ApplyOld": "ApplyStale",
    "RulesFail": "RuleEvaluationFailing",
    "RedisPersistenceFails": "RedisPersistenceFailing",
    "ReaderFails": "ReaderFailing",
    "ReaderHangs": "ReaderNotReporting",
    "PluginSilent": "HostMetricsMissing",
    "QueueLong": "RequestQueueHigh",
    "UnitDied": "UnitCrashed",
    "UnitRestarts": "UnitCrashLooping",
    "NotificationsFail": "NotificationsFailing",
    "FilebeatDrops": "FilebeatEventsDropped",
}
PHRASES = (
    # Panels.
    "Half within",
    "99 % within",
    "Time of an answer",
    "Troubles with servers",
    "Last apply well",
    # States.
    "does not start before it has its",
    "files of packages open no wider than needed",
    # Messages.
    "YES=1 says",
    "an apply with a wish",
    "store-away",
    "store-back",
    "is away",
    "was away",
    "are away",
    "were away",
    "own figures",
    "own bounds",
    "NOT WELL",
    "unwell",
    "stranger",
    "strangers",
    "Stranger",
    "figures.json",
)
UNCHECKED = ("CHANGELOG.md", "tests/unit/test_names.py")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """{path below the project: its text} of every file of the project that is one."""
    listed = subprocess.run(
        [*GIT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = {name for name in listed.stdout.split("\0") if name and name not in UNCHECKED}
    return {
        name: (ROOT / name).read_text("utf-8", errors="replace")
        for name in sorted(files)
        if (ROOT / name).is_file()
    }


@pytest.mark.parametrize("old", [*ALERTS, *PHRASES])
def test_an_old_name_is_used_nowhere(texts: dict[str, str], old: str) -> None:
    name = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
    used = [
        f"{path}: {line.strip()[:120]}"
        for path, text in texts.items()
        if old in text
        for line in text.splitlines()
        if name.search(line)
    ]
    assert not used


@pytest.mark.parametrize("old", ALERTS)
def test_a_renamed_alert_has_its_rule_and_its_runbook(texts: dict[str, str], old: str) -> None:
    new = ALERTS[old]
    assert f"docs/runbooks/{old}.md" not in texts
    assert f"docs/runbooks/{new}.md" in texts
    rules = [text for path, text in texts.items() if path.endswith("/alerts.yaml")]
    assert any(f"- alert: {new}\n" in text for text in rules)
