"""`make images`."""

from __future__ import annotations

from ..artifacts import build as artifact
from ..artifacts import files
from ..command import make_command
from ..errors import OperationError, UserError
from ..images import build, description, lock
from ..images.lock import Lock
from ..options import Options
from ..paths import ROOT
from ..shell import say
from ..topology import Topology


def run(_: Topology, options: Options) -> int:
    """Build the container images of this checkout, the same byte for byte each time.

    From the packages of containers/trixie.lock and the artifact of this checkout, into dist/images: an OCI layout
    each, and images.json, which lists their digests.
    """
    images = description.load()
    locked = _renew(images, options) if options.renew else lock.read(images.values())
    version = artifact.build_artifact(options)
    build.build(images, locked, ROOT / "dist" / files.archive_name(version), version, options)
    if not options.renew:
        _report_newer(images, locked, options)
    return 0


def _renew(images: dict[str, description.Description], options: Options) -> Lock:
    """Today's packages; written to the lock, and told, where they are other ones."""
    new = lock.resolve(images.values(), options)
    try:
        old = lock.read([])
    except UserError:
        old = Lock(new.suite, new.snapshot, {}, {})
    changes = lock.differences(old, new)
    if not changes and old.images == new.images:
        say(f"containers/{new.suite}.lock has the packages of today")
        return old
    lock.write(new)
    say(f"containers/{new.suite}.lock made anew, {len(changes)} packages changed:")
    for line in changes:
        say(f"  {line}")
    return new


def _report_newer(
    images: dict[str, description.Description], locked: Lock, options: Options
) -> None:
    """Say which packages the suite has in other versions than the lock; builds nothing."""
    try:
        newer = lock.differences(locked, lock.resolve(images.values(), options))
    except OperationError as error:
        say(f"whether there are newer packages is not known: {error}")
        return
    if newer:
        say(
            f"{len(newer)} packages differ from containers/{locked.suite}.lock; {lock.HOW_TO_RENEW} takes these:"
        )
        for line in newer:
            say(f"  {line}")


COMMAND = make_command("images", run, "renew")
