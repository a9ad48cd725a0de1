"""The threads that serve requests."""

from __future__ import annotations

import logging
from queue import SimpleQueue
from threading import Thread

from serving.application import Batch
from serving.channel import Channel


class Dispatcher:
    """Serves requests by threads.

    With a `batch`, one thread serves what came in one turn of the main loop: of several requests
    those first that do not join it, then all that do, which share what it begins for them.
    """

    def __init__(self, threads: int, batch: Batch | None = None) -> None:
        self._batch = batch
        self._queue = SimpleQueue[list[Channel] | None]()
        self._threads = threads
        for number in range(threads):
            Thread(target=self._work, name=f"waitress-{number}", daemon=True).start()

    def add(self, channels: list[Channel]) -> None:
        """Serve the first request of each."""
        if self._batch is not None:
            self._queue.put(channels)
            return
        for channel in channels:
            self._queue.put([channel])

    def stop(self) -> None:
        """Let every thread end when it is done."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _work(self) -> None:
        while (channels := self._queue.get()) is not None:
            try:
                self._serve(channels)
            except Exception:
                logging.getLogger("thread").exception("exception while serving")

    def _serve(self, channels: list[Channel]) -> None:
        batch = self._batch
        if batch is not None and len(channels) > 1:
            joining = [channel for channel in channels if channel.joins(batch)]
            if len(joining) > 1:
                for channel in channels:
                    if channel not in joining:
                        channel.service()
                shared = batch.begin([one.requests[0].arrival for one in joining])
                for channel in joining:
                    channel.batch = shared
                channels = joining
        for channel in channels:
            channel.service()
