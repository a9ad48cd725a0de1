"""Which requests one thread serves together."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from serving.dispatcher import Dispatcher
from support import wait_for


class Batch:
    """Notes what was begun together."""

    def __init__(self) -> None:
        self.begun: list[list[float]] = []

    def joins(self, method: str, target: str) -> bool:
        if target == "/mistake":
            raise RuntimeError("the application's")
        return target == "/"

    def begin(self, arrivals: list[float]) -> object:
        self.begun.append(arrivals)
        return len(self.begun)


class Channel:
    """A connection with one request, which is served when it may be."""

    def __init__(self, arrival: float, target: str = "/", *, may: bool = True) -> None:
        self.requests = [SimpleNamespace(arrival=arrival)]
        self.target = target
        self.batch: Any = None
        self.shared: Any = None
        self.may = threading.Event()
        self.served = threading.Event()
        if may:
            self.may.set()

    def joins(self, batch: Batch) -> bool:
        return batch.joins("GET", self.target)

    def service(self) -> None:
        assert self.may.wait(30)
        self.shared = self.batch
        self.served.set()


@pytest.fixture
def batch() -> Batch:
    return Batch()


def test_all_that_came_while_every_thread_was_busy_share_one_batch(batch: Batch) -> None:
    dispatcher = Dispatcher(1, batch)
    try:
        busy = Channel(0, "/slow", may=False)
        # One turn of the main loop each, but for the last two.
        turns = [[Channel(1)], [Channel(2), Channel(3, "/other")], [Channel(4), Channel(5)]]
        for channels in ([busy], *turns):
            dispatcher.add(channels)
        busy.may.set()
        served = [one for channels in turns for one in channels]
        for channel in served:
            wait_for(channel.served.is_set, "served")
        assert batch.begun == [[1, 2, 4, 5]]
        assert [one.shared for one in served] == [1, 1, None, 1, 1]
        assert busy.shared is None
        # Alone, it begins nothing.
        last = Channel(6)
        dispatcher.add([last])
        wait_for(last.served.is_set, "served")
        assert len(batch.begun) == 1
        assert last.shared is None
    finally:
        dispatcher.stop()


def test_a_mistake_of_the_application_costs_the_sharing_alone(batch: Batch) -> None:
    dispatcher = Dispatcher(1, batch)
    try:
        channels = [Channel(1, "/mistake"), Channel(2)]
        dispatcher.add(channels)
        for channel in channels:
            wait_for(channel.served.is_set, "served")
    finally:
        dispatcher.stop()


def test_without_a_batch_each_is_served_by_itself() -> None:
    dispatcher = Dispatcher(2)
    try:
        first, second = Channel(1, may=False), Channel(2)
        dispatcher.add([first, second])
        wait_for(second.served.is_set, "served by the other thread")
        first.may.set()
        wait_for(first.served.is_set, "served")
    finally:
        dispatcher.stop()
