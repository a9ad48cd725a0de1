"""The instances of the applications: whether each lives and is ready. Neither question counts."""

import os

from reader_clients import status


def read(settings):
    yield "known", len(settings["instances"])
    for name, one in settings["instances"].items():
        # Before its first release there is nothing that could live.
        if not os.path.lexists(one["release"]):
            continue
        alive = status(settings["address"], one["port"], one["alive"]) == 200
        yield "up", int(alive), name
        # 404: it drains. 503: what it needs is unreachable.
        ready = alive and status(settings["address"], one["port"], one["ready"]) == 200
        yield "ready", int(ready), name
