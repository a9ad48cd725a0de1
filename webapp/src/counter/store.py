"""The counter in Redis: one INCR a request, never repeated once it may have counted."""

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

from counter.sentinels import PAUSE, Address, NoMasterError, Sentinels
from counter.settings import Settings
from serving.log import Log, describe

# What Redis begins its answer with, beside READONLY, when it has certainly not executed a write.
REFUSALS = ("NOREPLICAS", "MASTERDOWN")
# Seconds: a connection that was not used for so long may lead to what was the master. Less than a
# failover takes.
IDLE_SECONDS = 1.5
# From so many requests in one exchange on the next one waits for those who are just being
# answered, and may ask again: as long as it took, these seconds at most (as PostgreSQL's
# commit_siblings and commit_delay).
GATHER_FROM, GATHER_SECONDS = 4, 0.002
# Seconds: an answer that took longer may come from a master that was frozen, when another one is
# there already and a replica still follows the old one.
SLOW_SECONDS = 0.1


class StoreError(Exception):
    """Redis did not do what was asked. `status` is the HTTP status that tells the client."""

    status = 503
    text = "The counter is not available now.\n"


class StoreAwayError(StoreError):
    """Redis can't be reached, or did not answer in time."""


class StoreRefusedError(StoreError):
    """Redis answered with an error: no permission, read-only, number too large, …."""


class StoreUnconfirmedError(StoreError):
    """Redis counted, and no majority has it: the number may be lost, and so is given to nobody."""


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


class _Share:
    """What one thread asks of :class:`_Together`, for who has waited since each of these."""

    def __init__(self, sinces: list[float]) -> None:
        self.sinces = sinces
        self.answers: list[Any] = []
        # Held until there are answers, or it is this thread's turn to ask for all.
        self.gate = threading.Lock()
        self.gate.acquire()
        self.leads = False


