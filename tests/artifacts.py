"""Releases for tests: copies of a real artifact under another version, some of them broken."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

# What a broken release has at the end of one of its files, or instead of release.json's keys.
BROKEN = {
    "never-ready": {
        "app/counter/app.py": "def readyz(request):\n    return _text(503, 'made never ready\\n')\n"
    },
    # All that is asked of it but whether it is ready.
    "ready-but-500": {
        "lib/serving/front.py": "class Front(Front):\n"
        "    def __call__(self, environ, start_response):\n"
        "        if environ['PATH_INFO'] == '/readyz':\n"
        "            return super().__call__(environ, start_response)\n"
        "        status, headers, body = text(500, b'made to fail\\n')\n"
        "        environ[PATH] = environ['PATH_INFO']\n"
        "        start_response(status, headers)\n"
        "        return [body]\n"
    },
    "dies-after-5-s": {
        "lib/serving/server.py": "import os, sys, threading\n"
        "def _die():\n"
        "    print('made to die', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n"
        "threading.Timer(5, _die).start()\n"
    },
    "exits-at-import": {"lib/serving/server.py": "raise SystemExit('made to exit at import')\n"},
    "newer-python": {"release.json": '{"python": ["3.99"]}'},
}


def variant(source: Path, version: str, folder: Path, broken: str = "") -> Path:
    """
    The artifact ``source`` as ``version`` in ``folder``, with its hash beside it. ``broken``: a key
    of :data:`BROKEN`; or ``truncated``, a third of it is missing though its hash is right; or
    ``wrong-sha256``.
    """
    changes = BROKEN.get(broken, {})
    buffer = io.BytesIO()
    with (
        tarfile.open(source) as old,
        tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as new,
    ):
        for member in old:
            root, _, path = member.name.partition("/")
            file = old.extractfile(member)
            content = file.read() if file else b""
            if path == "release.json":
                told = {**json.loads(content), "version": version}
                told.update(json.loads(changes.get(path, "{}")))
                content = json.dumps(told).encode()
            elif path in changes:
                content += b"\n" + changes[path].encode()
            member.name = f"{root.partition('-')[0]}-{version}" + (f"/{path}" if path else "")
            member.size = len(content)
            new.addfile(member, io.BytesIO(content) if file else None)
    data = buffer.getvalue()
    if broken == "truncated":
        data = data[: len(data) * 2 // 3]
    digest = "0" * 64 if broken == "wrong-sha256" else hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"counter-{version}.tar.gz"
    path.write_bytes(data)
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return path
