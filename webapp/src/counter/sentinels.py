"""Which Redis is the master: what a majority of Sentinels says, and nobody else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import redis

Address = tuple[str, int]
UNFIT = {"s_down", "o_down", "disconnected"}
# Seconds, at most, for which Sentinels are asked again when fewer than a majority answered: each
# writes its file to disk at every step of a failover, and says nothing meanwhile.
PATIENCE = 0.5
# Seconds between two questions.
PAUSE = 0.02


class NoMasterError(redis.ConnectionError):
    """No majority names a master. `is_passing`: a failover is under way, so there soon is one."""

    def __init__(self, why: str, is_passing: bool = False) -> None:
        super().__init__(why)
        self.is_passing = is_passing


class Sentinels:
    """
    All Sentinels, each with one kept connection, asked together.

    One answer would not do: a Sentinel that was cut off names the old master. Nor does a majority
    while one leads a failover, or has led one and fallen silent: there may be a new master that
    only this leader knows, and the old one, thawed, may still have a replica that acknowledges. So
    each is asked each time, also who was silent just before: it may be back, and be that leader.
    Who names a master of a later epoch than the majority's has ended one that they do not know.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        name: str,
        connect: Callable[[Address], redis.Connection],
    ) -> None:
        self._all = [connect(address) for address in addresses]
        # Of a failover that a Sentinel was heard to lead, and not to have ended: until when it may
        # last, and the epoch of its master.
        self._leads: dict[int, tuple[float, int]] = {}
        self._majority = len(addresses) // 2 + 1
        pack = self._all[0].pack_command
        asked = ("MASTER", "GET-MASTER-ADDR-BY-NAME")
        self._question = b"".join(b"".join(pack("SENTINEL", one, name)) for one in asked)
        self._lock = threading.Lock()
        # When they were last asked, and what came of it.
        self._began = 0.0
        self._outcome: Address | NoMasterError = NoMasterError("not asked yet")

    @property
    def acknowledgements(self) -> int:
        """Replicas that make a majority together with the master."""
        return self._majority - 1

    def master(self) -> Address:
        """
        Its address, as asked after this was called: by this thread, or by another one that it
        waited for. Raises NoMasterError.
        """
        called = time.monotonic()
        with self._lock:
            if self._began <= called:
                began = time.monotonic()
                # Both or none: a question that failed otherwise must not make the answer before
                # look like its own.
                self._began, self._outcome = began, self._ask_or_error(began + PATIENCE)
            outcome = self._outcome
        if isinstance(outcome, NoMasterError):
            raise NoMasterError(str(outcome), outcome.is_passing)
        return outcome

    def verify(self, address: Address) -> None:
        """Return if that is the master at this moment; raises NoMasterError otherwise."""
        if (master := self.master()) != address:
            host, port = master
            raise NoMasterError(f"the master has moved to {host}:{port}", is_passing=True)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._all:
            connection.disconnect()

    def _ask_or_error(self, deadline: float) -> Address | NoMasterError:
        while True:
            answers = self._ask()
            if len(answers) >= self._majority or time.monotonic() > deadline:
                break
            time.sleep(PAUSE)
        try:
            return self._judge(answers)
        except NoMasterError as error:
            return error

    def _ask(self) -> dict[int, tuple[dict[str, str], Address]]:
        asked = [one for one in enumerate(self._all) if self._send(one[1])]
        # All of them: an answer that is not read now would be taken for the next one's.
        answers = {number: self._read(connection) for number, connection in asked}
        return {number: answer for number, answer in answers.items() if answer is not None}

    def _judge(self, answers: dict[int, tuple[dict[str, str], Address]]) -> Address:
        votes: Counter[Address] = Counter()
        epochs: dict[Address, int] = {}
        now = time.monotonic()
        is_passing = False
        for number, (state, named) in answers.items():
            flags = set(state.get("flags", "disconnected").split(","))
            epoch = int(state.get("config-epoch", 0))
            self._leads.pop(number, None)
            if "failover_in_progress" in flags:
                is_passing = True
                has_promoted = named != (state["ip"], int(state["port"]))
                until = now + int(state["failover-timeout"]) / 1000
                self._leads[number] = until, epoch + (not has_promoted)
                if has_promoted:
                    # This one; it makes the others follow.
                    return named
            epochs[named] = max(epochs.get(named, 0), epoch)
            if not flags & UNFIT and state.get("role-reported") == "master":
                votes[state["ip"], int(state["port"])] += 1
        if is_passing:
            raise NoMasterError("a failover is in progress", is_passing=True)
        for address, count in votes.items():
            if count >= self._majority:
                if epochs[address] < max(epochs.values()):
                    raise NoMasterError("a failover is not known to all yet", is_passing=True)
                if any(until > now and epochs[address] < of for until, of in self._leads.values()):
                    raise NoMasterError("who led a failover is silent", is_passing=True)
                return address
        raise NoMasterError(
            f"no majority of Sentinels names a master: {len(answers)} of {len(self._all)} answered"
        )

    def _send(self, connection: redis.Connection) -> bool:
        try:
            if connection._sock is not None and connection.can_read(0):
                # Closed meanwhile, or an answer that came too late.
                connection.disconnect()
            if connection._sock is None:
                connection.connect()
            connection.send_packed_command([self._question], check_health=False)
        except (redis.RedisError, OSError):
            connection.disconnect()
            return False
        return True

    def _read(self, connection: redis.Connection) -> tuple[dict[str, str], Address] | None:
        """What it knows of the master, and the address that it names; None: it did not answer."""
        try:
            state, (host, port) = connection.read_response(), connection.read_response()
        except (redis.RedisError, OSError, TypeError):
            connection.disconnect()
            return None
        words = [_text(one) for one in state]
        return dict(zip(words[::2], words[1::2], strict=True)), (_text(host), int(port))


def _text(word: bytes | str) -> str:
    return word.decode() if isinstance(word, bytes) else word
