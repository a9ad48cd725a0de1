"""The controller's commands without its start: copies of one process that has read it.

Most of what a command costs that has little to do is Python, click and the controller being read. A test that is not about the
command line itself asks :class:`Controller`, whose copies do as `make COMMAND` does; as a program this is the process that is copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of make's own: not in what it calls (Makefile).
UNEXPORTED = ("PYTHON", "GIT_")
# Seconds of CPU time of each command that a copy has done, with all that it started.
processor_times: list[float] = []


class Controller:
    """One process that has read the controller, for as long as this process lives."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            # A name of the kernel's, without a file.
            listener.bind("")
            self.address = listener.getsockname()
            listener.listen()
            # It ends with its standard input, so with this process.
            self.process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(listener.fileno())],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[listener.fileno()],
                # Ctrl-C is for whoever runs the tests: a command whose caller has gone is ended by the copy that waits for it.
                env=settle(dict(os.environ)), start_new_session=True,
            )  # fmt: skip

    def close(self) -> int:
        """End it; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)

    def run(
        self, command: str, environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """
        What `make COMMAND` does and says in this environment: as make itself does, it exits with 2 for a command that fails.
        TimeoutExpired after ``timeout`` seconds, and the command is ended.
        """
        asked = json.dumps({"command": command, "environment": settle(environment)}).encode()
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            socket.socket(socket.AF_UNIX) as client,
        ):
            client.connect(self.address)
            client.settimeout(timeout)
            socket.send_fds(client, [len(asked).to_bytes(4, "big")], [out.fileno(), err.fileno()])
            client.sendall(asked)
            try:
                answered = client.recv(64).decode().split()
            except TimeoutError:
                raise subprocess.TimeoutExpired(["make", command], timeout) from None
            for file in (out, err):
                file.seek(0)
            said, errors = out.read(), err.read()
        if not answered:
            raise ConnectionError(f"make {command}: the copy of the controller has gone\n{errors}")
        code = int(answered[0])
        processor_times.append(float(answered[1]))
        if code:
            errors += f"make: *** [{command}] Error {code}\n"
        return subprocess.CompletedProcess(["make", command], 2 if code else 0, said, errors)


def commands() -> frozenset[str]:
    """Targets of the Makefile that are a command of the controller and nothing else."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z-]+):.*\n\t@\$\(CONTROL\) \1$", makefile, re.MULTILINE))


def settle(environment: dict[str, str]) -> dict[str, str]:
    """As the Makefile hands it on."""
    kept = {key: value for key, value in environment.items() if not key.startswith(UNEXPORTED)}
    return {**kept, "LC_ALL": "C.UTF-8"}


def serve(listener: socket.socket) -> int:
    """A copy for whoever connects; in that copy, the code with which its command ended."""
    sys.path.insert(0, str(ROOT))
    import jsonschema  # noqa: F401  what reads a topology imports it late

    import control.__main__

    os.umask(0o022)
    # Copies are waited for by those who answer, and those by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            return 0
        client, _ = listener.accept()
        if not os.fork():
            break
        client.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener.close()
    length, descriptors, _, _ = socket.recv_fds(client, 4, 2)
    with client.makefile("rb") as reader:
        asked = json.loads(reader.read(int.from_bytes(length, "big")))
    # A group of its own, which both make sure of: whoever is first.
    command = os.fork()
    with contextlib.suppress(OSError):
        os.setpgid(command, command)
    if command:
        return answer(client, command)
    client.close()
    for target, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *descriptors]):
        os.dup2(descriptor, target)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["control", asked["command"]]
    return control.__main__.main()


def answer(client: socket.socket, command: int) -> int:
    """Say how the process ``command`` ended and what CPU time it used; end it, with all that it started, when nobody waits any more."""
    ended = os.pidfd_open(command)
    if client in select.select([client, ended], [], [])[0]:
        os.killpg(command, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with contextlib.suppress(OSError):
        client.sendall(f"{code} {sum(os.times()[2:4])}".encode())
    return 0


if __name__ == "__main__":
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1]))))
