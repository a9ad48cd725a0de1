"""What is served: app.json of an artifact, or app.toml of a folder of sources."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

SCHEMA = Path(__file__).with_name("app.schema.json")
# In an artifact this file is ROOT/lib/serving/application.py, in the sources webapp/src/serving/….
ROOT = Path(__file__).resolve().parents[2]
WATCHDOG_SECONDS = 15


StartResponse = Callable[..., object]


class ApplicationError(Exception):
    """The application can't be read or loaded. The message is one line."""


class Wsgi(Protocol):
    """A WSGI application (PEP 3333). It may have a `batch` (see `Batch`)."""

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""


class Batch(Protocol):
    """The attribute `batch` of an application that does something for several requests at once.

    Requests that came while a thread was busy, and that join, get what `begin` made for them in
    their environ, under `serving.batch`; any other has None there.
    """

    def joins(self, method: str, target: str) -> bool:
        """Whether such a request can be answered together with others."""

    def begin(self, arrivals: list[float]) -> object:
        """What these requests share; for each, when it came (`time.monotonic()`)."""


@dataclass(frozen=True)
class Application:
    """An application: its app.json, and the folders that its files and packages are in."""

    root: Path
    files: Path
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the application."""
        return str(self.settings["name"])

    @property
    def serve(self) -> Mapping[str, Any]:
        """The settings of the runtime."""
        return cast(Mapping[str, Any], self.settings["serve"])

    @property
    def paths(self) -> list[Path]:
        """Where its modules are."""
        below = [self.files, self.files / "src"]
        return [folder for folder in below if folder.is_dir()]

    def load(self) -> Wsgi:
        """Import and return the WSGI callable. Raises what the import does."""
        for folder in reversed(self.paths):
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
        os.chdir(self.files)
        name, _, attribute = str(self.settings["wsgi"]).partition(":")
        module = importlib.import_module(name)
        try:
            return cast(Wsgi, getattr(module, attribute))
        except AttributeError:
            raise ApplicationError(
                f"app.toml: wsgi: {name} has no {attribute}, which was to be the application"
            ) from None


def normalise(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with every default of the schema; it was validated by who built it."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    settings = _fill(given, schema["properties"])
    cron = schema["properties"]["cron"]["additionalProperties"]["properties"]
    settings["cron"] = {name: _fill(job, cron) for name, job in settings["cron"].items()}
    if settings["serve"]["watchdog"] is None:
        settings["serve"]["watchdog"] = WATCHDOG_SECONDS if settings["wsgi"] else 0
    return settings


def _fill(given: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    filled = {}
    for name, schema in properties.items():
        value = given.get(name, schema.get("default"))
        filled[name] = _fill(value, schema["properties"]) if "properties" in schema else value
    return filled


def read_application(root: Path = ROOT) -> Application:
    """Read ROOT/app.json, of an artifact, or ROOT/app.toml, of sources.

    Raises ApplicationError.
    """
    root = root.resolve()
    made, written = root / "app.json", root / "app.toml"
    try:
        if made.is_file():
            return Application(root, root / "app", json.loads(made.read_text(encoding="utf-8")))
        with written.open("rb") as file:
            return Application(root, root, normalise(tomllib.load(file)))
    except (OSError, ValueError) as error:
        raise ApplicationError(f"{root}: no application is here: {error}") from None
