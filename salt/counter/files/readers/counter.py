"""The instances of the application: whether each lives and is ready. Neither question counts."""

from reader_clients import status


def read(settings):
    for name, port in settings["instances"].items():
        alive = status(settings["address"], port, settings["alive"]) == 200
        yield "up", int(alive), name
        # 404: it drains. 503: its store is unreachable.
        ready = alive and status(settings["address"], port, settings["ready"]) == 200
        yield "ready", int(ready), name
