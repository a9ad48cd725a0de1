"""The counter in Redis: one INCR a call, never repeated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from counter.log import Log, describe
from counter.settings import Settings


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


class Store:
    """Counts in Redis, from any number of threads.

    A failed command is never sent again: after a timeout nobody knows whether Redis counted,
    and a second INCR could count one request twice. Each command waits at most the connect
    timeout plus the timeout of an answer.

    While Redis is unreachable, one thread at a time tries it, for a request that came after the
    last try; the others fail at once. Without that, requests would queue behind threads that all
    wait for a frozen Redis, and a client would wait for many timeouts, not one.
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
        self._client = redis.Redis(connection_pool=_pool(settings))

    def increment(self, since: float) -> int:
        """Add one and return the new count, for who has waited since then (`time.monotonic()`).

        Raises StoreAwayError, StoreRefusedError or WrongKeyError. The first may have counted
        nevertheless, if it was the answer that got lost.
        """
        try:
            # Not client.incr(): that sends INCRBY, and an ACL may allow INCR alone.
            seen = int(self._ask(lambda: self._client.execute_command("INCR", self._key), since))
        except redis.ResponseError as error:
            self._writable = False
            message = f"key {self._key}: {describe(error)}"
            if str(error).startswith("WRONGTYPE") or "not an integer" in str(error):
                raise WrongKeyError(message) from error
            raise StoreRefusedError(message) from error
        self._writable = True
        return seen

    def ready(self, since: float) -> None:
        """Return if Redis accepts writes; raise StoreAwayError or StoreRefusedError otherwise.

        PING is answered by a Redis that refuses every write (maxmemory, read-only, too few
        replicas) and by one that ends at each write and is started again (a full disk with
        `appendfsync always`). So at the start, and after a write that failed, this writes until
        one is accepted: to a key of its own, as only `increment` may touch the count.
        """
        if not self._writable:
            try:
                self._ask(lambda: self._client.execute_command("INCR", f"{self._key}:probe"), since)
            except redis.exceptions.NoPermissionError:
                pass  # an ACL without that key: PING has to do
            except redis.ResponseError as error:
                raise StoreRefusedError(describe(error)) from error
            else:
                self._writable = True
                return
        self.ping(since)

    def ping(self, since: float) -> None:
        """Return if Redis answers PING; raise StoreAwayError or StoreRefusedError otherwise.

        `since` as for `increment`.
        """
        try:
            self._ask(lambda: self._client.execute_command("PING"), since)
        except redis.ResponseError as error:
            raise StoreRefusedError(describe(error)) from error

    def close(self) -> None:
        """Close the idle connections."""
        self._client.connection_pool.disconnect()

    def _ask(self, command: Callable[[], object], since: float) -> object:
        probing = False
        if self._reachable is False:
            # Who has waited through a timeout already does not wait for another one.
            if since <= self._last_failure or not self._probe.acquire(blocking=False):
                raise StoreAwayError("Redis was unreachable a moment ago")
            probing = True
        try:
            answer = command()
        except redis.AuthenticationError as error:
            # A subclass of ConnectionError in redis-py, but Redis is there and said no.
            self._note(True)
            raise StoreRefusedError(describe(error)) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._last_failure = time.monotonic()
            self._writable = False
            self._note(False, error)
            raise StoreAwayError(describe(error)) from error
        except redis.ResponseError:
            self._note(True)
            raise
        else:
            self._note(True)
            return answer
        finally:
            if probing:
                self._probe.release()

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


def _pool(settings: Settings) -> redis.ConnectionPool:
    address = settings.redis
    options: dict[str, object] = {
        "db": address.db,
        "username": address.user,
        "password": settings.redis_password,
        "socket_timeout": settings.redis_timeout,
        # redis-py repeats a failed command by default since release 6.
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        # RESP2: no HELLO, and none of the push messages of RESP3, which can make the pool
        # skip its check for a connection that Redis has closed.
        "protocol": 2,
        # No CLIENT SETINFO, so that an ACL needs no more than +incr and +ping.
        "driver_info": None,
        # One for each thread that serves requests.
        "max_connections": settings.threads + 1,
    }
    if address.path is not None:
        options |= {"connection_class": redis.UnixDomainSocketConnection, "path": address.path}
        return redis.ConnectionPool(**options)
    options |= {
        "host": address.host,
        "port": address.port,
        "socket_connect_timeout": settings.redis_connect_timeout,
        "socket_keepalive": True,
    }
    if address.tls:
        options |= {
            "connection_class": redis.SSLConnection,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": settings.redis_ca_file,
            "ssl_certfile": settings.redis_certificate_file,
            "ssl_keyfile": settings.redis_key_file,
        }
    return redis.ConnectionPool(**options)
