"""Reaching machines: commands as root over ssh."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable

from . import local_state
from . import terminal as shown
from .errors import OperationError
from .topology import Topology

# Exit code of a shell whose command wrote into a closed pipe.
READER_GONE = 128 + 13
# ssh's own exit code, where it did not reach the machine or lost it.
UNREACHED = 255
# What a machine says that waits for its turn to change something (bootstrap/converge).
WAITING = "waiting for its turn"
# Held while a line of one of several machines is printed.
PRINTING = threading.Lock()


def command_line(
    topology: Topology,
    host: str,
    command: str | None,
    terminal: bool = False,
    fresh: bool = False,
) -> list[str]:
    """Command line of ssh that runs ``command`` (a shell's, or none for a shell) as root;
    ``fresh``: over a connection of its own, not the one that is kept open."""
    if not local_state.is_up(topology):
        raise local_state.not_up(topology)
    # What keeps ssh from the machine it says itself; Vagrant's configuration would have it silent.
    line = ["ssh", "-F", str(local_state.ssh_config(topology)), "-o", "LogLevel=ERROR"]
    if terminal:
        line.append("-tt")
    if fresh:
        line += ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
    shell = "sudo -n -i" if command is None else f"sudo -n sh -c {shlex.quote(command)}"
    return [*line, host, shell]


def run(topology: Topology, host: str, command: str, data: bytes = b"", fresh: bool = False) -> str:
    """Output of ``command`` as root on ``host``; OperationError with its last words when it fails.
    ``fresh`` as in :func:`command_line`."""
    done = subprocess.run(
        command_line(topology, host, command, fresh=fresh),
        input=data,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="backslashreplace").strip()
        # Below the first line, none that could be taken for another's.
        words = "\n  ".join(words.splitlines())
        if done.returncode == UNREACHED and words.startswith("ssh: "):
            # No command ran, so none is to blame.
            raise OperationError(f"{host}: {words}")
        what = command.splitlines()[0][:80]
        raise OperationError(f"{host}: {what}: {words or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="backslashreplace")


def stream(
    topology: Topology,
    host: str,
    command: str,
    label: str = "",
    data: bytes | None = None,
    turn: Callable[[], bool] | None = None,
) -> int:
    """Run ``command`` as root with its output passed on, as text; its exit code, never negative: 128 + N when
    signal N ended ssh, as a shell has it. With ``label`` before each line, several may run at once.
    ``data``: its standard input. ``turn``: called when the command says that it waits for its turn
    (bootstrap/converge), and the command is told the answer."""
    terminal = sys.stdout.isatty() and not label and data is None and turn is None
    has_input = data is not None or turn is not None
    sys.stdout.flush()
    with subprocess.Popen(
        command_line(topology, host, command, terminal=terminal),
        stdin=None if terminal else subprocess.PIPE if has_input else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        if process.stdin and turn is None:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(data or b"")
        try:
            for piece in shown.pieces(process.stdout, terminal):
                if turn and process.stdin and piece.rstrip() == WAITING:
                    with contextlib.suppress(BrokenPipeError), process.stdin:
                        process.stdin.write(b"go\n" if turn() else b"no\n")
                    turn = None
                    continue
                with PRINTING:
                    if label:
                        print(f"{label}{piece.rstrip()}", flush=True)
                    else:
                        shown.show(piece)
        except BrokenPipeError:
            # Who reads has had enough; a machine that works goes on all the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            process.terminate()
            return READER_GONE
    code = process.returncode
    return code if code >= 0 else 128 - code
