"""The deploy lock of a machine: one deployer at a time, for as long as its connection lasts."""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .. import ssh
from ..errors import OperationError
from ..terminal import printable
from ..topology import Topology
from . import lock_agent

# Held from beginning to end; called, it raises OperationError when it is held no more.
Held = Callable[[], None]


@contextlib.contextmanager
def hold_lock(topology: Topology, host: str, request: dict[str, str]) -> Iterator[Held]:
    """Hold a machine's deploy lock; OperationError, naming who holds it, when it is taken."""
    began = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    note = {
        "who": request["who"],
        "when": began,
        "what": f"{request['action']} of {request['version']}",
        "why": request["why"],
    }
    if topology.has_containers:
        # The same protocol, without Python (containers/host).
        start, program = "exec stack-deploy-lock", ""
    else:
        start = "python3 -Ic 'import ast, sys; exec(ast.literal_eval(sys.stdin.readline()))'"
        program = repr((Path(__file__).parent / "lock_agent.py").read_text(encoding="utf-8")) + "\n"
    with subprocess.Popen(
        # A connection of its own: it must end with this process, not with the shared one.
        ssh.command_line(topology, host, start, fresh=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for this process, which then lets go by itself.
        start_new_session=True,
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(lock_agent.BEAT):
                with contextlib.suppress(OSError, ValueError):
                    stdin.write("\n")
                    stdin.flush()

        def check_held() -> None:
            if process.poll() is not None:
                raise OperationError(
                    f"{host}: the deploy lock was lost with its connection: somebody else may deploy"
                    " by now; 'make releases' shows what runs, then deploy again"
                )

        beats = threading.Thread(target=beat, daemon=True)
        try:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(f"{program}{json.dumps(note)}\n")
                stdin.flush()
            word, _, rest = stdout.readline().strip().partition(" ")
            if word == "taken":
                raise OperationError(f"{host}: {_describe_holder(rest)}; nothing was changed", 75)
            if word != "held":
                answer = process.communicate(timeout=30)[1].strip()
                raise OperationError(f"{host}: the deploy lock cannot be taken: {answer}")
            beats.start()
            yield check_held
        finally:
            is_over.set()
            if beats.is_alive():
                beats.join()
            with contextlib.suppress(OSError):
                stdin.close()


def _describe_holder(text: str) -> str:
    """Whose deploy holds a lock, in words, from its note."""
    try:
        note = json.loads(text)
        why = f" ({note['why']})" if note["why"] else ""
        holder = f"{note['who']} has been doing a {note['what']}{why} since {note['when']}"
    except (KeyError, TypeError, ValueError):
        holder = "another deploy is running, and has not said whose it is"
    return printable(holder)


def hold_all(
    stack: contextlib.ExitStack, topology: Topology, hosts: Sequence[str], request: dict[str, str]
) -> dict[str, Held]:
    """The locks of all these machines, held until ``stack`` ends."""
    return {host: stack.enter_context(hold_lock(topology, host, request)) for host in hosts}
