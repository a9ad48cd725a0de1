"""The threads that serve requests."""

from __future__ import annotations

import logging
from queue import SimpleQueue
from threading import Thread

from counter.channel import Channel
from counter.store import Store


class Dispatcher:
    """Serves what came in one turn of the main loop by one thread.

    Of several requests it serves those first that do not count, then all that do: their increments
    are one round trip to Redis, and one flush of its file.
    """

    def __init__(self, threads: int, store: Store) -> None:
        self._store = store
        self._queue = SimpleQueue[list[Channel] | None]()
        self._threads = threads
        for number in range(threads):
            Thread(target=self._work, name=f"waitress-{number}", daemon=True).start()

    def add(self, channels: list[Channel]) -> None:
        """Serve the first request of each."""
        self._queue.put(channels)

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
        counting = [channel for channel in channels if channel.will_count()]
        if len(counting) > 1:
            for channel in channels:
                if channel not in counting:
                    channel.service()
            together = self._store.increments([one.requests[0].arrival for one in counting])
            for channel in counting:
                channel.increments = together
            channels = counting
        for channel in channels:
            channel.service()
