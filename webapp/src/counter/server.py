"""waitress, driven so that a stop loses no request.

waitress by itself dies of SIGTERM with requests unanswered, and its own shutdown cancels what
is queued. Here the main loop is ours and a stop has three phases:

1. draining: `/readyz` answers 404, everything else goes on. Answers ask the client to close
   its connection, so that keep-alive clients leave between two requests, not within one.
2. closing: no new connection can begin, what waits in the accept queue is taken, then the
   listening socket is closed.
3. finishing: requests in flight and queued are answered, idle connections are closed.
"""

from __future__ import annotations

import array
import contextlib
import os
import resource
import select
import signal
import socket
import struct
import time
from types import FrameType

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask

from counter.app import ARRIVAL, Context, make_app
from counter.log import Log, capture_libraries, complain
from counter.notify import Notifier
from counter.release import Release
from counter.settings import Settings
from counter.store import Store

BACKLOG = 1024
CONNECTIONS = 1000
# How long a handshake that had begun may take to complete: many round trips of a local network.
HANDSHAKE_SECONDS = 0.1
# A connection that was used or opened a moment ago may have its next request on the way: closing
# it would lose that one. After this long without any, it counts as idle.
QUIET_SECONDS = 1.0
SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it


class Parser(HTTPRequestParser):
    """A request, which knows when it came."""

    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self.arrival = time.monotonic()


class Task(WSGITask):
    """Answers a request; while draining, asks the client to close the connection."""

    def get_environment(self) -> dict[str, object]:
        """Add when the request came."""
        environ: dict[str, object] = super().get_environment()
        environ[ARRIVAL] = self.request.arrival
        return environ

    @property
    def has_body(self) -> bool:
        """No body for HEAD of unknown length: waitress would send an empty chunked one."""
        return super().has_body and not (
            self.request.command == "HEAD" and self.content_length is None
        )

    def build_response_header(self) -> bytes:
        """Add `Connection: close` while draining, unless the client has sent more already."""
        if self.channel.server.draining and not self.channel.has_more():
            self.set_close_on_finish()
        return super().build_response_header()


class MalformedTask(ErrorTask):
    """Answers what never reaches the application: bad syntax, too large, not implemented."""

    def execute(self) -> None:
        """Answer with the reason alone, and log it like any other request."""
        request, problem = self.request, self.request.error
        self.status = f"{problem.code} {problem.reason}"
        body = f"{problem.reason}\n".encode()
        self.content_length = len(body)
        self.response_headers += [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Cache-Control", "no-store"),
        ]
        self.set_close_on_finish()
        path = getattr(request, "path", None)
        self.channel.server.log.request(
            request_id=request.headers.get("X_REQUEST_ID"),
            method=getattr(request, "command", None),
            path=path if isinstance(path, str) else None,
            status=problem.code,
            duration_ms=(time.time() - self.start_time) * 1000,
            remote=self.channel.addr[0],
            error=str(problem.body),
        )
        self.write(body)


class Channel(HTTPChannel):
    """One connection, which knows whether closing it would cut something off."""

    parser_class = Parser
    task_class = Task
    error_task_class = MalformedTask

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


class Server(TcpWSGIServer):
    """waitress' server, on a socket that is ready made."""

    channel_class = Channel
    draining = False
    log: Log

    def refuse_new(self) -> None:
        """Let no new connection begin, and those that have begun complete.

        Closing a listening socket resets every connection that is complete but not accepted.
        A packet filter that drops SYN packets makes the accept queue run dry for good. To the
        client it is as if the SYN got lost: it tries again and is refused, or goes elsewhere.
        """
        program = b"".join(
            struct.pack("HBBI", *instruction)
            for instruction in (
                (0x30, 0, 0, 13),  # load byte 13 of the TCP header: the flags
                (0x45, 0, 1, 0x02),  # SYN set? else skip one
                (0x06, 0, 0, 0),  # return 0: drop
                (0x06, 0, 0, 0xFFFFFFFF),  # return the whole packet
            )
        )
        memory = array.array("B", program)
        pointer = struct.pack("HP", len(program) // 8, memory.buffer_info()[0])
        with contextlib.suppress(OSError):  # without it, the window stays microseconds wide
            self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)

    def take_backlog(self) -> None:
        """Accept every connection that is complete."""
        # At most one queue: without the filter, new clients must not hold up the stop.
        for _ in range(BACKLOG + 1):
            poller = select.poll()
            poller.register(self.socket, select.POLLIN)
            if not poller.poll(0):
                break
            self.handle_accept()

    def stop_listening(self) -> None:
        """Close the listening socket and nothing else: the trigger is still needed."""
        wasyncore.dispatcher.close(self)

    def close_idle(self) -> None:
        """Close the connections that wait for a request."""
        now = time.time()
        for channel in list(self.active_channels.values()):
            if channel.is_idle(now):
                channel.handle_close()