class _Together:
    """One exchange at a time, by one thread for all: what comes meanwhile shares the next one.

    Where each exchange waits for replicas, they cost more than what is in them. So under load there
    is a pause between two: without it those who are being answered and those who wait would take
    turns, half of them in each.
    """

    def __init__(
        self,
        ask: Callable[[list[float]], list[Any]],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ask = ask
        self._sleep = sleep
        self._state = threading.Lock()
        self._is_busy = False
        self._coming: list[_Share] = []
        # Before the next exchange, in seconds; of the thread that has it alone.
        self._pause = 0.0

    def ask(self, sinces: list[float]) -> list[Any]:
        """An answer for each; what the exchange raises, in the thread that had it."""
        share = _Share(sinces)
        with self._state:
            self._coming.append(share)
            share.leads, self._is_busy = not self._is_busy, True
        if not share.leads:
            share.gate.acquire()
        if share.leads:
            if self._pause:
                self._sleep(self._pause)
            self._ask_for_all()
        return share.answers

    def _ask_for_all(self) -> None:
        with self._state:
            shares, self._coming = self._coming, []
        everybody = [since for share in shares for since in share.sinces]
        answers: list[Any] = []
        began = time.monotonic()
        try:
            answers = self._ask(everybody)
        finally:
            took = time.monotonic() - began
            self._pause = min(took, GATHER_SECONDS) if len(everybody) >= GATHER_FROM else 0.0
            # Of an exchange that raised what it never should, nobody knows what it has done.
            answers += [StoreAwayError("no answer") for _ in everybody[len(answers) :]]
            for share in shares:
                count = len(share.sinces)
                share.answers, answers = answers[:count], answers[count:]
            with self._state:
                following = self._coming[0] if self._coming else None
                if following is None:
                    self._is_busy = False
                else:
                    following.leads = True
            for share in shares:
                share.gate.release()
            if following is not None:
                following.gate.release()


class Store:
    """Counts in Redis, from any number of threads, each with a connection of its own.

    A failed command is never sent again: after a timeout nobody knows whether Redis counted,
    and a second INCR could count one request twice. Each command waits at most the connect
    timeout plus the timeout of an answer.

    While Redis is unreachable, one request at a time tries it, one that came after the last try, as
    all did that ask together with it; the others fail at once. Without that, requests would queue
    behind threads that all wait for a frozen Redis, and a client would wait for many timeouts, not
    one.

    With Sentinels, Redis is the master that they name, each number is one that a majority of the
    stores has (WAIT in the same round trip, which requests of all threads share), and what was
    refused because the master moves is sent to the next one, for as long as a planned failover
    takes.
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
        self._sentinels: Sentinels | None = None
        self._patience = settings.redis_failover_seconds
        if settings.redis_sentinels:
            ask = partial(_at, _connections(settings, settings.redis_sentinel_timeout))
            self._sentinels = Sentinels(settings.redis_sentinels, settings.redis_sentinel_name, ask)
        self._mine = threading.local()
        self._all: list[redis.Connection] = []
        pack = self._connect().pack_command
        # Not INCRBY, as redis-py's incr(): an ACL may allow INCR alone.
        self._incr = b"".join(pack("INCR", settings.key))
        self._incr_probe = b"".join(pack("INCR", f"{settings.key}:probe"))
        self._ping = b"".join(pack("PING"))
        self._wait = b""
        self._acknowledgements = 0
        if self._sentinels:
            self._acknowledgements = self._sentinels.acknowledgements
            # Shorter than the answer's timeout, so that it is an answer.
            milliseconds = max(1, int(settings.redis_timeout * 700))
            self._wait = b"".join(pack("WAIT", self._acknowledgements, milliseconds))
        self._count: Callable[[list[float]], list[Any]] = partial(self._ask, self._incr)
        if self._sentinels:
            self._count = _Together(self._count).ask

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
        for answer in self._count(sinces):
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
        if self._sentinels:
            self._sentinels.close()

    def _ask(self, command: bytes, sinces: list[float]) -> list[Any]:
        """Send the packed command for each: its answer, a ResponseError or a StoreError."""
        if self._reachable is not False:
            return self._exchange(command, sinces)
        answers: list[Any] = [StoreAwayError("Redis was unreachable a moment ago") for _ in sinces]
        # Who has waited through a timeout already waits for no other one: not its own, nor that of
        # who asks together with it.
        if min(sinces) > self._last_failure and self._probe.acquire(blocking=False):
            try:
                (answers[0],) = self._exchange(command, sinces[:1])
            finally:
                self._probe.release()
        return answers

    def _exchange(self, command: bytes, sinces: list[float]) -> list[Any]:
        if self._sentinels is None:
            return self._attempt(command, len(sinces))
        deadline = min(sinces) + self._patience
        is_moving = False
        while True:
            answers = self._attempt(command, len(sinces), is_moving)
            is_moving = all(map(_is_passing, answers))
            if not is_moving or time.monotonic() > deadline:
                return answers
            # Nothing was done, and another master is being made.
            time.sleep(PAUSE)

    def _attempt(self, command: bytes, times: int, is_moving: bool = False) -> list[Any]:
        answers: list[Any] = []
        wait = self._wait if command is self._incr else b""
        try:
            connection = self._connection()
            began = time.monotonic()
            connection.send_packed_command([command * times + wait], check_health=False)
            while len(answers) < times:
                answers.append(_answer(connection))
            if wait:
                replicas = _answer(connection)
                is_slow = time.monotonic() - began > SLOW_SECONDS
                if self._sentinels and is_slow and any(isinstance(one, int) for one in answers):
                    self._sentinels.verify(self._mine.address)
                answers = self._confirm(answers, replicas, self._acknowledgements)
            if self._sentinels and any(_is_refusal(answer) for answer in answers):
                connection.disconnect()
            self._mine.used = time.monotonic()
        except (redis.AuthenticationError, redis.ResponseError) as error:
            # While connecting. The first is a ConnectionError in redis-py, but Redis is there and
            # said no.
            self._note(True)
            kind: type[StoreError] = StoreRefusedError
            why = error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            if answers and isinstance(error, NoMasterError):
                # It counted, and may be no master any more.
                self._drop()
                return self._fail_each(StoreUnconfirmedError, error, times)
            if isinstance(error, NoMasterError) and is_moving:
                # Also who names the next master may say nothing for a moment then.
                error.is_passing = True
            if not (isinstance(error, NoMasterError) and error.is_passing):
                self._last_failure = time.monotonic()
                self._writable = False
                self._note(False, error)
            kind = StoreAwayError
            why = error
            if wait:
                # Counted perhaps; that a majority has it, nobody said.
                answers = []
        else:
            self._note(True)
            return answers
        return answers + self._fail_each(kind, why, times - len(answers))

    def _fail_each(self, kind: type[StoreError], why: Exception, times: int) -> list[StoreError]:
        """Each its own, as each is raised by itself."""
        failures = [kind(describe(why)) for _ in range(times)]
        for failure in failures:
            failure.__cause__ = why
        return failures

    def _confirm(self, answers: list[Any], replicas: object, needed: int) -> list[Any]:
        """The answers, those that counted only where enough `replicas` have them: WAIT said so."""
        if isinstance(replicas, int) and replicas >= needed:
            return answers
        why = describe(replicas) if isinstance(replicas, Exception) else f"{replicas} replicas"
        self._drop()
        return [
            StoreUnconfirmedError(f"acknowledged by no majority: {why}")
            if isinstance(answer, int)
            else answer
            for answer in answers
        ]

    def _drop(self) -> None:
        """Close this thread's connection: the next one goes where the Sentinels say."""
        self._mine.connection.disconnect()

    def _connection(self) -> redis.Connection:
        """This thread's connection, open. Raises what redis-py does."""
        connection = getattr(self._mine, "connection", None)
        if self._sentinels:
            connection = self._to_master(connection, self._sentinels)
        if connection is None:
            connection = self._keep(self._connect())
        sock = connection._sock
        if sock is None or self._mine.seen is not sock:
            connection.connect()
        elif self._sentinels and self._mine.poll.poll(0):
            connection.disconnect()
            connection = self._to_master(connection, self._sentinels)
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

    def _keep(self, connection: redis.Connection) -> redis.Connection:
        """Make it this thread's, instead of the one before."""
        with self._state:
            before = getattr(self._mine, "connection", None)
            self._all = [one for one in self._all if one is not before] + [connection]
        if before is not None:
            before.disconnect()
        self._mine.connection, self._mine.seen = connection, None
        self._mine.used = time.monotonic()
        return connection

    def _to_master(
        self, connection: redis.Connection | None, sentinels: Sentinels
    ) -> redis.Connection:
        """This thread's connection to the master; Sentinels are asked unless it was just in use."""
        is_open = connection is not None and connection._sock is not None
        is_fresh = is_open and time.monotonic() - self._mine.used < IDLE_SECONDS
        if connection is not None and is_fresh:
            return connection
        address = sentinels.master()
        if connection is not None and is_open and self._mine.address == address:
            return connection
        self._mine.address = address
        made = self._keep(_at(self._connect, address))
        try:
            made.connect()
            # Again, now that it answers: it may have been frozen, and just be back.
            sentinels.verify(address)
        except Exception:
            made.disconnect()
            raise
        return made

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


def _answer(connection: redis.Connection) -> object:
    """The next answer; an error that Redis answered is one too."""
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _is_refusal(answer: object) -> bool:
    """Whether Redis has certainly done nothing, and another one may."""
    return isinstance(answer, redis.exceptions.ReadOnlyError) or (
        isinstance(answer, redis.ResponseError) and str(answer).startswith(REFUSALS)
    )


def _is_passing(answer: object) -> bool:
    """Whether nothing was done, because the master is being moved."""
    if isinstance(answer, StoreAwayError):
        answer = answer.__cause__
        return isinstance(answer, NoMasterError) and answer.is_passing
    return _is_refusal(answer)


def _at(connect: Callable[..., redis.Connection], address: Address) -> redis.Connection:
    return connect(host=address[0], port=address[1])


def _raise(answer: Exception) -> None:
    if isinstance(answer, redis.ResponseError):
        raise StoreRefusedError(describe(answer)) from answer
    raise answer


def _connections(
    settings: Settings, timeout: float | None = None
) -> Callable[..., redis.Connection]:
    """What makes a connection, not yet open; `timeout` seconds for an answer, if not Redis' own."""
    address = settings.redis
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.user,
        "password": settings.redis_password,
        "socket_timeout": timeout or settings.redis_timeout,
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
