"""
The store of artifacts: where `make publish` puts them and `make deploy` takes them from.

ARTIFACT_STORE says where; the forms are in :data:`FORMS`. One release is two or three files,
``counter-VERSION.tar.gz``, its ``.sha256`` and, where there is a key to sign with, its ``.sig``. Who may write
there decides what runs, unless machines ask for signatures (counter:release:signers). The hash comes last
and makes the release exist; nothing that exists is ever replaced.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import netrc
import os
import re
import subprocess
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import Refused
from .topology import ROOT

NAME = "counter"
FORMS = """\
/a/folder                                           a directory; the default is .store of this checkout
https://host/path                                   GET and PUT, such as nginx with dav_methods; ARTIFACT_STORE_TOKEN is
                                                    sent as a bearer; or Basic: ARTIFACT_STORE_USER and
                                                    ARTIFACT_STORE_PASSWORD, or the host's entry in ~/.netrc
s3://bucket/prefix                                  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL
gitlab+https://host/api/v4/projects/ID              GitLab's generic packages, where its pipeline publishes; ID: the
                                                    project's number; GITLAB_TOKEN (read_api), in a job CI_JOB_TOKEN"""
# Seconds that a server may be silent.
PATIENCE = 60
# Bytes; an artifact has a few million.
LARGEST = 500_000_000
# What a version may be. The same wherever one is made or taken: webapp/build.py,
# salt/_modules/artifact.py, salt/counter/schema.yaml (a test compares them).
VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_VERSION = re.compile(VERSION)
_LISTED = re.compile(rf"\b{NAME}-({VERSION}?)\.tar\.gz\.sha256\b")


class Exists(Exception):
    """There is a file of that name, and it stays."""


class NoListing(Refused):
    """A store that gives what one asks for by name, and does not say what there is."""


@dataclass(frozen=True)
class Stored:
    """One stored release. ``at`` is when, in ISO 8601, where the store tells."""

    version: str
    at: str = ""


class Store(Protocol):
    """Files by their name; ``shared`` when others deploy from it too."""

    where: str
    shared: bool

    def releases(self) -> list[Stored]:
        """All of them, oldest first where the store tells the time; NoListing where it does not say."""

    def read(self, version: str, name: str) -> bytes | None:
        """Content of a file of a release; None without one."""

    def add(self, version: str, name: str, content: bytes) -> None:
        """Put a file there, whole; Exists when there is one."""


# --- a directory ----------------------------------------------------------------------------------