def make_server(context: Context, settings: Settings, sock: socket.socket) -> Server:
    """Build the server on a bound socket; it listens when this returns."""
    adjustments = Adjustments(
        sockets=[sock],
        threads=settings.threads,
        # Clients that HAProxy sends while every thread is busy wait here, not in a refusal.
        backlog=BACKLOG,
        # Beyond what HAProxy opens, below the open files, with room for Redis: at the limit,
        # connections wait in the backlog, without it accept() would fail in a loop.
        connection_limit=min(CONNECTIONS, max(64, _raise_open_files() - settings.threads - 64)),
        # poll(): select() fails from file descriptor 1024 on.
        asyncore_use_poll=True,
        # Longer than HAProxy keeps an idle server connection, so that it is HAProxy that closes
        # and never meets a connection closed under its request.
        channel_timeout=120,
        cleanup_interval=10,
        # The application reads no bodies: a small one is read and dropped, so that the
        # connection stays usable, a larger one is refused with 413 and the connection closed.
        max_request_body_size=1024,
        # Larger than what HAProxy passes on by default (tune.bufsize 16384 less the reserve).
        max_request_header_size=16384,
        # No Server header: what runs here is nobody's business.
        ident=None,
        # Nothing here believes X-Forwarded-*, so let nothing see them either.
        clear_untrusted_proxy_headers=True,
        # Clients go away all the time; that is no event.
        log_socket_errors=False,
        expose_tracebacks=False,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(settings.threads)
    Server.log = context.log
    return Server(
        make_app(context),
        map={},
        _sock=sock,
        dispatcher=dispatcher,
        adj=adjustments,
        bind_socket=False,
        sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
    )


def serve(settings: Settings, release: Release) -> int:
    """Serve until SIGTERM or SIGINT, then drain.

    Returns the exit code: 0, or 1 if it can't listen.
    """
    log = Log(settings.instance)
    capture_libraries(log)
    loop = Loop(settings, log)
    try:
        sock = _bind(settings.listen)
    except OSError as error:
        host, port = settings.listen
        complain(f"can't listen on COUNTER_LISTEN={host}:{port}: {error.strerror or error}")
        return 1
    context = Context(Store(settings, log), log, release)
    loop.run(make_server(context, settings, sock), context)
    return 0


class Loop:
    """The main loop and its phases. Signals only set a flag and wake it."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._notifier = Notifier(os.environ)
        self._stop = False
        self._server: Server | None = None
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        if self._server is not None:
            self._server.pull_trigger()

    def run(self, server: Server, context: Context) -> None:
        """Serve; return when everything that was accepted has been answered."""
        self._server = server
        host, port = server.effective_host, int(server.effective_port)
        self._say("start", f"serving on {host}:{port}", "READY=1")
        self._log.write(
            "info", "start", host=host, port=port, pid=os.getpid(), version=context.release.version
        )
        while not self._stop:
            self._turn(server)
        context.draining.set()
        server.draining = True
        seconds = self._settings.drain_seconds
        self._say("draining", f"draining for {seconds:g} s", "STOPPING=1")
        self._log.write("info", "draining", seconds=seconds)
        self._turn_until(server, time.monotonic() + seconds)
        server.refuse_new()
        self._turn_until(server, time.monotonic() + HANDSHAKE_SECONDS)
        server.take_backlog()
        server.stop_listening()
        self._say("closing", "finishing requests in flight")
        self._log.write("info", "closing", connections=len(server.active_channels))
        deadline = time.monotonic() + self._settings.finish_seconds
        server.close_idle()
        while server.active_channels and time.monotonic() < deadline:
            self._turn(server, 0.05)
            server.close_idle()
        cut_off = len(server.active_channels)
        server.task_dispatcher.set_thread_count(0)
        context.store.close()
        self._log.write("warning" if cut_off else "info", "stopped", cut_off=cut_off)

    def _turn_until(self, server: Server, deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0:
            self._turn(server, left)

    def _turn(self, server: Server, seconds: float = 1.0) -> None:
        """Handle what happens within at most `seconds`."""
        self._notifier.watchdog()
        seconds = min(seconds, self._notifier.watchdog_interval or 1.0, 1.0)
        # poll() counts whole milliseconds; rounded down, the last one would spin.
        wasyncore.loop(timeout=seconds + 0.001, use_poll=True, map=server._map, count=1)
        self._notifier.watchdog()

    def _say(self, event: str, status: str, *more: str) -> None:
        self._notifier.send(f"STATUS={status}", *more)


def _bind(listen: tuple[str, int]) -> socket.socket:
    """A bound socket, not yet listening. Raises OSError."""
    host, port = listen
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _raise_open_files() -> int:
    """Raise the soft limit of open files to 4096 where the hard one allows; return what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return 1_000_000 if soft == resource.RLIM_INFINITY else soft
