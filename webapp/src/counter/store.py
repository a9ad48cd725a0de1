"""The counter in Redis: one INCR a request, never repeated."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from counter.settings import Settings
from serving.log import Log, describe


class StoreError(Exception):
    """Redis did not do what was asked. `status` is the HTTP status that tells the client."""

    status = 503
    text = "The counter is not available now.\n"


class StoreAwayError(StoreError):
    """Redis can't be reached, or did not answer in time."""


class StoreRefusedError(StoreError):
    """Redis answered with an error: no permission, read-only, number too large, …."""


class WrongKeyError(StoreError):
    """The key holds something that is not a number; a person must look at it."""

    status = 500
    text = "The counter is damaged.\n"


class Increments:
    """One INCR for each of several requests; all are sent when the first one takes its number."""

    def __init__(self, store: Store, sinces: list[float]) -> None:
        self._store = store
        self._sinces = sinces
        self._results: Iterator[int | Exception] | None = None

    def take(self) -> int:
        """The next one's new count; raises the error that is its own, as `Store.increment`."""
        if self._results is None:
            self._results = iter(self._store.increment_each(self._sinces))
        result = next(self._results)
        if isinstance(result, Exception):
            raise result
        return result


class Store:
    """Counts in Redis, from any number of threads, each with a connection of its own.

    A failed command is never sent again: after a timeout nobody knows whether Redis counted,
    and a second INCR could count one request twice. Each command waits at most the connect
    timeout plus the timeout of an answer.

    While Redis is unreachable, one request at a time tries it, one that came after the last try;
    the others fail at once. Without that, requests would queue behind threads that all wait for a
    frozen Redis, and a client would wait for many timeouts, not one.
    """

    def __init__(self, settings: Settings, log: Log) -> None:
        self._key = settings.key
        self._log = log
        self._reachable: bool | None = None
        # Whether the last write was accepted; not known at the start.
        self._writable = False
        self._probe = threading.Lock()
        self._last_failure = 0.0
        self._state = threading.Lock()
        self._connect = _connections(settings)
        self._mine = threading.local()
        self._all: list[redis.Connection] = []
        pack = self._connect().pack_command
        # Not INCRBY, as redis-py's incr(): an ACL may allow INCR alone.
        self._incr = b"".join(pack("INCR", settings.key))
        self._incr_probe = b"".join(pack("INCR", f"{settings.key}:probe"))
        self._ping = b"".join(pack("PING"))

    def increment(self, since: float) -> int:
        """Add one and return the new count, for who has waited since then (`time.monotonic()`).

        Raises StoreAwayError, StoreRefusedError or WrongKeyError. The first may have counted
        nevertheless, if it was the answer that got lost.
        """
        return self.increments([since]).take()

    def increments(self, sinces: list[float]) -> Increments:
        """As many times `increment`, in one round trip, for who has waited since each of these."""
        return Increments(self, sinces)

    def increment_each(self, sinces: list[float]) -> list[int | Exception]:
        """Add one for each, in one round trip: its new count, or what `increment` would raise."""
        results: list[int | Exception] = []
        for answer in self._ask(self._incr, sinces):
            if isinstance(answer, int):
                self._writable = True
                results.append(answer)
            elif isinstance(answer, redis.ResponseError):
                self._writable = False
                message = f"key {self._key}: {describe(answer)}"
                wrong = str(answer).startswith("WRONGTYPE") or "not an integer" in str(answer)
                results.append(WrongKeyError(message) if wrong else StoreRefusedError(message))
            else:
                results.append(answer)
        return results

    def ready(self, since: float) -> None:
        """Return if Redis accepts writes; raise StoreAwayError or StoreRefusedError otherwise.

        PING is answered by a Redis that refuses every write (maxmemory, read-only, too few
        replicas) and by one that ends at each write and is started again (a full disk with
        `appendfsync always`). So at the start, and after a write that failed, this writes until
        one is accepted: to a key of its own, as only `increment` may touch the count.
        """
        if not self._writable:
            (answer,) = self._ask(self._incr_probe, [since])
            if isinstance(answer, int):
                self._writable = True
                return
            # An ACL without that key: PING has to do.
            if not isinstance(answer, redis.exceptions.NoPermissionError):
                _raise(answer)
        self.ping(since)

    def ping(self, since: float) -> None:
        """Return if Redis answers PING; raise StoreAwayError or StoreRefusedError otherwise.

        `since` as for `increment`.
        """
        (answer,) = self._ask(self._ping, [since])
        if isinstance(answer, Exception):
            _raise(answer)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._all:
            connection.disconnect()

    def _ask(self, command: bytes, sinces: list[float]) -> list[Any]:
        """Send the packed command for each: its answer, a ResponseError or a StoreError."""
        if self._reachable is not False:
            return self._exchange(command, len(sinces))
        answers: list[Any] = [StoreAwayError("Redis was unreachable a moment ago") for _ in sinces]
        # Who has waited through a timeout already does not wait for another one.
        fresh = [number for number, since in enumerate(sinces) if since > self._last_failure]
        if fresh and self._probe.acquire(blocking=False):
            try:
                (answers[fresh[0]],) = self._exchange(command, 1)
            finally:
                self._probe.release()
        return answers

    def _exchange(self, command: bytes, times: int) -> list[Any]:
        answers: list[Any] = []
        try:
            connection = self._connection()
            connection.send_packed_command([command * times], check_health=False)
            while len(answers) < times:
                try:
                    answers.append(connection.read_response())
                except redis.ResponseError as error:
                    answers.append(error)
        except (redis.AuthenticationError, redis.ResponseError) as error:
            # While connecting. The first is a ConnectionError in redis-py, but Redis is there and
            # said no.
            self._note(True)
            kind: type[StoreError] = StoreRefusedError
            why = describe(error)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._last_failure = time.monotonic()
            self._writable = False
            self._note(False, error)
            kind = StoreAwayError
            why = describe(error)
        else:
            self._note(True)
            return answers
        # Each its own, as each is raised by itself.
        return answers + [kind(why) for _ in range(times - len(answers))]

    def _connection(self) -> redis.Connection:
        """This thread's connection, open. Raises what redis-py does."""
        connection = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._connect()
            self._mine.seen = None
            with self._state:
                self._all.append(connection)
        sock = connection._sock
        if sock is None or self._mine.seen is not sock:
            connection.connect()
        elif self._mine.poll.poll(0):
            # Closed by Redis, or an answer that came too late: nothing is due on it.
            connection.disconnect()
            connection.connect()
        else:
            return connection
        self._mine.seen = sock = connection._sock
        self._mine.poll = select.poll()
        self._mine.poll.register(sock, select.POLLIN)
        return connection

    def _note(self, reachable: bool, error: Exception | None = None) -> None:
        """Log that Redis became unreachable or came back, once for each change."""
        if reachable is self._reachable:
            return
        with self._state:
            before, self._reachable = self._reachable, reachable
        if error is not None and before is not False:
            self._log.write("error", "redis_unreachable", error=describe(error))
        elif reachable and before is not True:
            self._log.write("info", "redis_recovered" if before is False else "redis_connected")