class Folder:
    """A directory on this computer, or one that is mounted here."""

    shared = False

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    def releases(self) -> list[Stored]:
        found = []
        for path in self.path.glob(f"{NAME}-*.tar.gz.sha256"):
            when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
            version = path.name.removeprefix(f"{NAME}-").removesuffix(".tar.gz.sha256")
            # Whatever else lies there: what no deploy takes is not offered.
            if _VERSION.fullmatch(version):
                found.append(Stored(version, when.strftime("%Y-%m-%dT%H:%M:%SZ")))
        return sorted(found, key=lambda one: one.at)

    def read(self, version: str, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def add(self, version: str, name: str, content: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path, prefix=".new-") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            try:
                # Unlike a rename, a link never replaces.
                os.link(file.name, self.path / name)
            except FileExistsError:
                raise Exists(str(self.path / name)) from None


def _user_and_password(host: str) -> tuple[str, str] | None:
    """For Basic authentication, of the environment or the caller's netrc file; None without any."""
    user, password = (os.environ.get(f"ARTIFACT_STORE_{one}") for one in ("USER", "PASSWORD"))
    if bool(user) != bool(password):
        raise Refused("ARTIFACT_STORE_USER and ARTIFACT_STORE_PASSWORD: need each other", 2)
    if user and password:
        return user, password
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        known = netrc.netrc(str(path)).hosts
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:
        # Not its words, which quote what it could not read.
        raise Refused(f"{path}: line {error.lineno}: not a netrc file", 2) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: cannot be read: {type(error).__name__}", 2) from None
    # Its `default` is for any host at all, and so for none that is to be trusted with a password.
    login = known.get(host)
    return (login[0], login[2] or "") if login else None


# --- over HTTP ------------------------------------------------------------------------------------


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

    shared = True
    # Where who may read and write is said.
    login = "ARTIFACT_STORE_TOKEN, or ARTIFACT_STORE_USER and ARTIFACT_STORE_PASSWORD, or ~/.netrc"

    def __init__(self, url: str) -> None:
        if "@" in urllib.parse.urlsplit(url).netloc:
            raise Refused(f"ARTIFACT_STORE: no password in the URL; use {self.login}", 2)
        self.base, self.where = url.rstrip("/"), url

    def headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        if token := os.environ.get("ARTIFACT_STORE_TOKEN"):
            return {"Authorization": f"Bearer {token}"}
        if both := _user_and_password(urllib.parse.urlsplit(self.base).hostname or ""):
            return {"Authorization": f"Basic {base64.b64encode(':'.join(both).encode()).decode()}"}
        return {}

    def url(self, version: str, name: str) -> str:
        return f"{self.base}/{urllib.parse.quote(name)}"

    def ask(
        self, method: str, url: str, content: bytes = b"", extra: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """``(status, body, headers)``; Refused when there is no answer."""
        headers = {**self.headers(method, url, content), **(extra or {})}
        request = urllib.request.Request(
            url, method=method, data=content if method == "PUT" else None, headers=headers
        )
        opener = urllib.request.build_opener(_SameHost)
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                body = answer.read(LARGEST + 1)
                if len(body) > LARGEST:
                    raise Refused(f"{url}: more than {LARGEST} bytes; that is no artifact")
                told = answer.headers.get("Content-Length")
                if told is not None and len(body) != int(told):
                    raise Refused(f"{url}: cut off after {len(body)} of {told} bytes; try again")
                return answer.status, body, dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(2000), dict(error.headers)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise Refused(f"the store does not answer: {method} {url}: {reason}") from error

    def refuse(self, method: str, url: str, status: int, body: bytes) -> Refused:
        said = " ".join(body.decode(errors="replace").split())[:300]
        hint = f"; is its token or key set ({self.login}), and may it write?"
        hint = hint if status in (401, 403) else ""
        return Refused(f"the store answers {status} to {method} {url}{hint} {said}".rstrip())

    def releases(self) -> list[Stored]:
        # Whatever the server's listing looks like (HTML, XML, JSON), the names are in it.
        url = f"{self.base}/"
        status, body, _ = self.ask("GET", url)
        if status in (403, 404, 405):
            raise NoListing(
                f"{self.where} does not list what is stored there ({status} to GET {url})"
            )
        if status != 200:
            raise self.refuse("GET", url, status, body)
        return [Stored(one) for one in dict.fromkeys(_LISTED.findall(body.decode()))]

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
            raise Exists(name)
        url = self.url(version, name)
        extra = {"If-None-Match": "*", "Content-Type": "application/octet-stream"}
        status, body, _ = self.ask("PUT", url, content, extra)
        # 409 is also what WebDAV says where the folder is missing (RFC 4918 section 9.7.1).
        if status == 412 or (status == 409 and self.read(version, name) is not None):
            raise Exists(name)
        if status not in (200, 201, 204):
            raise self.refuse("PUT", url, status, body)


class S3(Http):
    """Any store that speaks S3, by path (ENDPOINT/bucket/key) and signature version 4."""

    login = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self.region = region or "us-east-1"
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or f"https://s3.{self.region}.amazonaws.com"
        )
        self.prefix = parts.path.strip("/")
        self.bucket = f"{endpoint.rstrip('/')}/{parts.netloc}"
        super().__init__(f"{self.bucket}/{self.prefix}")
        self.where = url
        self.key = os.environ.get("AWS_ACCESS_KEY_ID", "")
        self.secret = os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not self.key or not self.secret:
            raise Refused(
                "ARTIFACT_STORE=s3://…: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", 2
            )

    def headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        given = {}
        if token := os.environ.get("AWS_SESSION_TOKEN"):
            given["x-amz-security-token"] = token
        now = datetime.datetime.now(datetime.UTC)
        return sign(method, url, given, content, self.key, self.secret, self.region, now)

    def releases(self) -> list[Stored]:
        found: list[Stored] = []
        start = f"{self.prefix}/" if self.prefix else ""
        query = {"list-type": "2", "prefix": f"{start}{NAME}-"}
        while True:
            url = f"{self.bucket}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"
            status, body, _ = self.ask("GET", url)
            if status != 200:
                raise self.refuse("GET", url, status, body)
            try:
                tree = xml.etree.ElementTree.fromstring(body)
            except xml.etree.ElementTree.ParseError as error:
                raise Refused(f"{url}: not the answer of an S3 store: {error}") from error
            said = {"": tree.tag.partition("}")[0].lstrip("{")} if "}" in tree.tag else {}
            for one in tree.findall("Contents", said):
                key = (one.findtext("Key", "", said)).removeprefix(start)
                if match := _LISTED.fullmatch(key):
                    when = one.findtext("LastModified", "", said)[:19]
                    found.append(Stored(match[1], f"{when}Z" if when else ""))
            token = tree.findtext("NextContinuationToken", None, said)
            if not token:
                return sorted(found, key=lambda each: each.at)
            query["continuation-token"] = token


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes,
    key: str,
    secret: str,
    region: str,
    now: datetime.datetime,
) -> dict[str, str]:
    """
    ``headers`` with what AWS signature version 4 adds for S3 ("Authenticating Requests:
    Authorization Header" in Amazon's S3 API reference, whose examples are this function's tests).
    """
    parts = urllib.parse.urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    payload = hashlib.sha256(content).hexdigest()
    signed = {
        **{name.lower(): value for name, value in headers.items()},
        "host": parts.netloc,
        "x-amz-content-sha256": payload,
        "x-amz-date": stamp,
    }
    pairs = sorted(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    query = "&".join(
        f"{urllib.parse.quote(name, safe='-_.~')}={urllib.parse.quote(value, safe='-_.~')}"
        for name, value in pairs
    )
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    path = urllib.parse.quote(urllib.parse.unquote(parts.path or "/"), safe="/-_.~")
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    step = f"AWS4{secret}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        step = hmac.new(step, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(step, to_sign.encode(), hashlib.sha256).hexdigest()
    del signed["host"]
    return {
        **headers,
        **{name: value for name, value in signed.items() if name.startswith("x-amz-")},
        "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names},"
        f" Signature={signature}",
    }


class GitLab(Http):
    """GitLab's generic package registry of one project."""

    login = "GITLAB_TOKEN, in a job CI_JOB_TOKEN"

    def headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        if token := os.environ.get("GITLAB_TOKEN"):
            return {"PRIVATE-TOKEN": token}
        if token := os.environ.get("CI_JOB_TOKEN"):
            return {"JOB-TOKEN": token}
        return {}

    def url(self, version: str, name: str) -> str:
        return f"{self.base}/packages/generic/{NAME}/{version}/{urllib.parse.quote(name)}"

    def releases(self) -> list[Stored]:
        found, page = [], "1"
        while page:
            query = f"package_type=generic&package_name={NAME}&order_by=created_at&per_page=100"
            url = f"{self.base}/packages?{query}&sort=asc&page={page}"
            status, body, headers = self.ask("GET", url)
            if status != 200:
                raise self.refuse("GET", url, status, body)
            try:
                listed = json.loads(body)
                found += [
                    Stored(one["version"], str(one.get("created_at", ""))[:19] + "Z")
                    for one in listed
                    # The registry's own search is a fuzzy one.
                    if one["name"] == NAME and _VERSION.fullmatch(one["version"])
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise Refused(f"{url}: not the answer of a GitLab: {error}") from error
            page = headers.get("X-Next-Page", "") or ""
        return found


# --- the one in use -------------------------------------------------------------------------------


def store() -> Store:
    """The store of this environment: ARTIFACT_STORE, else GitLab's own in its CI, else a folder."""
    given = os.environ.get("ARTIFACT_STORE", "").strip()
    if not given and (api := os.environ.get("CI_API_V4_URL")) and os.environ.get("CI_JOB_TOKEN"):
        given = f"gitlab+{api}/projects/{os.environ['CI_PROJECT_ID']}"
    if not given:
        return Folder(ROOT / ".store")
    scheme, separator, _ = given.partition("://")
    if not separator or scheme == "file":
        return Folder(Path(given.removeprefix("file://")).expanduser().absolute())
    if scheme in ("http", "https"):
        return Http(given)
    if scheme == "s3":
        return S3(given)
    if scheme in ("gitlab+https", "gitlab+http"):
        return GitLab(given.removeprefix("gitlab+"))
    raise Refused(f"ARTIFACT_STORE={given}: not a store that is known; use\n{FORMS}", 2)


def checked(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise Refused(f"VERSION={version}: use letters, digits, '.', '_' and '-', at most 128", 2)
    return version


def _newest(where: Store) -> str:
    """What is there, for whoever named what is not; also where the store does not say."""
    try:
        found = [one.version for one in where.releases()][-5:]
    except NoListing as error:
        return str(error)
    known = f"the newest there: {', '.join(reversed(found))}" if found else "it is empty"
    elsewhere = (
        "; releases of a pipeline are in its registry: ARTIFACT_STORE=gitlab+https://HOST/api/v4/projects/ID"
        " and GITLAB_TOKEN (docs/operate.md)"
    )
    return known + ("" if where.shared or os.environ.get("ARTIFACT_STORE") else elsewhere)


def archive(version: str) -> str:
    return f"{NAME}-{version}.tar.gz"


def hash_of(where: Store, version: str) -> str | None:
    """SHA-256 of a stored release as the store states it; None when it is not stored."""
    name = f"{archive(version)}.sha256"
    text = where.read(version, name)
    if text is None:
        return None
    words = text.decode(errors="replace").split()
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0]):
        raise Refused(f"{where.where}: {name} holds no sha256; refused")
    return words[0]


def fetch(where: Store, version: str, folder: Path) -> tuple[Path, str]:
    """
    A stored release in ``folder``, verified against the stored hash; its path and that hash.

    Raises Refused, with the newest that there are, for one that is not stored; for a file that is
    missing, cut off or not what its hash says.
    """
    stated = hash_of(where, version)
    if stated is None:
        raise Refused(
            f"VERSION={version} is not stored in {where.where}; {_newest(where)} ('make releases')"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / archive(version)
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != stated:
        content = where.read(version, path.name)
        if content is None:
            raise Refused(f"{where.where}: has the hash of {path.name} but not the file; refused")
        real = hashlib.sha256(content).hexdigest()
        if real != stated:
            raise Refused(
                f"{where.where}: sha256 of {path.name} is {real}, but the store states {stated}: damaged"
                " or tampered with; refused, no machine was touched"
            )
        _write(path, content)
    _write(folder / f"{path.name}.sha256", f"{stated}  {path.name}\n".encode())
    signature = where.read(version, f"{path.name}.sig")
    beside = folder / f"{path.name}.sig"
    if signature is None:
        beside.unlink(missing_ok=True)
    else:
        _write(beside, signature)
    return path, stated


def publish(where: Store, path: Path, key: Path | None = None) -> tuple[bool, str]:
    """
    Store a built artifact, signed with ``key``, by default RELEASE_KEY; ``(whether it was added now, its
    sha256)``.

    Raises Refused when the version is stored with other contents, which stay; for a build that no
    commit can be named for, where the store is shared; for a signature that cannot be made.
    """
    version = path.name.removeprefix(f"{NAME}-").removesuffix(".tar.gz")
    # What no deploy would take.
    checked(version)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if where.shared and (".dirty." in version or "-src." in version):
        raise Refused(
            f"{version} is of uncommitted sources, and {where.where} is shared: commit, then publish"
        )
    stored, given = hash_of(where, version), os.environ.get("RELEASE_KEY")
    key = key or (Path(given) if given else None)
    if stored == digest:
        if key and where.read(version, f"{path.name}.sig") is None:
            # From before there was a key.
            with contextlib.suppress(Exists):
                where.add(version, f"{path.name}.sig", signature_of(path, key))
        return False, digest
    if stored is not None:
        raise Refused(
            f"{version} is stored in {where.where} already, with sha256 {stored}; this build has"
            f" {digest}. A stored version is never replaced: commit a change to webapp/ for a new one"
        )
    files = [(path.name, content)]
    if key:
        files.append((f"{path.name}.sig", signature_of(path, key)))
    files.append((f"{path.name}.sha256", f"{digest}  {path.name}\n".encode()))
    for name, data in files:
        try:
            where.add(version, name, data)
        except Exists:
            # A publish that was interrupted left it, or somebody is just publishing the same.
            there = where.read(version, name)
            if name.endswith(".sig"):
                continue
            if there != data:
                raise Refused(
                    f"{where.where}: {name} is there with other contents, and is never replaced"
                ) from None
        if name == path.name and where.read(version, name) != data:
            # Two at once, at a store that knows no condition: the hash of one must never stand
            # beside the file of the other.
            raise Refused(
                f"{where.where}: {name} is not what was just put there: somebody else is publishing"
                f" {version} with other contents; nothing was released"
            )
    if hash_of(where, version) != digest:
        raise Refused(f"{where.where}: does not give back what was stored for {version}")
    return True, digest


# --- signatures -----------------------------------------------------------------------------------

# The controller's own key, for publishers who are given none; git ignores it.
OWN_KEY = ROOT / ".lab" / "release-key"


def signing_key(make: bool = False) -> Path | None:
    """
    The key that releases are signed with: RELEASE_KEY, else this checkout's own. ``make`` makes that one, but
    not in a pipeline, whose checkout and key would be gone with the job.
    """
    if given := os.environ.get("RELEASE_KEY"):
        return Path(given)
    if not OWN_KEY.exists():
        if not make or os.environ.get("CI"):
            return None
        OWN_KEY.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=OWN_KEY.parent) as folder:
            made = Path(folder) / "key"
            words = ["-q", "-t", "ed25519", "-N", "", "-C", f"{NAME}-release", "-f", str(made)]
            subprocess.run(["ssh-keygen", *words], stdin=subprocess.DEVNULL, check=True)
            with contextlib.suppress(FileExistsError):
                os.link(made, OWN_KEY)
    return OWN_KEY


@contextlib.contextmanager
def _usable(key: Path) -> Iterator[str]:
    """
    A copy for ssh-keygen. Made 0600: GitLab gives a file that all may read, which ssh-keygen refuses, and
    without the newline at its end, which it needs.
    """
    with tempfile.NamedTemporaryFile(prefix="release-key-") as own:
        try:
            own.write(key.read_bytes().rstrip() + b"\n")
        except OSError as error:
            raise Refused(f"RELEASE_KEY={key}: cannot sign: {error}") from error
        own.flush()
        yield own.name


def _keygen(key: Path, *words: str) -> str:
    with _usable(key) as name:
        done = subprocess.run(
            ["ssh-keygen", "-q", *(name if word == "KEY" else word for word in words)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().replace(name, str(key))
            raise Refused(f"RELEASE_KEY={key}: cannot sign: {said}")
    return done.stdout


def public_half(key: Path) -> str:
    """As pillar counter:release:signers has it."""
    return " ".join(_keygen(key, "-y", "-f", "KEY").split()[:2]) + f" {NAME}-release"


def signature_of(path: Path, key: Path) -> bytes:
    """A signature by ``ssh-keygen -Y``, as machines verify it (salt/_modules/signature.py)."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.sig")
    _keygen(key, "-Y", "sign", "-f", "KEY", "-n", f"{NAME}-release", str(path))
    # Stays beside the artifact: a machine that asks for signatures gets it with the tree.
    return Path(f"{path}.sig").read_bytes()


def is_signed(path: Path, signature: bytes | None, key: Path | None = None) -> bool:
    """Whether ``signature`` is one of this artifact, and by ``key`` where one is given."""
    if signature is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sig").write_bytes(signature)
        words = ["-n", f"{NAME}-release", "-s", f"{folder}/sig"]
        if key:
            (Path(folder) / "signers").write_text(f"release {public_half(key)}\n", "utf-8")
            words = ["verify", "-f", f"{folder}/signers", "-I", "release", *words]
        else:
            words = ["check-novalidate", *words]
        command = ["ssh-keygen", "-Y", *words]
        done = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=False)
    return done.returncode == 0


def sign_built(path: Path) -> None:
    """
    Sign what was built here, where there is a key: a machine that asks for signatures asks also for that of
    what `make up` and `make apply` bring. One by a key that was given once stays, unless another is given.
    """
    key, beside = signing_key(), Path(f"{path}.sig")
    there = beside.read_bytes() if beside.exists() else None
    if key and not is_signed(path, there, None if key == OWN_KEY else key):
        signature_of(path, key)


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
