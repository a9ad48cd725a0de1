"""JSON lines on stdout: one a request, one an event of the process's life.

README.md, "Log lines", lists the fields; a test holds that list against this code.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from datetime import UTC, datetime

REQUEST_ID_LENGTH = 128
PATH_LENGTH = 256
ERROR_LENGTH = 500
TRACEBACK_LENGTH = 8000

_UNSAFE_IN_ID = re.compile(r"[^A-Za-z0-9._:/+=@-]")


class Log:
    """Writes each line with one write(2), so that lines of several threads never mix."""

    def __init__(self, instance: str, descriptor: int = 1) -> None:
        self._instance = instance
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, level: str, event: str, **fields: object) -> None:
        """Write one line. Never raises: a log reader that went away must not cost a request."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"ts": now, "level": level, "event": event, "instance": self._instance, **fields}
        data = json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n"
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                return

    def request(
        self,
        *,
        request_id: str | None,
        method: str | None,
        path: str | None,
        status: int,
        duration_ms: float,
        remote: str | None,
        error: str | None = None,
        unexpected: BaseException | None = None,
    ) -> None:
        """Write the line of one request; answers of 500 and above are errors.

        `duration_ms` is the time in the application, in milliseconds. `unexpected` adds its
        traceback as one field.
        """
        fields: dict[str, object] = {
            "request_id": clean_request_id(request_id),
            "method": method,
            "path": None if path is None else path[:PATH_LENGTH],
            "status": status,
            "duration_ms": round(duration_ms, 3),
            "remote": remote,
        }
        if unexpected is not None:
            error = error or describe(unexpected)
            text = "".join(traceback.format_exception(unexpected))
            fields["traceback"] = text[-TRACEBACK_LENGTH:]
        if error is not None:
            fields["error"] = error[:ERROR_LENGTH]
        self.write("error" if status >= 500 else "info", "request", **fields)


class Handler(logging.Handler):
    """Turns what libraries log into JSON lines of the event `library`."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; its traceback, if any, becomes one field."""
        fields: dict[str, object] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = describe(record.exc_info[1])[:ERROR_LENGTH]
            text = "".join(traceback.format_exception(record.exc_info[1]))
            fields["traceback"] = text[-TRACEBACK_LENGTH:]
        self._log.write(record.levelname.lower(), "library", **fields)


def capture_libraries(log: Log) -> None:
    """Send the log records of libraries, and uncaught exceptions of threads, to `log`."""
    logging.basicConfig(level=logging.WARNING, handlers=[Handler(log)], force=True)
    # waitress warns of every request that waits for a thread: that is load, not a fault.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)

    def uncaught(args: threading.ExceptHookArgs) -> None:
        logging.getLogger("thread").error(
            "uncaught exception", exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
        )

    threading.excepthook = uncaught


def describe(error: BaseException) -> str:
    """Type and message of an exception, as log lines carry them."""
    return f"{type(error).__name__}: {error}"


def clean_request_id(value: str | None) -> str | None:
    """Make a client's request id harmless: at most 128 letters, digits and `._:/+=@-`.

    Every other character becomes `_`; an empty or missing id becomes None.
    """
    if not value:
        return None
    return _UNSAFE_IN_ID.sub("_", value[:REQUEST_ID_LENGTH])


_name = "serving"
_current: Log | None = None


def use(log: Log) -> Log:
    """Make it the log of this process."""
    global _current
    _current = log
    return log


def current() -> Log:
    """The log of this process, for an application that has events of its own."""
    return _current or Log(_name)


def call_it(name: str) -> None:
    """Set the name that `complain` begins with."""
    global _name
    _name = name


def complain(message: str) -> None:
    """Write one line for a person to stderr."""
    print(f"{_name}: {message}", file=sys.stderr)
