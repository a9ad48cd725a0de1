"""The store gives back what was put there or nothing, and never replaces it."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from control import local_state, ssh, topology
from control.artifacts import build as build_module
from control.artifacts import files, repository, signing
from control.artifacts.files import FileExists, Repository
from control.artifacts.folder import Folder
from control.artifacts.gitlab import GitLab
from control.artifacts.http import Http
from control.commands import deploy as deploy_command
from control.commands import publish as publish_command
from control.commands import releases as releases_command
from control.errors import ControlError
from control.options import Options

VERSION = "0.1.0-g0123456789ab"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("ARTIFACT_STORE", "ARTIFACT_STORE_TOKEN", "RELEASE_KEY", "GITLAB_TOKEN"),
        *("ARTIFACT_STORE_USER", "ARTIFACT_STORE_PASSWORD"),
        *("CI_JOB_TOKEN", "CI_API_V4_URL", "CI_PROJECT_ID", "AWS_SESSION_TOKEN", "AWS_REGION"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"),
        *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "http_proxy", "HTTP_PROXY"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent/netrc")


# ada, and a password with what URLs and headers take apart.
BASIC = f"Basic {base64.b64encode('ada:s3cret: @/ä'.encode()).decode()}"


class Server(http.server.BaseHTTPRequestHandler):
    """A small web server, S3 and GitLab at once: the path says which."""

    files: dict[str, bytes]
    seen: list[tuple[str, str, dict[str, str]]]
    cut: set[str]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        name = self.path.rpartition("/")[2]
        self.wfile.write(body[: len(body) // 2] if name in self.cut else body)

    def note(self) -> urllib.parse.SplitResult:
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        return urllib.parse.urlsplit(self.path)

    def do_GET(self) -> None:
        url = self.note()
        query = dict(urllib.parse.parse_qsl(url.query))
        if "/basic/" in url.path and self.headers.get("Authorization") != BASIC:
            self.answer(401, b"who are you?")
        elif url.path.endswith(("/unlisted/", "/basic/")):
            self.answer(403, b"no autoindex here")
        elif url.path.startswith("/moved/"):
            host = f"http://localhost:{self.server.server_address[1]}"
            self.answer(302, Location=f"{host}/web/{url.path.removeprefix('/moved/')}")
        elif url.path == "/bucket/":
            self.answer(200, self.listed(query))
        elif url.path.endswith("/packages"):
            versions = sorted({path.split("/")[-2] for path in self.files})
            page = int(query["page"])
            told = [{"name": "counter", "version": one} for one in versions[page - 1 : page]]
            told.append({"name": "counterfeit", "version": "9"})
            following = str(page + 1) if page < len(versions) else ""
            self.answer(200, json.dumps(told).encode(), X_Next_Page=following)
        elif url.path.endswith("/"):
            links = (f'<a href="{path.rpartition("/")[2]}">' for path in self.files)
            self.answer(200, "\n".join(links).encode())
        elif url.path in self.files:
            body = self.files[url.path]
            self.answer(200, body, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        else:
            self.answer(404)

    def listed(self, query: dict[str, str]) -> bytes:
        """One key a page, as S3 lists when there are thousands."""
        keys = sorted(path.removeprefix("/bucket/") for path in self.files)
        keys = [key for key in keys if key.startswith(query["prefix"])]
        keys = [key for key in keys if key > query.get("marker", "")]
        shown = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<Size>{len(self.files[f'/bucket/{key}'])}</Size></Contents>"
            for key in keys[:1]
        )
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(len(keys) > 1).lower()}</IsTruncated>{shown}</ListBucketResult>"
        ).encode()

    def do_HEAD(self) -> None:
        url = self.note()
        self.send_response(200 if url.path in self.files else 404)
        self.send_header("ETag", hashlib.md5(self.files.get(url.path, b"")).hexdigest())
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(self.files.get(url.path, b""))))
        self.end_headers()

    def do_PUT(self) -> None:
        self.note()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "/secret/" in self.path:
            xml = b"<Error><Code>AccessDenied</Code><Message>who are you?</Message></Error>"
            self.answer(403, xml if self.path.startswith("/bucket/") else b"who are you?")
        elif "/basic/" in self.path and self.headers.get("Authorization") != BASIC:
            self.answer(401, b"who are you?")
        elif "/no-folder/" in self.path:
            self.answer(409, b"Conflict")
        elif self.headers.get("If-None-Match") == "*" and self.path in self.files:
            self.answer(412)
        else:
            self.files[self.path] = body
            self.answer(201, ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    class Own(Server):
        files: dict[str, bytes] = {}  # noqa: RUF012 - one a server
        seen: list[tuple[str, str, dict[str, str]]] = []  # noqa: RUF012
        cut: set[str] = set()  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{httpd.server_address[1]}"
        yield SimpleNamespace(url=url, files=Own.files, seen=Own.seen, cut=Own.cut)
        httpd.shutdown()


KINDS = ("folder", "http", "s3", "gitlab")
# What all kinds do alike, of what their stores answer.
ALIKE = pytest.mark.parametrize(
    "place",
    [
        *(kind for kind in KINDS if kind != "s3"),
        pytest.param("s3", marks=pytest.mark.nightly("starts s3cmd ten times")),
    ],
    indirect=True,
)


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    server: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> Repository:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    given = {
        "folder": str(tmp_path / "store"),
        "http": f"{server.url}/web",
        "s3": "s3://bucket/some/prefix",
        "gitlab": f"gitlab+{server.url}/api/v4/projects/7",
    }[request.param]
    monkeypatch.setenv("ARTIFACT_STORE", given)
    return repository.open_repository(Options.read())


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    def built(version: str = VERSION, content: bytes = b"an artifact") -> Path:
        path = tmp_path / f"counter-{version}.tar.gz"
        path.write_bytes(content)
        return path

    return built


def test_what_was_published_is_listed_and_fetched(
    place: Repository, build: Callable[..., Path], tmp_path: Path
) -> None:
    assert place.releases() == []
    digest = hashlib.sha256(b"an artifact").hexdigest()
    assert repository.publish(place, build()) == (True, digest)
    assert repository.publish(place, build("2.0"))[0] is True
    assert sorted(one.version for one in place.releases()) == [VERSION, "2.0"]
    path, stated = repository.fetch(place, VERSION, tmp_path / "fetched")
    assert (path.read_bytes(), stated) == (b"an artifact", digest)
    beside = path.with_name(f"{path.name}.sha256").read_text()
    assert beside == f"{digest}  {path.name}\n"


@ALIKE
def test_a_stored_version_is_never_replaced(
    place: Repository, build: Callable[..., Path], tmp_path: Path
) -> None:
    repository.publish(place, build())
    assert repository.publish(place, build())[0] is False, "the same again is no error"
    with pytest.raises(
        ControlError, match="is stored in .* already, with sha256 [0-9a-f]{64}; this build"
    ):
        repository.publish(place, build(content=b"another"))
    for name in (f"counter-{VERSION}.tar.gz", f"counter-{VERSION}.tar.gz.sha256"):
        with pytest.raises(FileExists):
            place.add(VERSION, name, b"another")
    path, _ = repository.fetch(place, VERSION, tmp_path / "fetched")
    assert path.read_bytes() == b"an artifact"


@ALIKE
def test_an_interrupted_publish_is_no_release_and_is_finished_by_the_next(
    place: Repository, build: Callable[..., Path], tmp_path: Path
) -> None:
    name = f"counter-{VERSION}.tar.gz"
    place.add(VERSION, name, b"an artifact")
    with pytest.raises(ControlError, match="is not stored"):
        repository.fetch(place, VERSION, tmp_path / "fetched")
    assert repository.publish(place, build())[0] is True
    place.add("3.0", "counter-3.0.tar.gz", b"half of")
    with pytest.raises(ControlError, match=r"counter-3.0.tar.gz is there with other contents"):
        repository.publish(place, build("3.0"))


@ALIKE
def test_what_is_not_stored_names_the_newest_there(
    place: Repository, build: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ControlError, match="VERSION=9 is not stored in .*; it is empty"):
        repository.fetch(place, "9", tmp_path)
    repository.publish(place, build())
    with pytest.raises(ControlError, match=f"the newest there: {VERSION}"):
        repository.fetch(place, "9", tmp_path)


@ALIKE
def test_a_wrong_hash_is_refused_and_nothing_is_kept(place: Repository, tmp_path: Path) -> None:
    place.add("1", "counter-1.tar.gz", b"tampered")
    place.add("1", "counter-1.tar.gz.sha256", b"0" * 64)
    with pytest.raises(ControlError, match="but the repository states 0{64}: damaged or tampered"):
        repository.fetch(place, "1", tmp_path / "fetched")
    assert list((tmp_path / "fetched").iterdir()) == []
    place.add("2", "counter-2.tar.gz.sha256", b"no hash")
    with pytest.raises(ControlError, match="holds no sha256"):
        repository.fetch(place, "2", tmp_path / "fetched")
    place.add("3", "counter-3.tar.gz.sha256", b"0" * 64)
    with pytest.raises(ControlError, match="has the hash of counter-3.tar.gz but not the file"):
        repository.fetch(place, "3", tmp_path / "fetched")


def test_what_was_fetched_once_is_not_fetched_again_unless_it_differs(
    server: SimpleNamespace, build: Callable[..., Path], tmp_path: Path
) -> None:
    place = Http(f"{server.url}/web", Options.read())
    repository.publish(place, build())
    path, _ = repository.fetch(place, VERSION, tmp_path / "fetched")
    server.seen.clear()
    repository.fetch(place, VERSION, tmp_path / "fetched")
    assert f"/web/{path.name}" not in [where for _, where, _ in server.seen]
    path.write_bytes(b"an artefact")
    repository.fetch(place, VERSION, tmp_path / "fetched")
    assert path.read_bytes() == b"an artifact"


def test_an_answer_that_is_cut_off_is_refused(server: SimpleNamespace, tmp_path: Path) -> None:
    place = Http(f"{server.url}/web", Options.read())
    place.add("1", "counter-1.tar.gz", b"x" * 1000)
    place.add("1", "counter-1.tar.gz.sha256", hashlib.sha256(b"x" * 1000).hexdigest().encode())
    server.cut.add("counter-1.tar.gz")
    with pytest.raises(ControlError, match="counter-1.tar.gz: cut off after 500 of 1000 bytes"):
        repository.fetch(place, "1", tmp_path)


def test_a_token_is_sent_but_to_no_other_host(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACT_STORE_TOKEN", "hush")
    server.files["/web/counter-1.tar.gz"] = b"x"
    assert Http(f"{server.url}/moved", Options.read()).read("1", "counter-1.tar.gz") == b"x"
    tokens = {path: headers.get("authorization") for _, path, headers in server.seen}
    assert tokens == {"/moved/counter-1.tar.gz": "Bearer hush", "/web/counter-1.tar.gz": None}


@pytest.mark.parametrize(
    ("variable", "header"), [("CI_JOB_TOKEN", "job-token"), ("GITLAB_TOKEN", "private-token")]
)
def test_gitlab_gets_its_token(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, variable: str, header: str
) -> None:
    monkeypatch.setenv(variable, "hush")
    GitLab(f"{server.url}/api/v4/projects/7", Options.read()).add("1", "counter-1.tar.gz", b"x")
    put = [headers for method, _, headers in server.seen if method == "PUT"]
    assert put[0][header] == "hush"
    assert "/api/v4/projects/7/packages/generic/counter/1/counter-1.tar.gz" in server.files


def test_a_store_that_knows_basic_gets_user_and_password_of_environment_or_netrc(
    server: SimpleNamespace,
    build: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As nginx' WebDAV knows it."""

    def place() -> Http:
        return Http(f"{server.url}/basic", Options.read())

    with pytest.raises(
        ControlError,
        match="answers 401 .*ARTIFACT_STORE_USER and ARTIFACT_STORE_PASSWORD, or ~/.netrc",
    ):
        repository.publish(place(), build())
    monkeypatch.setenv("ARTIFACT_STORE_USER", "ada")
    with pytest.raises(
        ControlError, match="ARTIFACT_STORE_USER and ARTIFACT_STORE_PASSWORD: need each"
    ):
        repository.publish(place(), build())
    monkeypatch.setenv("ARTIFACT_STORE_PASSWORD", "s3cret: @/ä")
    assert repository.publish(place(), build())[0] is True
    monkeypatch.delenv("ARTIFACT_STORE_USER")
    monkeypatch.delenv("ARTIFACT_STORE_PASSWORD")
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("default login anonymous password x\n")
    with pytest.raises(ControlError, match="answers 401"):
        repository.fetch(place(), VERSION, tmp_path / "fetched")
    assert [headers.get("authorization") for *_, headers in server.seen][-1] is None
    file.write_text('machine 127.0.0.1 login ada password "s3cret: @/ä"\n')
    assert (
        repository.fetch(place(), VERSION, tmp_path / "fetched")[0].read_bytes() == b"an artifact"
    )
    file.write_text("machine 127.0.0.1 login ada passwort s3cret\n")
    with pytest.raises(ControlError, match=r"netrc: line 1: not a netrc file") as no:
        repository.fetch(place(), VERSION, tmp_path / "fetched")
    assert "s3cret" not in str(no.value)


