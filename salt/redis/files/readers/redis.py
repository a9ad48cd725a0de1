"""
Redis, by a user of its own that may say INFO, PING and read the count: collectd's plugin knows
neither users nor TLS, so it would need the default user to be open.
"""

import contextlib
import socket
import ssl

from reader_clients import call

FIELDS = {
    "connected_clients": "clients",
    "blocked_clients": "blocked_clients",
    "rejected_connections": "rejected",
    "used_memory": "memory_bytes",
    "maxmemory": "memory_limit_bytes",
    "total_commands_processed": "commands",
    "evicted_keys": "evicted",
    "aof_current_size": "aof_bytes",
    "aof_delayed_fsync": "aof_delayed",
    "connected_slaves": "replicas",
    "master_repl_offset": "replication_offset",
    "uptime_in_seconds": "uptime_seconds",
}
# 1 when the field says so.
STATES = {
    "aof_last_write_status": ("aof_write_ok", "ok"),
    "aof_last_bgrewrite_status": ("aof_rewrite_ok", "ok"),
    "aof_enabled": ("aof_enabled", "1"),
    "role": ("master", "master"),
    # Of a replica only.
    "master_link_status": ("link_up", "up"),
}


def parse(info):
    """`{field: value}` of the text that INFO answers."""
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


@contextlib.contextmanager
def connected(settings):
    with socket.create_connection((settings["address"], settings["port"]), 3) as link:
        if "tls" not in settings:
            yield link
            return
        files = settings["tls"]
        context = ssl.create_default_context(cafile=files["ca"])
        context.load_cert_chain(files["certificate"], files["key"])
        with context.wrap_socket(link, server_hostname=settings["address"]) as secured:
            yield secured


def read(settings):
    with open(settings["password"], encoding="utf-8") as file:
        secret = file.read()
    try:
        with connected(settings) as link:
            stream = link.makefile("rwb")
            call(stream, "AUTH", settings["user"], secret)
            found = parse(call(stream, "INFO", "everything"))
            count = call(stream, "GET", settings["count"])
    # Not refused, but away, frozen or loading: that is what it is like. A refused password is the
    # reader's own trouble.
    except OSError:
        yield "up", 0
        return
    except RuntimeError as error:
        if str(error).startswith(("LOADING", "MASTERDOWN", "BUSY")):
            yield "up", 0
            return
        raise
    yield "up", 1
    yield "count", int(count or 0)
    for field, metric in FIELDS.items():
        if field in found:
            yield metric, int(found[field])
    for field, (metric, good) in STATES.items():
        if field in found:
            yield metric, int(found[field] == good)
