"""`make publish`."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import application
from ..application import FORMULA
from ..artifacts import build, files, repository, signing
from ..artifacts.files import Repository
from ..command import make_command
from ..options import Options
from ..paths import ROOT
from ..topology import Topology


def run(_: Topology, options: Options) -> int:
    """Build the artifact of an application and store it; never replaces one.

    In the repository that ARTIFACT_STORE names, signed with RELEASE_KEY or a key of this checkout's own.
    """
    # It needs no place to run yet.
    app = application.find(options)
    stored = repository.open_repository(options, app.name)
    version = build.build_artifact(options, app)
    path = ROOT / "dist" / files.archive_name(version, app.name)
    had_own_key = signing.OWN_KEY.exists()
    key = signing.find_key(options, make=True)
    is_added, digest = repository.publish(stored, path, key)
    what = "stored" if is_added else "stored already, the same"
    print(f"{what}: {path.name}, sha256 {digest}, in {stored.where}")
    signature = stored.read(version, f"{path.name}.sig")
    if key and not signing.is_signed(path, signature, key, app.name):
        print(f"its signature there is not by {key}, and stays: one by another key, or none of it")
    else:
        _report_signature(stored, key, is_new=key == signing.OWN_KEY and not had_own_key)
    print(version)
    return 0


def _report_signature(stored: Repository, key: Path | None, is_new: bool) -> None:
    """Who signed it, and whether machines ask for that; one line."""
    if not key:
        print(
            f"not signed: whoever may write to {stored.where} decides what runs; RELEASE_KEY=file signs it"
            f" (salt/{FORMULA}/README.md)",
            file=sys.stderr,
        )
        return
    public = signing.read_public_key(key)
    signed = f"signed with {key}" + (", made now: keep a copy" if is_new else "")
    for path in sorted((ROOT / "pillar").rglob("*.sls")):
        if public.split()[1] in path.read_text(encoding="utf-8"):
            print(f"{signed}; asked for by {path.relative_to(ROOT)}")
            return
    settings = f"{FORMULA}: {{release: {{signers: [{public}]}}}}"
    print(
        f"{signed}; machines refuse all that it has not signed with this in pillar/settings.sls: {settings}"
    )


COMMAND = make_command("publish", run, "app")
