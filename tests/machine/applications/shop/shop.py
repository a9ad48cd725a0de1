"""What is written stays in the state folder; each part can be told to fail (test_apps.py)."""

import os
import sqlite3
import sys
import time

VERSION = "one"
FAILS = ""


def db():
    return sqlite3.connect(f"{os.environ['STATE_DIRECTORY']}/shop.db", timeout=5)


def write(what):
    with db() as file:
        file.execute("insert into seen values (?)", (what,))


def migrate():
    if FAILS == "migrate":
        sys.exit("made to fail in its migration")
    with db() as file:
        file.execute("create table if not exists seen (what text)")
    write(f"migrated {VERSION}")


def work():
    write(f"worker {VERSION}")
    if FAILS == "work":
        sys.exit("made to die in its worker")
    while True:
        time.sleep(1)


def tidy():
    write("tidied")
    time.sleep(60)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/ready":
        status = "500 Made To Fail" if FAILS == "ready" else "200 OK"
        start_response(status, [("Content-Type", "text/plain")])
        return [b"ready\n"]
    with db() as file:
        rows = file.execute("select what from seen order by rowid").fetchall()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{VERSION}\n{''.join(what + chr(10) for (what,) in rows)}".encode()]
