"""This machine's last apply, as bootstrap/converge noted it."""

import json
import os


def killed(running):
    """Whether the apply that says it is running is none any more: ended by force, or by a power cut."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        if running["boot"] != file.read().strip():
            return True
    try:
        os.kill(running["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def read(settings):
    try:
        with open(settings["file"], encoding="utf-8") as file:
            last = json.load(file)
    except FileNotFoundError:
        # The very first is still running.
        return
    if last.get("running") and killed(last["running"]):
        yield "ok", 0
        return
    if "time" not in last:
        return
    yield "time", last["time"]
    yield "ok", int(last["result"] == "ok")
    yield "changed", last["changed"]
    yield "failed", last["failed"]
    yield "seconds", last["duration"]
