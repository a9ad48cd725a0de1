"""Tell systemd how the service is: the protocol of sd_notify(3), without a library."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends state to the socket in NOTIFY_SOCKET; does nothing where there is none.

    Sending never raises and never blocks: a service manager that is unreachable or busy must not
    disturb requests.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            # "@" stands for the zero byte of Linux' abstract namespace.
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.watchdog_interval = self._watchdog_interval(environ)
        self._next_watchdog = 0.0

    def _watchdog_interval(self, environ: Mapping[str, str]) -> float | None:
        """Seconds between two signs of life, half of what systemd allows; None without one."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        meant_for = environ.get("WATCHDOG_PID", "")
        if self._socket is None or not microseconds.isdigit() or int(microseconds) == 0:
            return None
        if meant_for and meant_for != str(os.getpid()):
            return None
        return int(microseconds) / 2e6

    def send(self, *assignments: str) -> None:
        """Send `READY=1`, `STATUS=…` and the like in one datagram."""
        if self._socket is not None:
            try:
                self._socket.sendto("\n".join(assignments).encode(), self._address)
            except OSError:
                return

    def watchdog(self) -> None:
        """Send a sign of life if it is time for one; call it from the main loop."""
        if self.watchdog_interval is not None and time.monotonic() >= self._next_watchdog:
            self._next_watchdog = time.monotonic() + self.watchdog_interval
            self.send("WATCHDOG=1")
