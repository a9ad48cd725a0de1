"""Whether maintenance is on, as HAProxy reads it when it starts."""

import os


def read(settings):
    yield "active", int(os.path.getsize(settings["map"]) > 0)
