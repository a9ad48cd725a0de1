"""Filebeat's own metrics: what it took in, and what its target has acknowledged."""

import contextlib
import glob
import http.client
import json
import os


def on_disk(folder):
    """Bytes of the queue's segments in ``folder``."""
    found = 0
    for path in glob.glob(f"{glob.escape(folder)}/*"):
        with contextlib.suppress(FileNotFoundError):  # one that is done with goes at any time
            found += os.stat(path).st_size
    return found


def read(settings):
    connection = http.client.HTTPConnection("127.0.0.1", settings["port"], timeout=1.5)
    try:
        connection.request("GET", "/stats")
        found = json.load(connection.getresponse())["libbeat"]
    except (OSError, http.client.HTTPException, ValueError):
        yield "up", 0
        return
    finally:
        connection.close()
    yield "up", 1
    yield "published", found["pipeline"]["events"]["published"]
    yield "acked", found["output"]["events"]["acked"]
    yield "dropped", found["output"]["events"]["dropped"]
    yield "queue_ratio", on_disk(settings["queue"]) / settings["queue_bytes"]
