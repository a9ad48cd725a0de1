"""An application that brings its own server (`exec`): started, waited for, watched, stopped.

systemd is told the same as of one that the runtime serves: READY=1 when the ready path answers 2xx,
WATCHDOG=1 as long as it does (where a watchdog is set), STOPPING=1 at SIGTERM.
"""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import subprocess
import time
from types import FrameType

from serving.application import Application, ApplicationError
from serving.commands import environment
from serving.log import Log
from serving.notify import Notifier
from serving.release import Release
from serving.settings import Settings

ASK_EVERY = 0.2
PATIENCE = 5.0


def supervise(application: Application, settings: Settings, release: Release) -> int:
    """Run the application's own server until SIGTERM, or until it ends; return the exit code.

    SIGTERM is passed on at once: it is the server that knows how to drain. What is left after
    drain and finish seconds is killed.
    """
    log = Log(settings.instance)
    notifier = Notifier(os.environ)
    host, port = settings.listen
    command = [
        word.replace("{host}", host).replace("{port}", str(port))
        for word in shlex.split(application.settings["exec"])
    ]
    stops: list[float] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not stops:
            stops.append(time.monotonic() + settings.drain_seconds + settings.finish_seconds)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    own = {name: value for name, value in environment(application).items() if name not in NOTIFY}
    try:
        child = subprocess.Popen(command, env=own, cwd=application.files)  # noqa: S603 - app.toml's
    except OSError as error:
        raise ApplicationError(f"exec: {command[0]}: {error.strerror}") from None
    ready = False
    passed_on = False
    next_question = 0.0
    while child.poll() is None:
        now = time.monotonic()
        if stops and not passed_on:
            passed_on = True
            notifier.send("STATUS=draining", "STOPPING=1")
            log.write("info", "draining", seconds=stops[0] - now)
            child.terminate()
        if stops and now >= stops[0]:
            log.write("warning", "stopped", cut_off=1)
            child.kill()
            child.wait()
            return 1
        if not stops and now >= next_question:
            answers = _answers(host, port, application.settings["ready"])
            if answers and not ready:
                ready = True
                notifier.send(f"STATUS=serving on {host}:{port}", "READY=1")
                log.write(
                    "info", "start", host=host, port=port, pid=child.pid, version=release.version
                )
            if answers and ready:
                notifier.watchdog()
            next_question = now + (ASK_EVERY if not ready else notifier.watchdog_interval or 3600.0)
        _wait(child, ASK_EVERY)
    code = child.returncode
    if stops:
        log.write("info", "stopped", cut_off=0)
        return 0
    log.write("error", "stopped", error=f"{command[0]} ended by itself with {code}")
    return code if code > 0 else 1


# They are the supervisor's: a server that notifies too would speak for it.
NOTIFY = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        return connection.getresponse().status // 100 == 2
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
