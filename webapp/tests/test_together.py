"""Threads whose requests share one exchange with the store: who is answered what, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from counter.store import GATHER_FROM, GATHER_SECONDS, StoreAwayError, _Together
from support import wait_for


class Slow:
    """A store that counts, and answers each exchange when it is told to."""

    def __init__(self) -> None:
        self.exchanges: list[list[float]] = []
        self.may_answer = threading.Semaphore(0)
        self.fails = False
        self.count = 0
        self.pauses: list[float] = []
        # What happens in a pause.
        self.meanwhile: Callable[[], None] = lambda: None
        self.together = _Together(self.exchange, self.pause)
        self.answers: dict[int, list[Any]] = {}
        self.raised: list[Exception] = []
        self.threads: list[threading.Thread] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.meanwhile()

    def exchange(self, sinces: list[float]) -> list[Any]:
        self.exchanges.append(sinces)
        self.may_answer.acquire()
        if self.fails:
            raise RuntimeError("a mistake of ours")
        first, self.count = self.count + 1, self.count + len(sinces)
        return list(range(first, self.count + 1))

    def ask(self, which: int, times: int = 1) -> None:
        """One more thread asks so many times in one call, with the first exchange on its way."""
        self.start(which, times)
        wait_for(lambda: len(self.exchanges) == 1, "the first is on its way")
        wait_for(lambda: self.seen() == len(self.threads), "it waits")

    def start(self, which: int, times: int = 1) -> None:

        def ask() -> None:
            try:
                self.answers[which] = self.together.ask([float(which)] * times)
            except RuntimeError as error:
                self.raised.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        self.threads.append(thread)

    def seen(self) -> int:
        return len(self.together._coming) + 1

    def end(self, exchanges: int) -> None:
        for _ in range(exchanges):
            self.may_answer.release()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def test_what_comes_during_an_exchange_shares_the_next_one() -> None:
    slow = Slow()
    for which in range(6):
        slow.ask(which, times=which % 3 + 1)
    slow.end(exchanges=2)
    assert slow.exchanges == [[0.0], [1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5]]
    # Each has its own, as many as it asked for, and nobody another's.
    assert [len(slow.answers[which]) for which in range(6)] == [1, 2, 3, 1, 2, 3]
    assert sorted(chain.from_iterable(slow.answers.values())) == list(range(1, 13))
    # Whoever comes then is the first again.
    slow.may_answer.release()
    assert slow.together.ask([9.0]) == [13]


def test_after_an_exchange_of_many_those_who_were_answered_share_the_next() -> None:
    """Else they and those who waited take turns, half of them in each exchange."""
    slow = Slow()
    slow.ask(0)
    for which in range(1, 1 + GATHER_FROM):
        slow.ask(which)
    slow.may_answer.release()
    wait_for(lambda: len(slow.exchanges) == 2, "those who waited are on their way")
    assert slow.pauses == [], "the one before had one alone"
    slow.start(8)
    wait_for(lambda: slow.seen() == 2, "it waits")

    def come_again() -> None:
        slow.start(9)
        wait_for(lambda: slow.seen() == 3, "it shares the next one")

    slow.meanwhile = come_again
    slow.end(exchanges=2)
    assert slow.exchanges == [[0.0], [1, 2, 3, 4], [8, 9]]
    (pause,) = slow.pauses
    assert 0 < pause <= GATHER_SECONDS
    # The last one had few: whoever comes now is not kept.
    slow.may_answer.release()
    assert slow.together.ask([10.0]) == [8]
    assert slow.pauses == [pause]


def test_a_mistake_in_an_exchange_leaves_nobody_waiting() -> None:
    slow = Slow()
    for which in range(4):
        slow.ask(which)
    slow.fails = True
    slow.end(exchanges=2)
    assert len(slow.raised) == 2, "those who had the exchanges"
    assert len(slow.answers) == 2
    for (answer,) in slow.answers.values():
        assert isinstance(answer, StoreAwayError)
    slow.fails = False
    slow.may_answer.release()
    assert slow.together.ask([9.0]) == [1]


@pytest.mark.parametrize("threads", [2, 16])
def test_no_answer_is_given_twice_or_lost_between_threads(threads: int) -> None:
    count = 0

    def exchange(sinces: list[float]) -> list[int]:
        nonlocal count
        before, count = count, count + len(sinces)
        return list(range(before + 1, count + 1))

    together = _Together(exchange)
    given: list[list[int]] = [[] for _ in range(threads)]

    def ask(mine: list[int]) -> None:
        for number in range(300):
            mine += together.ask([0.0] * (number % 3 + 1))

    workers = [threading.Thread(target=ask, args=[mine]) for mine in given]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert sorted(chain.from_iterable(given)) == list(range(1, threads * 600 + 1))
