"""What Filebeat 8 asks of Elasticsearch, on loopback: takes `_bulk` and writes each document down.

elastic_stand_in.py PORT CERTIFICATE KEY USER:PASSWORD_FILE DOCUMENTS

A document whose message has the words of the file `refused`, beside DOCUMENTS, is refused, as one that
does not fit its index.
"""

from __future__ import annotations

import base64
import gzip
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT, CERTIFICATE, KEY, ACCOUNT, DOCUMENTS = sys.argv[1:]
with open(DOCUMENTS.rpartition("/")[0] + "/refused", encoding="utf-8") as words:
    REFUSED = words.read()
USER, _, FILE = ACCOUNT.partition(":")
with open(FILE, encoding="utf-8") as secret:
    LOGIN = "Basic " + base64.b64encode(f"{USER}:{secret.read()}".encode()).decode()


class Stand(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_any(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        path = self.path.split("?")[0]
        if self.headers.get("Authorization") != LOGIN:
            self.answer(401, {"error": "who are you"})
        elif path == "/":
            version = {"number": "8.1.3", "build_flavor": "default", "lucene_version": "9.0.0"}
            self.answer(200, {"version": version, "tagline": "You Know, for Search"})
        elif path in ("/_license", "/_xpack"):
            self.answer(
                200, {"license": {"uid": "x", "type": "basic", "mode": "basic", "status": "active"}}
            )
        elif path.endswith("_bulk"):
            self.bulk(data)
        elif self.command in ("GET", "HEAD"):
            self.answer(404, {})
        else:
            self.answer(200, {"acknowledged": True})

    do_GET = do_HEAD = do_PUT = do_POST = handle_any

    def bulk(self, data: bytes) -> None:
        items: list[dict[str, Any]] = []
        with open(DOCUMENTS, "a", encoding="utf-8") as file:
            lines = iter(data.decode().splitlines())
            for line in lines:
                ((action, _),) = json.loads(line).items()
                document = json.loads(next(lines))
                if REFUSED in document.get("message", ""):
                    why = {"type": "mapper_parsing_exception", "reason": "failed to parse field"}
                    items.append({action: {"status": 400, "_index": "x", "error": why}})
                    continue
                file.write(json.dumps(document) + "\n")
                items.append({action: {"status": 201, "_index": "x", "_id": "x"}})
        errors = any("error" in result for one in items for result in one.values())
        self.answer(200, {"took": 1, "errors": errors, "items": items})


server = ThreadingHTTPServer(("127.0.0.1", int(PORT)), Stand)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
