#!/usr/bin/python3 -I
"""
Before HAProxy stops: let the balancer's check fail, wait until it sends nothing new, then let what is open end
(ExecStop of files/balancer.conf.j2). A HAProxy that does not answer has nobody to wait for.
"""

import os
import signal
import socket
import sys
import time


def main():
    if len(sys.argv) != 4:
        sys.exit(f"use: {sys.argv[0]} ADMIN-SOCKET SECONDS PID")
    path, seconds, pid = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    try:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5)
            admin.connect(path)
            admin.sendall(b"disable frontend balancer\n")
            answer = admin.recv(1024).decode(errors="replace").strip()
    except OSError as error:
        print(f"{path}: {error}: stopping at once")
        return
    if answer:
        print(f"{answer}: stopping at once")
        return
    # At once, not when this program ends.
    print(
        f"the balancer's check is refused: {seconds:.0f} s until it sends nothing new", flush=True
    )
    time.sleep(seconds)
    try:
        # Soft stop (management guide, 4): idle connections are closed, open ones end.
        os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        return


main()