def test_a_password_goes_to_no_other_host(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACT_STORE_USER", "ada")
    monkeypatch.setenv("ARTIFACT_STORE_PASSWORD", "s3cret")
    server.files["/web/counter-1.tar.gz"] = b"x"
    assert Http(f"{server.url}/moved", Options.read()).read("1", "counter-1.tar.gz") == b"x"
    sent = [headers.get("authorization") for _, _, headers in server.seen]
    assert sent[0] is not None and sent[1:] == [None]


def test_a_typing_error_at_a_store_without_a_listing_is_answered_by_what_is_true(
    server: SimpleNamespace,
    build: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Http(f"{server.url}/unlisted", Options.read())
    repository.publish(place, build())
    with pytest.raises(
        ControlError,
        match=r"VERSION=0\.1 is not stored in .*/unlisted; .*does not list what is stored there \(403",
    ) as no:
        repository.fetch(place, "0.1", tmp_path)
    assert "token" not in str(no.value)
    assert repository.fetch(place, VERSION, tmp_path / "fetched")[0].exists()
    monkeypatch.setenv("ARTIFACT_STORE", f"{server.url}/unlisted")
    monkeypatch.delenv("VERSION", raising=False)
    monkeypatch.setattr(local_state, "is_up", lambda where: True)
    with pytest.raises(ControlError, match=r"VERSION=… is needed; .*does not list"):
        deploy_command.run(topology.load("dev"), Options.read())
    told = {"local": {"running": {"1": VERSION}, "history": [], "installed": []}}
    monkeypatch.setattr(ssh, "run", lambda *_: json.dumps(told))
    assert releases_command.run(topology.load("dev"), Options.read()) == 0
    said = capsys.readouterr()
    assert (
        f"does not list what is stored there (403 to GET {server.url}/unlisted/); of what runs:"
        in (said.out)
    )
    assert f"  {VERSION} " in said.out and said.err == ""


def test_a_folder_that_is_missing_at_the_store_is_no_release_that_is_there(
    server: SimpleNamespace, build: Callable[..., Path]
) -> None:
    """WebDAV answers 409 to it."""
    with pytest.raises(ControlError, match="the repository answers 409 to PUT"):
        repository.publish(Http(f"{server.url}/no-folder", Options.read()), build())


@pytest.mark.parametrize("version", ["1.0+local", "1!2", "-1", "a b", "x" * 129])
def test_a_version_that_no_deploy_takes_is_neither_published_nor_offered(
    place: Repository, build: Callable[..., Path], tmp_path: Path, version: str
) -> None:
    with pytest.raises(ControlError, match="use letters, digits, '.', '_' and '-', at most 128"):
        repository.publish(place, build(version))
    if isinstance(place, Folder):
        # Put there by hand.
        place.add(version, f"counter-{version}.tar.gz.sha256", b"0" * 64)
    assert place.releases() == []


def test_every_place_takes_the_same_versions(root: Path) -> None:
    """Built, published, listed, deployed, pinned, installed: by one rule."""
    build = (root / "webapp/builder/sources.py").read_text(encoding="utf-8")
    schema = yaml.safe_load((root / "salt/counter/schema.yaml").read_text(encoding="utf-8"))
    artifact = (root / "salt/_modules/artifact.py").read_text(encoding="utf-8")
    assert f'\nVERSION = r"{files.VERSION}"\n' in build
    assert schema["properties"]["version"]["pattern"] == f"^{files.VERSION}$"
    assert f're.fullmatch(r"{files.VERSION}", str(version))' in artifact


def test_who_has_no_store_set_is_told_where_a_pipelines_releases_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "ROOT", tmp_path)
    with pytest.raises(
        ControlError,
        match=r"it is empty; .*ARTIFACT_STORE=gitlab\+https://HOST/api/v4/projects/ID and GITLAB_TOKEN",
    ):
        repository.fetch(repository.open_repository(Options.read()), "1.0", tmp_path)


def test_a_refusal_by_the_store_says_what_to_look_at(server: SimpleNamespace) -> None:
    place = Http(f"{server.url}/secret", Options.read())
    with pytest.raises(
        ControlError, match=r"answers 403 to PUT .*is its token or key set.* who are you"
    ):
        place.add("1", "counter-1.tar.gz", b"x")
    with pytest.raises(
        ControlError, match="the repository does not answer: GET http://127.0.0.1:1/: .*refused"
    ):
        Http("http://127.0.0.1:1", Options.read()).releases()


@pytest.mark.parametrize("version", ["1.dirty.abc", "1-src.abc"])
def test_a_build_without_a_commit_is_for_folders_alone(
    server: SimpleNamespace, build: Callable[..., Path], tmp_path: Path, version: str
) -> None:
    with pytest.raises(ControlError, match="uncommitted sources, and .* is shared"):
        repository.publish(Http(f"{server.url}/web", Options.read()), build(version))
    assert repository.publish(Folder(tmp_path / "own"), build(version))[0] is True


def test_a_release_is_signed_where_there_is_a_key(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, key = Folder(tmp_path / "store"), tmp_path / "key"
    monkeypatch.setenv("RELEASE_KEY", str(key))
    assert signing.find_key(Options.read()) == key
    with pytest.raises(ControlError, match="cannot sign"):
        repository.publish(place, build(), key)
    assert place.releases() == []
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    repository.publish(place, build(), key)
    path, _ = repository.fetch(place, VERSION, tmp_path / "fetched")
    assert path.with_name(f"{path.name}.sig").read_text().startswith("-----BEGIN SSH SIGNATURE")


def test_a_key_as_gitlab_gives_it_signs(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readable by all, and without its last newline. A release of before there was a key gets its
    signature with the next publish of the same."""
    place, key = Folder(tmp_path / "store"), tmp_path / "key"
    repository.publish(place, build())
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    key.write_text(key.read_text().rstrip())
    key.chmod(0o666)
    assert repository.publish(place, build(), key)[0] is False
    path, _ = repository.fetch(place, VERSION, tmp_path / "fetched")
    first = path.with_name(f"{path.name}.sig").read_text()
    assert first.startswith("-----BEGIN SSH SIGNATURE")
    repository.publish(place, build(), key)
    assert (place.path / f"{path.name}.sig").read_text() == first


@pytest.fixture
def checkout(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """A checkout whose build is there, with a store and a folder `.lab` of its own."""
    own = SimpleNamespace(root=tmp_path, store=Folder(tmp_path / "store"))
    own.key = tmp_path / ".lab/release-key"
    (tmp_path / "pillar").mkdir()
    (tmp_path / "dist").mkdir()
    own.path = build().rename(tmp_path / "dist" / files.archive_name(VERSION))
    monkeypatch.setattr(publish_command, "ROOT", tmp_path)
    monkeypatch.setattr(signing, "OWN_KEY", own.key)
    monkeypatch.setattr(build_module, "build_artifact", lambda *_: VERSION)
    monkeypatch.setenv("ARTIFACT_STORE", str(own.store.path))
    for name in ("RELEASE_KEY", "CI"):
        monkeypatch.delenv(name, raising=False)
    return own


def test_publish_signs_by_default_with_a_key_of_the_checkouts_own(
    checkout: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish_command.run(topology.load("dev"), Options.read()) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == VERSION
    public = signing.read_public_key(checkout.key)
    assert said[-2].startswith(
        f"signed with {checkout.key}, made now: keep a copy; machines refuse"
    )
    assert said[-2].endswith(f"pillar/settings.sls: counter: {{release: {{signers: [{public}]}}}}")
    assert checkout.key.stat().st_mode & 0o777 == 0o600
    path, _ = repository.fetch(checkout.store, VERSION, checkout.root / "fetched")
    assert signing.is_signed(path, Path(f"{path}.sig").read_bytes(), checkout.key)
    # Again, and where the machines ask for it already.
    (checkout.root / "pillar/settings.sls").write_text(f"signers: [{public}]")
    assert publish_command.run(topology.load("dev"), Options.read()) == 0
    told = capsys.readouterr().out.splitlines()[-2]
    assert told == f"signed with {checkout.key}; asked for by pillar/settings.sls"


def test_publish_says_the_setting_of_the_application_that_it_published(
    checkout: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed in as it was said, the counter asked for the signature and the application for none."""
    (checkout.root / "app.toml").write_text('name = "notesy"\n')
    checkout.path.rename(checkout.path.with_name(files.archive_name(VERSION, "notesy")))
    hashed = f"{checkout.path.name}.sha256"
    text = checkout.path.with_name(hashed)
    if text.exists():
        text.rename(text.with_name(f"{files.archive_name(VERSION, 'notesy')}.sha256"))
    monkeypatch.setenv("APP", str(checkout.root))
    assert publish_command.run(topology.load("dev"), Options.read()) == 0
    setting = yaml.safe_load(
        capsys.readouterr().out.splitlines()[-2].partition("settings.sls: ")[2]
    )
    public = signing.read_public_key(checkout.key)
    assert setting == {"apps": {"notesy": {"release": {"signers": [public]}}}}
    monkeypatch.setenv("CI", "true")
    checkout.key.unlink()
    assert publish_command.run(topology.load("dev"), Options.read()) == 0
    assert "(salt/apps/README.md)" in capsys.readouterr().err


def test_publish_of_a_pipeline_signs_with_the_key_that_it_is_given_and_makes_none(
    checkout: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    assert publish_command.run(topology.load("dev"), Options.read()) == 0
    said = capsys.readouterr()
    assert "not signed: whoever may write to" in said.err
    assert not checkout.key.exists()
    assert checkout.store.read(VERSION, f"{checkout.path.name}.sig") is None
    given = checkout.root / "given"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(given)], check=True)
    monkeypatch.setenv("RELEASE_KEY", str(given))
    assert publish_command.run(topology.load("dev"), Options.read()) == 0
    assert f"signed with {given}; machines refuse" in capsys.readouterr().out
    # What is stored with a key's signature keeps it, and another publisher is told.
    monkeypatch.delenv("RELEASE_KEY")
    monkeypatch.delenv("CI")
    assert publish_command.run(topology.load("dev"), Options.read()) == 0
    assert "is not by" in capsys.readouterr().out


def test_what_an_apply_brings_is_signed_where_there_is_a_key(
    checkout: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a machine that asks for signatures could not be made."""
    beside = Path(f"{checkout.path}.sig")
    signing.sign_built(checkout.path, Options.read())
    assert not beside.exists()
    given = checkout.root / "given"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(given)], check=True)
    monkeypatch.setenv("RELEASE_KEY", str(given))
    signing.sign_built(checkout.path, Options.read())
    first = beside.read_bytes()
    monkeypatch.delenv("RELEASE_KEY")
    signing.find_key(Options.read(), make=True)
    signing.sign_built(checkout.path, Options.read())
    assert beside.read_bytes() == first, "by the key that was given"
    checkout.path.write_bytes(b"another build")
    signing.sign_built(checkout.path, Options.read())
    assert signing.is_signed(checkout.path, beside.read_bytes(), checkout.key)


def test_two_publishers_at_once_never_mix(
    server: SimpleNamespace, build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a store that ignores the condition, as GitLab's does, the later file wins."""
    place = GitLab(f"{server.url}/api/v4/projects/7", Options.read())
    real = place.add

    def add(version: str, name: str, content: bytes) -> None:
        real(version, name, content)
        if name.endswith(".tar.gz"):
            server.files[urllib.parse.urlsplit(place.url(version, name)).path] = b"another build"

    monkeypatch.setattr(place, "add", add)
    with pytest.raises(ControlError, match="somebody else is publishing .*; nothing was released"):
        repository.publish(place, build())
    assert repository.read_hash(place, VERSION) is None


def test_the_environment_says_which_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert repository.open_repository(Options.read()).where.endswith("/.store")
    monkeypatch.setenv("CI_API_V4_URL", "https://gitlab.example/api/v4")
    monkeypatch.setenv("CI_PROJECT_ID", "7")
    assert repository.open_repository(Options.read()).where.endswith("/.store"), (
        "without a token there is nothing to reach"
    )
    monkeypatch.setenv("CI_JOB_TOKEN", "x")
    assert (
        repository.open_repository(Options.read()).where
        == "https://gitlab.example/api/v4/projects/7"
    )
    for given, kind in ((str(tmp_path), Folder), (f"file://{tmp_path}", Folder)):
        monkeypatch.setenv("ARTIFACT_STORE", given)
        assert isinstance(repository.open_repository(Options.read()), kind)
        assert repository.open_repository(Options.read()).where == str(tmp_path)
    for given, said in (
        ("ftp://host/x", r"not a repository that is known; use\n/a/folder"),
        ("s3://bucket", "set AWS_ACCESS_KEY_ID"),
        ("https://user:pass@host/x", "no password in the URL"),
    ):
        monkeypatch.setenv("ARTIFACT_STORE", given)
        with pytest.raises(ControlError, match=said) as caught:
            repository.open_repository(Options.read())
        assert caught.value.code == 2
        assert "pass@" not in str(caught.value)


def test_a_bucket_gets_keys_by_no_argument_and_refusals_name_them(
    server: SimpleNamespace, build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By s3cmd, which signs as version 4 says and asks by path."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "for-an-hour")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    arguments: list[str] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        arguments.extend(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("ARTIFACT_STORE", "s3://bucket/prefix")
    repository.publish(repository.open_repository(Options.read()), build())
    assert "hush-hush" not in " ".join(arguments)
    put = [headers for method, _, headers in server.seen if method == "PUT"]
    credential = r"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/\d{8}/eu-central-1/s3/aws4_request,"
    for headers in put:
        assert re.match(credential, headers["authorization"]), headers["authorization"]
        assert "if-none-match" in headers["authorization"]
        assert headers["x-amz-security-token"] == "for-an-hour"
    monkeypatch.setenv("ARTIFACT_STORE", "s3://bucket/secret")
    with pytest.raises(
        ControlError, match=r"s3cmd put: .*403.*is its key set \(AWS_ACCESS_KEY_ID"
    ) as no:
        repository.open_repository(Options.read()).add("1", "counter-1.tar.gz", b"x")
    assert "hush-hush" not in str(no.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ControlError, match=r"at 127\.0\.0\.1:1: s3cmd ls: .*[Rr]efused"):
        repository.open_repository(Options.read()).releases()


def test_an_upload_to_a_bucket_between_look_and_write_is_not_replaced(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("ARTIFACT_STORE", "s3://bucket")
    place = repository.open_repository(Options.read())
    server.files["/bucket/counter-1.tar.gz"] = b"another's"
    monkeypatch.setattr(place, "read", lambda *_: None)
    # More than one part, if it were uploaded in parts.
    with pytest.raises(FileExists):
        place.add("1", "counter-1.tar.gz", b"x" * (16 << 20))
    assert server.files["/bucket/counter-1.tar.gz"] == b"another's"
