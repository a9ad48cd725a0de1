"""A repository that is the package registry of a GitLab project."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request

from ..errors import OperationError
from . import files
from .files import StoredRelease
from .http import Http


class GitLab(Http):
    """GitLab's generic package registry of one project."""

    login = "GITLAB_TOKEN, in a job CI_JOB_TOKEN"

    def headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        if token := self.options.gitlab_token:
            return {"PRIVATE-TOKEN": token}
        if token := self.options.ci_job_token:
            return {"JOB-TOKEN": token}
        return {}

    def url(self, version: str, name: str) -> str:
        return (
            f"{self.base}/packages/generic/{self.application}/{version}/{urllib.parse.quote(name)}"
        )

    def releases(self) -> list[StoredRelease]:
        stored, page = [], "1"
        while page:
            query = f"package_type=generic&package_name={self.application}&order_by=created_at&per_page=100"
            url = f"{self.base}/packages?{query}&sort=asc&page={page}"
            status, body, headers = self.ask("GET", url)
            if status != 200:
                raise self.refuse("GET", url, status, body)
            try:
                listed = json.loads(body)
                stored += [
                    StoredRelease(package["version"], str(package.get("created_at", ""))[:19] + "Z")
                    for package in listed
                    # The registry's own search is a fuzzy one.
                    if package["name"] == self.application
                    and files.VERSION_PATTERN.fullmatch(package["version"])
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise OperationError(f"{url}: not the answer of a GitLab: {error}") from error
            page = headers.get("X-Next-Page", "") or ""
        return stored
