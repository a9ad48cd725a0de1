"""The log shipper, by the metrics that it tells every few seconds."""

import json
import time

# Seconds: two signs of life and some.
OLD = 12


def read(settings):
    try:
        with open(settings["metrics"], encoding="ascii") as file:
            found = json.load(file)
    except (FileNotFoundError, ValueError):
        yield "up", 0
        return
    up = time.time() - found["time"] < OLD
    yield "up", int(up)
    if up:
        yield "connected", found["connected"]
        yield "lag_seconds", found["lag_seconds"]
        yield "sent", found["sent"]
        yield "lost", found["lost"]
        yield "lost_time", found["lost_time"]
