"""One connection: waitress' channel, which stays watched between two requests.

waitress polls every connection anew in each turn of its main loop, and wakes that loop for each
answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

from waitress import wasyncore
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.task import Task as AnyTask
from waitress.utilities import InternalServerError

from serving.application import Batch
from serving.http import MalformedTask, Parser, Task

# A connection that was used or opened a moment ago may have its next request on the way: closing
# it would lose that one. After this long without any, it counts as idle.
QUIET_SECONDS = 1.0


class Channel(HTTPChannel):
    """One connection, which knows whether closing it would cut something off.

    It belongs to the main loop, but while it has a request that a thread serves (`requests` is not
    empty). `watched` is what epoll is told to look for.
    """

    parser_class = Parser
    task_class = Task
    error_task_class = MalformedTask
    # What its request shares with others, while it is served (Dispatcher).
    batch: object = None
    watched = 0

    def has_more(self) -> bool:
        """Is there more than the request being served: queued, half read, or still unread?"""
        return len(self.requests) > 1 or self.request is not None or self._unread()

    def is_idle(self, now: float) -> bool:
        """Could it be closed without losing anything? `now` is a time.time()."""
        busy = self.requests or self.request is not None or self.total_outbufs_len
        return not busy and now - self.last_activity >= QUIET_SECONDS and not self._unread()

    def _unread(self) -> bool:
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    # --- in the main loop -----------------------------------------------------------------------

    def add_channel(self, map: dict[int, Any] | None = None) -> None:
        """Begin to watch it."""
        super().add_channel(map)
        self.server.epoll.register(self._fileno, select.EPOLLIN)
        self.watched = select.EPOLLIN

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        """Watch it no longer."""
        self._watch(0)
        super().del_channel(map)

    def on_events(self, events: int) -> None:
        """Handle what epoll saw."""
        with self.requests_lock:
            if self.requests:
                # More comes, or the client went away, while a thread serves it: later.
                self._watch(0)
                return
        wasyncore.readwrite(self, events)
        self.settle()

    def settle(self) -> None:
        """Send what is left, close if that is due, and watch it for what it needs next."""
        if self._fileno is None:
            return
        if self.writable():
            self.handle_write_event()
            if self._fileno is None:
                return
        with self.requests_lock:
            if self.requests and not self.total_outbufs_len:
                return
            wanted = select.EPOLLIN if self.readable() else 0
            self._watch(wanted | (select.EPOLLOUT if self.writable() else 0))

    def _watch(self, wanted: int) -> None:
        if wanted == self.watched or self._fileno is None:
            return
        epoll = self.server.epoll
        if not wanted:
            # Told of nothing, epoll would still tell of errors, again and again.
            epoll.unregister(self._fileno)
        elif self.watched:
            epoll.modify(self._fileno, wanted)
        else:
            epoll.register(self._fileno, wanted)
        self.watched = wanted

    # --- in a thread ----------------------------------------------------------------------------

    def joins(self, batch: Batch) -> bool:
        """Does its first request join the batch?"""
        request = self.requests[0]
        if request.error is not None or not self.connected:
            return False
        return batch.joins(request.command, request.request_uri)

    def write_soon(self, data: object) -> int:
        """Send at once what the socket takes; leave the rest to waitress."""
        with self.outbuf_lock:
            if not self.connected:
                raise ClientDisconnected
            if not self.total_outbufs_len and isinstance(data, bytes):
                try:
                    sent = self.socket.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    # The client went away: what makes a long answer must not go on.
                    self.will_close = True
                    raise ClientDisconnected from None
                if sent == len(data):
                    return sent
                data = data[sent:]
        return int(super().write_soon(data))

    def service(self) -> None:
        """Serve the first request; wake the main loop only if there is something for it to do."""
        request = self.requests[0]
        task = (self.error_task_class if request.error else self.task_class)(self, request)
        try:
            if self.connected:
                task.service()
            else:
                task.close_on_finish = True
        except ClientDisconnected:
            task.close_on_finish = True
        except Exception:
            self.logger.exception("exception while serving %s", request.path)
            self._answer_failure(task)
        self.last_activity = time.time()
        self.batch = None
        more = False
        with self.requests_lock:
            if task.close_on_finish:
                self.close_when_flushed = True
                for left in self.requests:
                    left.close()
                self.requests = []
            else:
                request.close()
                self.requests.pop(0)
                more = bool(self.connected and self.requests)
                if self._wants_continue() and not more:
                    self.send_continue()
            waits = (
                self.watched != select.EPOLLIN
                or self.will_close
                or self.close_when_flushed
                or self.total_outbufs_len
            )
        if more:
            self.server.task_dispatcher.add([self])
        if waits and self.connected:
            self.server.attend(self)

    def _wants_continue(self) -> bool:
        """Does a request whose head has come wait to be told to send its body?"""
        request = self.request
        return bool(
            self.connected
            and request is not None
            and request.expect_continue
            and request.headers_finished
            and not self.sent_continue
        )

    def _answer_failure(self, task: AnyTask) -> None:
        task.close_on_finish = True
        if task.wrote_header:
            return
        request = self.parser_class(self.adj)
        request.error = InternalServerError("")
        with contextlib.suppress(ClientDisconnected):
            self.error_task_class(self, request).service()
