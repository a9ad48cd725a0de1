"""What Alertmanager is told to keep to itself: each silence that is active, and until when."""

import http.client
import json
from datetime import datetime

# Bytes of an answer that are read: thousands of silences.
MOST = 4_000_000
SIGNS = {(True, False): "=", (True, True): "=~", (False, False): "!=", (False, True): "!~"}


def words(silence):
    """Which, what and whose it is: at most 120 characters, as a label can have them."""
    what = " ".join(
        f"{one['name']}{SIGNS[one.get('isEqual', True), one['isRegex']]}{one['value']}"
        for one in silence["matchers"]
    )
    text = f"{silence['id'][:8]} ({what[:70]}) by {silence['createdBy'][:30] or 'nobody'}"
    return "".join(
        one if one.isascii() and one.isprintable() and one not in '"\\' else "?" for one in text
    )


def read(settings):
    connection = http.client.HTTPConnection("127.0.0.1", settings["port"], timeout=1.5)
    try:
        connection.request("GET", "/api/v2/silences")
        text = connection.getresponse().read(MOST)
    except (OSError, http.client.HTTPException):
        # That it is unreachable another alert says.
        return
    finally:
        connection.close()
    active = [one for one in json.loads(text) if one["status"]["state"] == "active"]
    yield "active", len(active)
    for one in active:
        yield "until", int(datetime.fromisoformat(one["endsAt"]).timestamp()), words(one)
