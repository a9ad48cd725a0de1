"""The instances of the application: whether each lives and is ready. Neither question counts."""

import http.client


def status(address, port, path):
    """Status of the answer to GET ``path``; 0 without one within a second and a half."""
    connection = http.client.HTTPConnection(address, port, timeout=1.5)
    try:
        connection.request("GET", path, headers={"User-Agent": "collectd"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def read(settings):
    for name, port in settings["instances"].items():
        alive = status(settings["address"], port, settings["alive"]) == 200
        yield "up", int(alive), name
        # 404: it drains. 503: its store is unreachable.
        ready = alive and status(settings["address"], port, settings["ready"]) == 200
        yield "ready", int(ready), name
