"""Programs that are asked something on this machine, and must answer in time."""

import os
import signal
import subprocess


def run(command, seconds, shell=False):
    """``(exit code, output)``; TimeoutExpired after ``seconds``, its children ended with it."""
    with subprocess.Popen(
        command,
        shell=shell,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        # What is asked is on this machine: a proxy would answer for itself.
        env={**os.environ, "no_proxy": "*", "NO_PROXY": "*"},
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output.strip()
