#!/usr/bin/env python3
"""Build the artifact of an application: one reproducible archive with it and all it needs.

    python webapp/build.py [--app FOLDER] --out dist

makes dist/NAME-VERSION.tar.gz and its .sha256, of the counter without --app. Needs Python 3.11 or
later with pip and requirements/control.lock, and git where the sources are in a git repository.
Wheels come from the index that pip is set up for, each checked against the hash in the lock, and
are kept in a cache: with a complete one, the build needs no network. README.md, "The artifact",
says what is inside.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import sys
from pathlib import Path

WEBAPP = Path(__file__).resolve().parent
sys.path[:0] = [str(WEBAPP), str(WEBAPP / "src")]

from builder import app_toml, archive, layout, locks, wheels  # noqa: E402
from builder.errors import BuildError  # noqa: E402
from builder.sources import read_source  # noqa: E402


def build(folder: Path, out: Path, cache: Path) -> Path:
    """Build into `out` unless it is there already; return the path of the archive."""
    application = app_toml.read(folder)
    source = read_source(folder, application)
    root = f"{application['name']}-{source.version}"
    if source.uncommitted:
        more = f" and {len(source.uncommitted) - 3} more" if len(source.uncommitted) > 3 else ""
        names = f"{', '.join(source.uncommitted[:3])}{more}"
        print(f"build: not committed: {names}; commit or ignore it", file=sys.stderr)
    path, checksum = out / f"{root}.tar.gz", out / f"{root}.tar.gz.sha256"
    if path.is_file() and checksum.is_file():
        told = checksum.read_text(encoding="utf-8")
        if told == f"{wheels.sha256(path)}  {path.name}\n":
            print(f"build: {path} is there already")
            return path
    print(f"build: {root} from {source.built_from}", flush=True)
    requirements = locks.read_lock(WEBAPP / "serving.lock")
    if application["packages"]:
        own = locks.read_lock(folder / application["packages"])
        requirements = locks.together(requirements, own, application["packages"])
    targets = layout.targets(application)
    chosen = wheels.collect(requirements, targets, cache, folder / "wheels")
    wheels.check_complete(chosen, requirements, application["packages"] or "serving.lock")
    files = layout.assemble(folder, application, source, chosen)
    content = archive.pack(root, files, source.time)
    out.mkdir(parents=True, exist_ok=True)
    checksum.unlink(missing_ok=True)
    archive.write(path, content)
    digest = hashlib.sha256(content).hexdigest()
    archive.write(checksum, f"{digest}  {path.name}\n".encode())
    print(f"build: {path}, {len(content) / 1e6:.1f} MB, sha256 {digest}")
    return path


def main() -> int:
    """Run the command; return its exit code: 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description="Build the artifact of an application.")
    parser.add_argument(
        "--app", type=Path, default=WEBAPP, help="folder with an app.toml; default: the counter's"
    )
    parser.add_argument("--out", type=Path, default=Path("dist"), help="default: dist")
    parser.add_argument(
        "--cache",
        type=Path,
        default=WEBAPP.parent / ".cache" / "wheels",
        help="folder of downloaded wheels; default: .cache/wheels beside webapp/",
    )
    parser.add_argument("--quiet", action="store_true", help="print the archive's path alone")
    parser.add_argument("--print-version", action="store_true", help="print the version alone")
    parser.add_argument("--print-app", action="store_true", help="print the checked app.json alone")
    options = parser.parse_args()
    # An artifact is for every account, whoever builds it.
    os.umask(0o022)
    folder = options.app.resolve()
    try:
        if options.print_app:
            print(layout.to_json(app_toml.read(folder)).decode(), end="")
        elif options.print_version:
            print(read_source(folder, app_toml.read(folder)).version)
        else:
            with contextlib.redirect_stdout(io.StringIO() if options.quiet else sys.stdout):
                path = build(folder, options.out, options.cache)
            if options.quiet:
                print(path)
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
