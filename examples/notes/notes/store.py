"""Notes and sessions in Redis.

Keys, all below `notes:` : `notes:session:ID` (a list of notes, gone a day after its last use),
`notes:files:ID` (a hash of uploads), `notes:events` (a channel).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

DAY = 86400
NOTES = 100
FILES = 10


def connect() -> redis.Redis:
    """A client, set up by REDIS_URL, REDIS_PASSWORD_FILE and, with TLS, REDIS_CA_FILE,
    REDIS_CERTIFICATE_FILE, REDIS_KEY_FILE."""
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
    options: dict[str, Any] = {"socket_timeout": 2, "socket_connect_timeout": 1}
    if file := os.environ.get("REDIS_PASSWORD_FILE"):
        options["password"] = Path(file).read_text(encoding="utf-8").rstrip("\n")
    if url.startswith("rediss://"):
        for option, name in (
            ("ssl_ca_certs", "CA"),
            ("ssl_certfile", "CERTIFICATE"),
            ("ssl_keyfile", "KEY"),
        ):
            if file := os.environ.get(f"REDIS_{name}_FILE"):
                options[option] = file
    return redis.Redis.from_url(url, driver_info=None, protocol=2, **options)


class Notes:
    """The notes of all sessions. Every method raises redis.RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def ready(self) -> None:
        """Return if Redis answers."""
        self._redis.ping()

    def add(self, session: str, text: str) -> None:
        """Add a note, and tell those who listen; the oldest above NOTES go."""
        note = json.dumps({"at": int(time.time()), "text": text})
        key = f"notes:session:{session}"
        with self._redis.pipeline() as pipe:
            pipe.rpush(key, note).ltrim(key, -NOTES, -1).expire(key, DAY)
            pipe.publish("notes:events", json.dumps({"session": session}))
            pipe.execute()

    def all(self, session: str) -> list[dict[str, Any]]:
        """The notes of a session, oldest first."""
        return [json.loads(note) for note in self._redis.lrange(f"notes:session:{session}", 0, -1)]

    def keep(self, session: str, name: str, content: bytes) -> bool:
        """Keep an upload; False if there are FILES already."""
        key = f"notes:files:{session}"
        if self._redis.hlen(key) >= FILES and not self._redis.hexists(key, name):
            return False
        with self._redis.pipeline() as pipe:
            pipe.hset(key, name, content).expire(key, DAY).execute()
        return True

    def file(self, session: str, name: str) -> bytes | None:
        """An upload."""
        return self._redis.hget(f"notes:files:{session}", name)

    def listen(self, session: str) -> Iterator[bool]:
        """True for each new note of the session; False when a second has passed without one."""
        with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("notes:events")
            while True:
                message = channel.get_message(timeout=1)
                yield message is not None and json.loads(message["data"])["session"] == session
