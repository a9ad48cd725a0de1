"""The driver as Salt loads it and as its command line runs it, against a stand-in of the API."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from standin_digitalocean import TOKEN, Machines, Standin

PUBLIC_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1CMEbNGCXnLtmCXkQkB1kFBGyJPcvJcwwDmqAXYZ0M ops@example"
)


class Loopback(Machines):
    """Machines that are all this computer."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def take(self, name: str, keys: list[str]) -> tuple[str, str]:
        self.taken.append(name)
        return "127.0.0.1", "10.0.0.2"

    def give_back(self, name: str) -> None:
        self.taken.remove(name)


class Cloud:
    """The driver as salt-cloud has it: configured, loaded by Salt, called by name."""

    def __init__(self, folder: Path, api: Standin, programs: Path | None = None) -> None:
        """``programs``: the folder of the salt-cloud that is run; this environment's unless given."""
        self.folder, self.api = folder, api
        self.programs = programs or Path(sys.executable).parent
        # What Salt made of the configuration.
        self._loaded: dict[str, Any] = {}
        self.provider: dict[str, Any] = {
            "driver": "digitalocean",
            "location": "fra1",
            "ssh_key_names": ["ops"],
            "deploy": False,
            # Everything as in life, only sooner.
            "api_backoff": 0.02,
            "poll_interval": 0.05,
            "unsure_timeout": 3,
        }
        self.profile: dict[str, Any] = {
            "provider": "do",
            "size": "s-1vcpu-1gb",
            "image": "debian-13-x64",
        }

    def configure(self) -> str:
        for name in ("providers", "profiles"):
            (self.folder / f"cloud.{name}.d").mkdir(parents=True, exist_ok=True)
        main = {
            "cachedir": "cache", "log_file": "log", "root_dir": str(self.folder) + "/", "keysize": 2048,
            # salt-cloud takes these from where it is run, not from root_dir.
            "pki_dir": str(self.folder / "pki"), "sock_dir": str(self.folder / "sock"),
        }  # fmt: skip
        (self.folder / "cloud").write_text(yaml.safe_dump(main))
        (self.folder / "cloud.providers.d" / "do.conf").write_text(
            yaml.safe_dump({"do": self.provider})
        )
        (self.folder / "cloud.profiles.d" / "web.conf").write_text(
            yaml.safe_dump({"web": self.profile})
        )
        return str(self.folder / "cloud")

    def call(
        self, function: str, *args: Any, patch: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """One function of the driver, as `salt-cloud -f` or `-a` would call it."""
        import salt.config
        import salt.loader
        import salt.utils.context

        configuration = repr((self.provider, self.profile))
        if configuration not in self._loaded:
            options = salt.config.cloud_config(self.configure())
            self._loaded = {configuration: salt.loader.clouds(options)}
        functions = self._loaded[configuration]
        name = f"digitalocean.{function}"
        extra = {"__active_provider_name__": "do:digitalocean", **(patch or {})}
        with salt.utils.context.func_globals_inject(functions[name], **extra):
            return functions[name](*args, **kwargs)

    def create(
        self, name: str, patch: dict[str, Any] | None = None, **overrides: Any
    ) -> dict[str, Any]:
        """As `salt-cloud -p web NAME`, its profile laid over with `overrides`."""
        self.profile.update(overrides)
        machine = {
            **self.provider, **self.profile, "provider": "do:digitalocean", "profile": "web", "name": name,
            "driver": "digitalocean", "pub_key": None, "priv_key": None,
        }  # fmt: skip
        made: dict[str, Any] = self.call("create", machine, patch=patch)
        return made

    def command(self, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        """`salt-cloud WORDS`, really; both outputs in `stdout`."""
        self.configure()
        environment = {**os.environ, **self.api.environment(token or "")}
        if token is None:
            del environment["DIGITALOCEAN_TOKEN"]
        environment.pop("DIGITALOCEAN_ACCESS_TOKEN", None)
        return subprocess.run(
            [str(self.programs / "salt-cloud"), "-c", str(self.folder), *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
            env=environment, timeout=240, check=False,
        )  # fmt: skip
