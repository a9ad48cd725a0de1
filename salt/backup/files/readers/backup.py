"""The last backup, as stack-backup noted it: when the last good one was, and how the last try went."""

import json
import os


def read(settings):
    try:
        with open(settings["file"], encoding="utf-8") as file:
            last = json.load(file)
    except FileNotFoundError:
        last = {}
    # Before the first one, it is due since there is a schedule.
    yield "time", last.get("time") or os.stat(settings["since"]).st_mtime
    yield "ok", int(last.get("result", "ok") == "ok")
    yield "max_age_seconds", settings["max_age_hours"] * 3600
    yield "size_bytes", last.get("size", 0)
