"""A repository in a bucket."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree
from collections.abc import Mapping

from ..errors import OperationError, UserError
from ..options import Options
from . import files
from .files import StoredRelease
from .http import Http


class S3(Http):
    """Any store that speaks S3, by path (ENDPOINT/bucket/key) and signature version 4."""

    login = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

    def __init__(self, url: str, options: Options) -> None:
        parts = urllib.parse.urlsplit(url)
        self.region = options.aws_region or "us-east-1"
        endpoint = options.aws_endpoint_url or f"https://s3.{self.region}.amazonaws.com"
        self.prefix = parts.path.strip("/")
        self.bucket = f"{endpoint.rstrip('/')}/{parts.netloc}"
        super().__init__(f"{self.bucket}/{self.prefix}", options)
        self.where = url
        if not options.aws_access_key_id or not options.aws_secret_access_key:
            raise UserError(
                "ARTIFACT_STORE=s3://…: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", 2
            )

    def headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        token = self.options.aws_session_token
        own = {"x-amz-security-token": token} if token else {}
        key, secret = self.options.aws_access_key_id, self.options.aws_secret_access_key
        now = datetime.datetime.now(datetime.UTC)
        return sign(method, url, own, content, key, secret, self.region, now)

    def releases(self) -> list[StoredRelease]:
        stored: list[StoredRelease] = []
        start = f"{self.prefix}/" if self.prefix else ""
        query = {"list-type": "2", "prefix": f"{start}{self.application}-"}
        while True:
            url = f"{self.bucket}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"
            status, body, _ = self.ask("GET", url)
            if status != 200:
                raise self.refuse("GET", url, status, body)
            try:
                tree = xml.etree.ElementTree.fromstring(body)
            except xml.etree.ElementTree.ParseError as error:
                raise OperationError(f"{url}: not the answer of an S3 server: {error}") from error
            namespace = {"": tree.tag.partition("}")[0].lstrip("{")} if "}" in tree.tag else {}
            for entry in tree.findall("Contents", namespace):
                key = (entry.findtext("Key", "", namespace)).removeprefix(start)
                if match := files.listed(self.application).fullmatch(key):
                    when = entry.findtext("LastModified", "", namespace)[:19]
                    stored.append(StoredRelease(match[1], f"{when}Z" if when else ""))
            token = tree.findtext("NextContinuationToken", None, namespace)
            if not token:
                return sorted(stored, key=lambda release: release.at)
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
