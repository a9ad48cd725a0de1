"""Static files, served by the runtime: `[static]` of app.toml."""

from __future__ import annotations

import importlib.util
import mimetypes
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from waitress.buffers import ReadOnlyFileBasedBuffer

from serving.application import ApplicationError, StartResponse

# A name with a hash of the content in it never changes its content: `shop.3f2a91bc.css`.
IMMUTABLE = re.compile(r"[.-][0-9a-f]{8,64}\.[A-Za-z0-9.]+$")
FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"


class Static:
    """Finds the file of a path; a path below none of its prefixes is the application's."""

    def __init__(self, folders: Mapping[str, str], files: Path) -> None:
        # The longest prefix first: it is the most particular.
        self._folders = [
            (prefix, _folder(place, files))
            for prefix, place in sorted(folders.items(), key=lambda each: -len(each[0]))
        ]

    def find(self, path: str) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]] | None:
        """What answers for the path, as the client wrote it; None if that is the application."""
        for prefix, folder in self._folders:
            if path.startswith(prefix):
                below = path.removeprefix(prefix)
                return lambda environ, start: _serve(folder, below, environ, start)
        return None


def _folder(place: str, files: Path) -> Path:
    package, colon, below = place.partition(":")
    if not colon:
        folder = files / place
    else:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ApplicationError(f"app.toml: static: there is no package {package}")
        folder = Path(spec.submodule_search_locations[0], below)
    if not folder.is_dir():
        raise ApplicationError(f"app.toml: static: there is no folder {folder}")
    return folder.resolve()


def _serve(
    folder: Path, below: str, environ: dict[str, Any], start: StartResponse
) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return _say(start, "405 Method Not Allowed", [("Allow", "GET, HEAD")])
    name = unquote_to_bytes(below).decode("utf-8", "replace")
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        return _say(start, "404 Not Found")
    # realpath: a link that leads out of the folder is not followed.
    path = os.path.realpath(folder.joinpath(*parts))
    try:
        if not path.startswith(f"{folder}{os.sep}"):
            raise FileNotFoundError
        file = open(path, "rb")  # noqa: SIM115 - closed by the server when it is sent
    except (OSError, ValueError):
        return _say(start, "404 Not Found")
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode):
        file.close()
        return _say(start, "404 Not Found")
    kind, encoding = mimetypes.guess_type(parts[-1])
    headers = [
        # A browser must not guess that a text is a script.
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", FOR_EVER if IMMUTABLE.search(parts[-1]) else ASK_AGAIN),
        ("Last-Modified", formatdate(about.st_mtime, usegmt=True)),
        ("ETag", f'"{about.st_mtime_ns:x}-{about.st_size:x}"'),
    ]
    if _is_known(environ, headers[3][1], about.st_mtime):
        file.close()
        start("304 Not Modified", headers)
        return []
    if kind is None or encoding is not None:
        kind = "application/octet-stream"
    elif kind.startswith("text/") or kind in ("application/javascript", "application/json"):
        kind = f"{kind}; charset=utf-8"
    headers += [("Content-Type", kind), ("Content-Length", str(about.st_size))]
    start("200 OK", headers)
    if environ["REQUEST_METHOD"] == "HEAD":
        file.close()
        return []
    if about.st_size <= 65536:
        with file:
            return [file.read(about.st_size)]
    return ReadOnlyFileBasedBuffer(file, 65536)


def _is_known(environ: dict[str, Any], tag: str, changed: float) -> bool:
    """Does the client have this content already (RFC 9110, 13.1)?"""
    if known := environ.get("HTTP_IF_NONE_MATCH"):
        return known.strip() == "*" or tag in (
            one.strip().removeprefix("W/") for one in known.split(",")
        )
    if since := environ.get("HTTP_IF_MODIFIED_SINCE"):
        try:
            return int(changed) <= parsedate_to_datetime(since).timestamp()
        except (ValueError, OverflowError):
            return False
    return False


def _say(
    start: StartResponse, status: str, more: list[tuple[str, str]] | None = None
) -> Iterable[bytes]:
    body = f"{status[4:]}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start(status, [*headers, ("Cache-Control", "no-store"), *(more or [])])
    return [body]
