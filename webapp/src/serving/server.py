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
from collections import deque
from types import FrameType

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from serving.application import Application
from serving.channel import Channel
from serving.dispatcher import Dispatcher
from serving.front import Front
from serving.log import Log, capture_libraries, complain, use
from serving.notify import Notifier
from serving.release import Release
from serving.settings import Settings
from serving.static import Static

BACKLOG = 1024
CONNECTIONS = 1000
# How long a handshake that had begun may take to complete: many round trips of a local network.
HANDSHAKE_SECONDS = 0.1
SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
SOCKET_OPTIONS = [
    (socket.SOL_TCP, socket.TCP_NODELAY, 1),
    # Of a machine that lost its power nobody hears anything: after two minutes the kernel closes.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.SOL_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.SOL_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.SOL_TCP, socket.TCP_KEEPCNT, 4),
]


class Server(TcpWSGIServer):
    """waitress' server, on a socket that is ready made."""

    channel_class = Channel
    log: Log

    def __init__(self, front: Front, trusts_proxy: bool, **options: object) -> None:
        self.front = front
        self.trusts_proxy = trusts_proxy
        self.epoll = select.epoll()
        # Channels with a request for a thread, and those that a thread leaves to the main loop.
        self._gathered: list[Channel] = []
        self._attended: deque[Channel] = deque()
        self._listens = False
        super().__init__(front, **options)
        self.epoll.register(self.trigger._fileno, select.EPOLLIN)

    def set_socket_options(self, conn: socket.socket) -> None:
        """Set up a new connection."""
        for option in SOCKET_OPTIONS:
            conn.setsockopt(*option)

    def turn(self, seconds: float) -> None:
        """Handle what happens within at most `seconds`."""
        # Asking whether it may accept also looks for requests that never end (maintenance).
        if (listens := self.accepting and self.readable()) is not self._listens:
            (self.epoll.register if listens else self.epoll.unregister)(self.socket)
            self._listens = listens
        for descriptor, events in self.epoll.poll(seconds):
            target = self._map.get(descriptor)
            if isinstance(target, Channel):
                target.on_events(events)
            elif target is not None:
                wasyncore.readwrite(target, events)
        while self._attended:
            self._attended.popleft().settle()
        if self._gathered:
            self.task_dispatcher.add(self._gathered)
            self._gathered = []

    def add_task(self, task: Channel) -> None:
        """Have its first request served; called by the main loop."""
        self._gathered.append(task)

    def attend(self, channel: Channel) -> None:
        """Have the main loop look after the channel; called by a thread."""
        self._attended.append(channel)
        self.pull_trigger()

    def maintenance(self, now: float) -> None:
        """Close what has been in the middle of a request for long; never an idle connection.

        HAProxy may use an idle one at any time, and what it sent as it closed would be lost.
        """
        for channel in list(self.active_channels.values()):
            half = channel.request is not None and not channel.requests
            if half and now - channel.last_activity > self.adj.channel_timeout:
                channel.handle_close()

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
        if self._listens:
            self.epoll.unregister(self.socket)
            self._listens = False
        wasyncore.dispatcher.close(self)

    def close_idle(self) -> None:
        """Close the connections that wait for a request."""
        now = time.time()
        for channel in list(self.active_channels.values()):
            if channel.is_idle(now):
                channel.handle_close()


def make_server(
    front: Front,
    application: Application,
    settings: Settings,
    sock: socket.socket,
    dispatcher: Dispatcher,
) -> Server:
    """Build the server on a bound socket; it listens when this returns."""
    adjustments = Adjustments(
        sockets=[sock],
        threads=settings.threads,
        # Clients that HAProxy sends while every thread is busy wait here, not in a refusal.
        backlog=BACKLOG,
        # Beyond what HAProxy opens, below the open files, with room for what the application opens:
        # at the limit, connections wait in the backlog, without it accept() would fail in a loop.
        connection_limit=min(CONNECTIONS, max(64, _raise_open_files() - settings.threads - 64)),
        # Of a request that has begun and does not go on. An idle connection is never closed:
        # HAProxy closes first, or the kernel when the other end is gone.
        channel_timeout=120,
        cleanup_interval=10,
        # A larger one is refused with 413 and the connection closed.
        # waitress refuses one of just this size.
        max_request_body_size=application.serve["max_body"] + 1,
        # Larger than what HAProxy passes on by default (tune.bufsize 16384 less the reserve).
        max_request_header_size=16384,
        # No Server header: what runs here is nobody's business.
        ident=None,
        # Task does that, and takes what it trusts.
        clear_untrusted_proxy_headers=False,
        # Clients go away all the time; that is no event.
        log_socket_errors=False,
        expose_tracebacks=False,
    )
    return Server(
        front,
        application.serve["trusted_proxy"],
        map={},
        _sock=sock,
        dispatcher=dispatcher,
        adj=adjustments,
        bind_socket=False,
        sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
    )


def serve(application: Application, settings: Settings, release: Release) -> int:
    """Serve until SIGTERM or SIGINT, then drain.

    Returns the exit code: 0, or 1 if it can't listen. Raises what importing the application does.
    """
    log = use(Log(settings.instance))
    capture_libraries(log)
    loop = Loop(settings, log, release)
    wsgi = application.load()
    static = application.settings["static"]
    front = Front(
        wsgi,
        log,
        release,
        ready=application.settings["ready"],
        static=Static(static, application.files) if static else None,
        log_from_seconds=0.0 if settings.log_all else settings.log_slow_seconds,
    )
    try:
        sock = _bind(settings.listen)
    except OSError as error:
        host, port = settings.listen
        name = f"{application.serve['prefix']}_LISTEN"
        complain(f"can't listen on {name}={host}:{port}: {error.strerror or error}")
        return 1
    Server.log = log
    dispatcher = Dispatcher(settings.threads, getattr(wsgi, "batch", None))
    loop.run(make_server(front, application, settings, sock, dispatcher))
    return 0


class Loop:
    """The main loop and its phases. Signals only set a flag and wake it."""

    def __init__(self, settings: Settings, log: Log, release: Release) -> None:
        self._settings = settings
        self._log = log
        self._release = release
        self._notifier = Notifier(os.environ)
        self._stop = False
        self._server: Server | None = None
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        if self._server is not None:
            self._server.pull_trigger()

    def run(self, server: Server) -> None:
        """Serve; return when everything that was accepted has been answered."""
        self._server = server
        host, port = server.effective_host, int(server.effective_port)
        self._say("start", f"serving on {host}:{port}", "READY=1")
        self._log.write(
            "info", "start", host=host, port=port, pid=os.getpid(), version=self._release.version
        )
        while not self._stop:
            self._turn(server)
        server.front.draining = True
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
        server.task_dispatcher.stop()
        self._log.write("warning" if cut_off else "info", "stopped", cut_off=cut_off)

    def _turn_until(self, server: Server, deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0:
            self._turn(server, left)

    def _turn(self, server: Server, seconds: float = 1.0) -> None:
        """Handle what happens within at most `seconds`."""
        self._notifier.watchdog()
        seconds = min(seconds, self._notifier.watchdog_interval or 1.0, 1.0)
        # epoll counts whole milliseconds; rounded down, the last one would spin.
        server.turn(seconds + 0.001)
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