def _raise(answer: Exception) -> None:
    if isinstance(answer, redis.ResponseError):
        raise StoreRefusedError(describe(answer)) from answer
    raise answer


def _connections(settings: Settings) -> Callable[[], redis.Connection]:
    """What makes a connection, not yet open."""
    address = settings.redis
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.user,
        "password": settings.redis_password,
        "socket_timeout": settings.redis_timeout,
        # redis-py repeats a failed command by default since release 6.
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        # RESP2: no HELLO, and none of the push messages of RESP3.
        "protocol": 2,
        # No CLIENT SETINFO, so that an ACL needs no more than +incr and +ping.
        "driver_info": None,
    }
    if address.path is not None:
        return partial(redis.UnixDomainSocketConnection, path=address.path, **options)
    options |= {
        "host": address.host,
        "port": address.port,
        "socket_connect_timeout": settings.redis_connect_timeout,
        "socket_keepalive": True,
    }
    if not address.tls:
        return partial(redis.Connection, **options)
    return partial(
        redis.SSLConnection,
        ssl_cert_reqs="required",
        ssl_check_hostname=True,
        ssl_ca_certs=settings.redis_ca_file,
        ssl_certfile=settings.redis_certificate_file,
        ssl_keyfile=settings.redis_key_file,
        **options,
    )
