"""The threads that serve requests."""

from __future__ import annotations

import logging
from queue import SimpleQueue
from threading import Lock, Thread

from serving.application import Batch
from serving.channel import Channel


class Dispatcher:
    """Serves requests by threads.

    With a `batch`, one thread serves all that join it of what has come since the last thread
    looked, and they share what it begins for them; any other request is served by itself.
    """

    def __init__(self, threads: int, batch: Batch | None = None) -> None:
        self._batch = batch
        # A request to serve by itself; an empty list: look whether there are some that join.
        self._queue = SimpleQueue[list[Channel] | None]()
        self._joining: list[Channel] = []
        self._lock = Lock()
        self._threads = threads
        for number in range(threads):
            Thread(target=self._work, name=f"waitress-{number}", daemon=True).start()

    def add(self, channels: list[Channel]) -> None:
        """Serve the first request of each."""
        joining = []
        for channel in channels:
            if self._joins(channel):
                joining.append(channel)
            else:
                self._queue.put([channel])
        if joining:
            with self._lock:
                self._joining += joining
            self._queue.put([])

    def _joins(self, channel: Channel) -> bool:
        if self._batch is None:
            return False
        try:
            return channel.joins(self._batch)
        except Exception:
            # The application's own mistake, and this is the thread of the main loop.
            logging.getLogger("thread").exception("exception while asking whether a request joins")
            return False

    def stop(self) -> None:
        """Let every thread end when it is done."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _work(self) -> None:
        while (channels := self._queue.get()) is not None:
            try:
                self._serve(channels or self._take())
            except Exception:
                logging.getLogger("thread").exception("exception while serving")

    def _take(self) -> list[Channel]:
        with self._lock:
            channels, self._joining = self._joining, []
        return channels

    def _serve(self, channels: list[Channel]) -> None:
        if self._batch is not None and len(channels) > 1:
            shared = self._batch.begin([one.requests[0].arrival for one in channels])
            for channel in channels:
                channel.batch = shared
        for channel in channels:
            channel.service()
