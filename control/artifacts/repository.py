"""
The repository of artifacts: where `make publish` puts releases and `make deploy` takes them from.

ARTIFACT_STORE says where; the forms are in :data:`FORMS`. Who may write there decides what runs, unless
machines ask for signatures (counter:release:signers).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path

from .. import atomic_file
from ..application import NAME
from ..errors import OperationError, UserError
from ..options import Options
from ..paths import ROOT
from . import signing
from .files import FileExists, NoListing, Repository, archive_name, check_version, version_in
from .folder import Folder
from .gitlab import GitLab
from .http import Http
from .s3 import S3

FORMS = """\
/a/folder                                           a directory; the default is .store of this checkout
https://host/path                                   GET and PUT, such as nginx with dav_methods; ARTIFACT_STORE_TOKEN is
                                                    sent as a bearer; or Basic: ARTIFACT_STORE_USER and
                                                    ARTIFACT_STORE_PASSWORD, or the host's entry in ~/.netrc
s3://bucket/prefix                                  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL
gitlab+https://host/api/v4/projects/ID              GitLab's generic packages, where its pipeline publishes; ID: the
                                                    project's number; GITLAB_TOKEN (read_api), in a job CI_JOB_TOKEN"""


def open_repository(options: Options, application: str = NAME) -> Repository:
    """The repository that is meant (:func:`_open`), for the releases of one application."""
    found = _open(options)
    found.application = application
    return found


def _open(options: Options) -> Repository:
    """The repository that is meant: ARTIFACT_STORE, else GitLab's own in its CI, else a folder."""
    url = options.artifact_store.strip()
    if not url and options.ci_api_v4_url and options.ci_job_token:
        url = f"gitlab+{options.ci_api_v4_url}/projects/{options.ci_project_id}"
    if not url:
        return Folder(ROOT / ".store", is_default=True)
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return Folder(Path(url.removeprefix("file://")).expanduser().absolute())
    if scheme in ("http", "https"):
        return Http(url, options)
    if scheme == "s3":
        return S3(url, options)
    if scheme in ("gitlab+https", "gitlab+http"):
        return GitLab(url.removeprefix("gitlab+"), options)
    raise UserError(f"ARTIFACT_STORE={url}: not a repository that is known; use\n{FORMS}", 2)


def _describe_newest(repository: Repository) -> str:
    """What is there, for whoever named what is not; also where the repository does not say."""
    try:
        newest = [release.version for release in repository.releases()][-5:]
    except NoListing as error:
        return str(error)
    known = f"the newest there: {', '.join(reversed(newest))}" if newest else "it is empty"
    elsewhere = (
        "; releases of a pipeline are in its registry: ARTIFACT_STORE=gitlab+https://HOST/api/v4/projects/ID"
        " and GITLAB_TOKEN (docs/operate.md)"
    )
    return known + elsewhere if repository.is_default else known


def read_hash(repository: Repository, version: str) -> str | None:
    """SHA-256 of a stored release as the repository states it; None when it is not stored."""
    name = f"{archive_name(version, repository.application)}.sha256"
    text = repository.read(version, name)
    if text is None:
        return None
    words = text.decode(errors="replace").split()
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0]):
        raise OperationError(f"{repository.where}: {name} holds no sha256; refused")
    return words[0]


def fetch(repository: Repository, version: str, folder: Path) -> tuple[Path, str]:
    """
    A stored release in ``folder``, verified against the stored hash; its path and that hash.

    Raises UserError, with the newest that there are, for one that is not stored; OperationError for a file that is
    missing, cut off or not what its hash says.
    """
    stated = read_hash(repository, version)
    if stated is None:
        raise UserError(
            f"VERSION={version} is not stored in {repository.where}; {_describe_newest(repository)} ('make releases')"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / archive_name(version, repository.application)
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != stated:
        content = repository.read(version, path.name)
        if content is None:
            raise OperationError(
                f"{repository.where}: has the hash of {path.name} but not the file; refused"
            )
        real = hashlib.sha256(content).hexdigest()
        if real != stated:
            raise OperationError(
                f"{repository.where}: sha256 of {path.name} is {real}, but the repository states {stated}: damaged"
                " or tampered with; refused, no machine was touched"
            )
        atomic_file.write(path, content, 0o644)
    atomic_file.write(folder / f"{path.name}.sha256", f"{stated}  {path.name}\n".encode(), 0o644)
    signature = repository.read(version, f"{path.name}.sig")
    beside = folder / f"{path.name}.sig"
    if signature is None:
        beside.unlink(missing_ok=True)
    else:
        atomic_file.write(beside, signature, 0o644)
    return path, stated


def publish(repository: Repository, path: Path, key: Path | None = None) -> tuple[bool, str]:
    """
    Store a built artifact, signed with ``key`` where there is one; ``(whether it was added now, its
    sha256)``.

    Raises ControlError when the version is stored with other contents, which stay; for a build that no
    commit can be named for, where the repository is shared; for a signature that cannot be made.
    """
    version = version_in(path.name, repository.application)
    # What no deploy would take.
    check_version(version)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if repository.shared and (".dirty." in version or "-src." in version):
        raise UserError(
            f"{version} is of uncommitted sources, and {repository.where} is shared: commit, then publish"
        )
    stored = read_hash(repository, version)
    if stored == digest:
        if key and repository.read(version, f"{path.name}.sig") is None:
            # From before there was a key.
            with contextlib.suppress(FileExists):
                repository.add(
                    version,
                    f"{path.name}.sig",
                    signing.sign_file(path, key, repository.application),
                )
        return False, digest
    if stored is not None:
        raise UserError(
            f"{version} is stored in {repository.where} already, with sha256 {stored}; this build has"
            f" {digest}. A stored version is never replaced: commit a change to its sources for a new one"
        )
    files = [(path.name, content)]
    if key:
        files.append((f"{path.name}.sig", signing.sign_file(path, key, repository.application)))
    files.append((f"{path.name}.sha256", f"{digest}  {path.name}\n".encode()))
    for name, data in files:
        try:
            repository.add(version, name, data)
        except FileExists:
            # A publish that was interrupted left it, or somebody is just publishing the same.
            existing = repository.read(version, name)
            if name.endswith(".sig"):
                continue
            if existing != data:
                raise OperationError(
                    f"{repository.where}: {name} is there with other contents, and is never replaced"
                ) from None
        if name == path.name and repository.read(version, name) != data:
            # Two at once, at a repository that knows no condition: the hash of one must never stand
            # beside the file of the other.
            raise OperationError(
                f"{repository.where}: {name} is not what was just put there: somebody else is publishing"
                f" {version} with other contents; nothing was released"
            )
    if read_hash(repository, version) != digest:
        raise OperationError(
            f"{repository.where}: does not give back what was stored for {version}"
        )
    return True, digest
