"""`make publish`."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import application
from ..application import NAME, Application
from ..artifacts import build, files, repository, signing
from ..artifacts.files import Repository
from ..command import make_command
from ..images import build as images_build
from ..images import store
from ..options import Options
from ..paths import ROOT
from ..topology import Topology


def run(_: Topology, options: Options) -> int:
    """Build the artifact of an application and store it; never replaces one.

    In the repository that ARTIFACT_STORE names, signed with RELEASE_KEY or a key of this checkout's own. The
    images that `make images` built of it too: in IMAGE_STORE, or beside it where that is a folder.
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
        _report_signature(stored, key, app, is_new=key == signing.OWN_KEY and not had_own_key)
    if app.is_counter:
        publish_images(stored, version, digest, key, options)
    print(version)
    return 0


def publish_images(
    stored: Repository, version: str, artifact: str, key: Path | None, options: Options
) -> None:
    """The images of this artifact, where they have been built; says so where not."""
    listed = images_build.read_list()
    built = listed.get("images", {}).get(NAME, {}).get("artifact")
    if built != artifact:
        why = "are of another build" if built else "are not built"
        print(f"without container images, which {why}: make images", file=sys.stderr)
        return
    images = store.open_store(stored, options)
    if images is None:
        print(
            "without container images: IMAGE_STORE=docker://host/path says where they go",
            file=sys.stderr,
        )
        return
    print(f"container images, in {images.where}:")
    name = store.publish(listed, version, stored, images, key)
    print(f"  listed by {name}, in {stored.where}{', signed' if key else ''}")


def _report_signature(stored: Repository, key: Path | None, app: Application, is_new: bool) -> None:
    """Who signed it, and whether machines ask for that; one line."""
    if not key:
        print(
            f"not signed: whoever may write to {stored.where} decides what runs; RELEASE_KEY=file signs it"
            f" ({app.readme})",
            file=sys.stderr,
        )
        return
    public = signing.read_public_key(key)
    signed = f"signed with {key}" + (", made now: keep a copy" if is_new else "")
    for path in sorted((ROOT / "pillar").rglob("*.sls")):
        if public.split()[1] in path.read_text(encoding="utf-8"):
            print(f"{signed}; asked for by {path.relative_to(ROOT)}")
            return
    settings = app.setting(f"{{release: {{signers: [{public}]}}}}")
    print(
        f"{signed}; machines refuse all that it has not signed with this in pillar/settings.sls: {settings}"
    )


COMMAND = make_command("publish", run, "app")
