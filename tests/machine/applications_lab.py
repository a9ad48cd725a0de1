"""Applications beside the counter on one machine, and the ways to publish, deploy and reach them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networks
from lab_machine import Lab


@dataclass
class Apps:
    """The machine with all three, and where their sources are changed."""

    lab: Lab
    store: Path
    sources: Path
    versions: dict[str, str] = field(default_factory=dict)

    def make(self, *words: str, check: bool = True, **settings: str) -> Any:
        return self.lab.make(*words, check=check, ARTIFACT_STORE=str(self.store), **settings)

    def publish(self, folder: Path) -> str:
        """The version of an application that is stored now."""
        return str(self.make("publish", APP=str(folder)).stdout.strip().splitlines()[-1])

    def deploy(self, name: str, version: str, check: bool = True) -> Any:
        return self.make("deploy", check=check, APP=name, VERSION=version)

    def curl(self, host: str, path: str = "/", *words: str) -> str:
        command = ["curl", "-sS", "--max-time", "10", "--cacert", self.lab.ca]
        command += ["--resolve", f"{host}:443:{self.lab.address}", *words, f"https://{host}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout

    def status(self, host: str, path: str = "/", *words: str) -> int:
        return int(self.curl(host, path, "-o", "/dev/null", "-w", "%{http_code}", *words) or 0)

    @contextlib.contextmanager
    def asked(self, *hosts: str) -> Iterator[dict[str, list[str]]]:
        """Requests to each name for as long as the block runs: ``{host: what went wrong}``, and how many there were."""
        context = ssl.create_default_context(cafile=self.lab.ca)
        wrong: dict[str, list[str]] = {host: [] for host in hosts}
        counted = dict.fromkeys(hosts, 0)
        stop = threading.Event()

        def ask(host: str) -> None:
            connection = http.client.HTTPSConnection(host, timeout=20, context=context)
            connection._create_connection = lambda *_: socket.create_connection(  # type: ignore[attr-defined]
                (self.lab.address, 443), 20
            )
            while not stop.wait(0.02):
                try:
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        wrong[host].append(str(answer.status))
                except (OSError, http.client.HTTPException) as error:
                    wrong[host].append(repr(error))
                    connection.close()
                counted[host] += 1

        threads = [threading.Thread(target=ask, args=(host,)) for host in hosts]
        for thread in threads:
            thread.start()
        try:
            yield wrong
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert min(counted.values()) > 50, counted

    @property
    def settings(self) -> Path:
        """Where the pillar of this topology says what is served."""
        return networks.settings(self.lab.topology)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Whatever the settings say meanwhile; then all that was served is gone, with its data."""
        self.settings.parent.mkdir(exist_ok=True)
        assert not self.settings.exists(), f"{self.settings}: somebody's own"
        try:
            yield
        finally:
            self.settings.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.settings.parent.rmdir()
            self.lab.apply()
            self.lab.run(
                "for name in $(ls /opt/apps); do userdel app-$name;"
                " rm -f /var/lib/stack/releases/$name.json; done; rm -rf /opt/apps /var/lib/apps"
            )
