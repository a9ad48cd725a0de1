"""A repository on a web server."""

from __future__ import annotations

import base64
import http.client
import netrc
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from ..application import NAME
from ..errors import OperationError, UserError
from ..options import Options
from . import files
from .files import FileExists, NoListing, StoredRelease

# Seconds that a server may be silent.
PATIENCE = 60
# Bytes; an artifact has a few million.
LARGEST = 500_000_000


def _find_login(host: str, options: Options) -> tuple[str, str] | None:
    """User and password for Basic authentication, of the options or the caller's netrc file; None without any."""
    user, password = options.artifact_store_user, options.artifact_store_password
    if bool(user) != bool(password):
        raise UserError("ARTIFACT_STORE_USER and ARTIFACT_STORE_PASSWORD: need each other", 2)
    if user and password:
        return user, password
    path = Path(options.netrc or "~/.netrc").expanduser()
    try:
        known = netrc.netrc(str(path)).hosts
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:
        # Not its words, which quote what it could not read.
        raise UserError(f"{path}: line {error.lineno}: not a netrc file", 2) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {type(error).__name__}", 2) from None
    # Its `default` is for any host at all, and so for none that is to be trusted with a password.
    login = known.get(host)
    return (login[0], login[2] or "") if login else None


class _SameHost(urllib.request.HTTPRedirectHandler):
    """A redirect to another host (an object store, say) must not be told our token."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urllib.parse.urlsplit(newurl).netloc != req.host:
            for name in ("Authorization", "Private-token", "Job-token"):
                new.headers.pop(name, None)
        return new


class Http:
    """A web server that answers GET and takes PUT: nginx with dav_methods, a WebDAV share, …"""

    shared, is_default = True, False
    application = NAME
    # Where who may read and write is said.
    login = "ARTIFACT_STORE_TOKEN, or ARTIFACT_STORE_USER and ARTIFACT_STORE_PASSWORD, or ~/.netrc"

    def __init__(self, url: str, options: Options) -> None:
        self.options = options
        if "@" in urllib.parse.urlsplit(url).netloc:
            raise UserError(f"ARTIFACT_STORE: no password in the URL; use {self.login}", 2)
        self.base, self.where = url.rstrip("/"), url

    def headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        if token := self.options.artifact_store_token:
            return {"Authorization": f"Bearer {token}"}
        host = urllib.parse.urlsplit(self.base).hostname or ""
        if login := _find_login(host, self.options):
            return {"Authorization": f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"}
        return {}

    def url(self, version: str, name: str) -> str:
        return f"{self.base}/{urllib.parse.quote(name)}"

    def ask(
        self, method: str, url: str, content: bytes = b"", extra: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """``(status, body, headers)``; OperationError when there is no answer."""
        headers = {**self.headers(method, url, content), **(extra or {})}
        request = urllib.request.Request(
            url, method=method, data=content if method == "PUT" else None, headers=headers
        )
        opener = urllib.request.build_opener(_SameHost)
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                body = answer.read(LARGEST + 1)
                if len(body) > LARGEST:
                    raise OperationError(f"{url}: more than {LARGEST} bytes; that is no artifact")
                stated = answer.headers.get("Content-Length")
                if stated is not None and len(body) != int(stated):
                    raise OperationError(
                        f"{url}: cut off after {len(body)} of {stated} bytes; try again"
                    )
                return answer.status, body, dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(2000), dict(error.headers)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise OperationError(
                f"the repository does not answer: {method} {url}: {reason}"
            ) from error

    def refuse(self, method: str, url: str, status: int, body: bytes) -> OperationError:
        words = " ".join(body.decode(errors="replace").split())[:300]
        hint = f"; is its token or key set ({self.login}), and may it write?"
        hint = hint if status in (401, 403) else ""
        return OperationError(
            f"the repository answers {status} to {method} {url}{hint} {words}".rstrip()
        )

    def releases(self) -> list[StoredRelease]:
        # Whatever the server's listing looks like (HTML, XML, JSON), the names are in it.
        url = f"{self.base}/"
        status, body, _ = self.ask("GET", url)
        if status in (403, 404, 405):
            raise NoListing(
                f"{self.where} does not list what is stored there ({status} to GET {url})"
            )
        if status != 200:
            raise self.refuse("GET", url, status, body)
        return [
            StoredRelease(version)
            for version in dict.fromkeys(files.listed(self.application).findall(body.decode()))
        ]

    def read(self, version: str, name: str) -> bytes | None:
        url = self.url(version, name)
        status, body, _ = self.ask("GET", url)
        if status == 404:
            return None
        if status != 200:
            raise self.refuse("GET", url, status, body)
        return body

    def add(self, version: str, name: str, content: bytes) -> None:
        # The condition (RFC 9110 section 13.1.2) closes the gap between looking and writing, at a
        # server that knows it.
        if self.read(version, name) is not None:
            raise FileExists(name)
        url = self.url(version, name)
        extra = {"If-None-Match": "*", "Content-Type": "application/octet-stream"}
        status, body, _ = self.ask("PUT", url, content, extra)
        # 409 is also what WebDAV says where the folder is missing (RFC 4918 section 9.7.1).
        if status == 412 or (status == 409 and self.read(version, name) is not None):
            raise FileExists(name)
        if status not in (200, 201, 204):
            raise self.refuse("PUT", url, status, body)
