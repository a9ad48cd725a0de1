"""A name server and DigitalOcean's DNS API in front of it, for an authority's DNS challenge.

    dns_stand_in.py ZONE TOKEN

DNS on 127.0.0.1:53 (UDP): SOA and NS for ZONE, TXT records that the API made, 127.0.0.1 for every A. The API on
127.0.0.1:8053: POST and DELETE of /v2/domains/ZONE/records, as its documentation has them, for TOKEN alone.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ZONE, TOKEN = sys.argv[1:]
RECORDS: dict[int, tuple[str, str]] = {}
A, NS, SOA, TXT = 1, 2, 6, 16


def packed(name: str) -> bytes:
    return b"".join(bytes([len(one)]) + one.encode() for one in name.strip(".").split(".")) + b"\0"


def answers(name: str, kind: int) -> list[bytes]:
    if kind == SOA and name == ZONE:
        return [
            packed(f"ns.{ZONE}") + packed(f"master.{ZONE}") + struct.pack("!5I", 1, 60, 60, 60, 1)
        ]
    if kind == NS and name == ZONE:
        return [packed(f"ns.{ZONE}")]
    if kind == A:
        return [bytes([127, 0, 0, 1])]
    if kind == TXT:
        values = [data.encode() for record, data in RECORDS.values() if record == name]
        return [bytes([len(one)]) + one for one in values]
    return []


def serve_names() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
        names.bind(("127.0.0.1", 53))
        while True:
            query, client = names.recvfrom(4096)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
            found = answers(".".join(labels).lower(), kind)
            # Authoritative, recursion available; the answers' name is the question's.
            head = query[:2] + struct.pack("!5H", 0x8580, 1, len(found), 0, 0)
            body = [b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 1, len(one)) + one for one in found]
            names.sendto(head + query[12 : at + 5] + b"".join(body), client)


class Api(BaseHTTPRequestHandler):
    def answer(self, status: int, data: object = None) -> None:
        text = json.dumps(data).encode() if data is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def is_allowed(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return self.path.startswith(f"/v2/domains/{ZONE}/records")
        self.answer(401, {"id": "unauthorized", "message": "Unable to authenticate you"})
        return False

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_allowed():
            number = len(RECORDS) + 1
            RECORDS[number] = (given["name"].strip("."), given["data"])
            print(f"made {given['name']}", flush=True)
            self.answer(201, {"domain_record": {**given, "id": number}})

    def do_DELETE(self) -> None:
        if self.is_allowed():
            name, _ = RECORDS.pop(int(self.path.rpartition("/")[2]))
            print(f"removed {name}", flush=True)
            self.answer(204)


threading.Thread(target=serve_names, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", 8053), Api).serve_forever()
