"""A repository in a bucket."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ..application import NAME
from ..errors import OperationError, UserError
from ..options import Options, child_environment
from . import files
from .files import FileExists, StoredRelease
from .http import PATIENCE

LOGIN = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
# Of s3cmd (S3/ExitCodes.py), by what the server answered: 404, 409, 412, 403.
NOT_FOUND, CONFLICT, PRECONDITION, DENIED = 12, 13, 14, 77


class S3:
    """Any server that speaks S3, by path (ENDPOINT/bucket/key), through s3cmd, as backups are (salt/backup)."""

    shared, is_default = True, False
    application = NAME

    def __init__(self, url: str, options: Options) -> None:
        if not options.aws_access_key_id or not options.aws_secret_access_key:
            raise UserError(f"ARTIFACT_STORE=s3://…: set {LOGIN}", 2)
        region = options.aws_region or "us-east-1"
        endpoint = options.aws_endpoint_url or f"https://s3.{region}.amazonaws.com"
        scheme, _, host = endpoint.rstrip("/").partition("://")
        self.where = url
        self.base = url.rstrip("/")
        self.settings = {
            "access_key": options.aws_access_key_id,
            "secret_key": options.aws_secret_access_key,
            "access_token": options.aws_session_token,
            "host_base": host,
            # The bucket in the path: no wildcard certificate is needed.
            "host_bucket": host,
            "bucket_location": region,
            "use_https": scheme == "https",
            # In one part, or the condition of an upload would not hold.
            "enable_multipart": False,
            "guess_mime_type": False,
            "socket_timeout": PATIENCE,
            "max_retries": 2,
        }

    def _run(self, *words: str) -> tuple[int, bytes]:
        """Exit code and output of s3cmd; OperationError for what no caller expects."""
        with tempfile.TemporaryDirectory() as folder:
            # A file, for arguments can be read by everybody.
            config = Path(folder) / "s3cmd"
            config.touch(0o600)
            lines = "".join(f"{key} = {value}\n" for key, value in self.settings.items())
            config.write_text(f"[default]\n{lines}", encoding="utf-8")
            program = [str(Path(sys.prefix) / "bin" / "s3cmd"), f"--config={config}"]
            done = subprocess.run(
                [*program, "--no-progress", *words],
                env=child_environment(PYTHONWARNINGS="ignore"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        if done.returncode in (0, NOT_FOUND, CONFLICT, PRECONDITION):
            return done.returncode, done.stdout
        if b"does not exist" in done.stderr:
            # Of one file, which s3cmd takes for a wrong argument.
            return NOT_FOUND, b""
        said = done.stderr.decode(errors="replace")
        # What it had not foreseen is in the middle of a report to its makers.
        problems = re.findall(r"(?m)^Problem: .*", said) or said.strip().splitlines() or [""]
        denied = f"; is its key set ({LOGIN}), and may it write?"
        hint = denied if done.returncode == DENIED else ""
        raise OperationError(
            f"{self.where} at {self.settings['host_base']}: s3cmd {words[0]}: {problems[-1]}{hint}"
        )

    def releases(self) -> list[StoredRelease]:
        code, output = self._run("ls", f"{self.base}/{self.application}-")
        if code:
            raise OperationError(f"{self.where}: no such bucket at {self.settings['host_base']}")
        stored = []
        for line in output.decode(errors="replace").splitlines():
            # "2026-11-28 14:30      1234   s3://bucket/prefix/NAME", in UTC.
            when, _, name = line.partition(f"{self.base}/")
            if match := files.listed(self.application).fullmatch(name):
                stored.append(StoredRelease(match[1], "T".join(when.split()[:2]) + "Z"))
        return sorted(stored, key=lambda release: release.at)

    def read(self, version: str, name: str) -> bytes | None:
        code, content = self._run("get", f"{self.base}/{name}", "-")
        return None if code == NOT_FOUND else content

    def add(self, version: str, name: str, content: bytes) -> None:
        # The condition (RFC 9110 section 13.1.2) closes the gap between looking and writing, at a
        # server that knows it.
        if self.read(version, name) is not None:
            raise FileExists(name)
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            condition = "--add-header=If-None-Match:*"
            code, _ = self._run("put", "--quiet", condition, file.name, f"{self.base}/{name}")
        if code == PRECONDITION or (code == CONFLICT and self.read(version, name) is not None):
            raise FileExists(name)
        if code:
            raise OperationError(f"{self.where}: no such bucket at {self.settings['host_base']}")
