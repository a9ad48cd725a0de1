"""
The applications that run on the stack: the counter, whose formula is its own, and those of pillar `apps`. Each has an
artifact, a record and units of its own name.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from . import by_path, settings
from .errors import ControlError, UserError
from .options import Options
from .paths import ROOT
from .topology import Topology, formula_roles

# The formula that salt/top.sls gives to the application machines: the counter's own. That of all others is the next.
FORMULA = next(formula for formula, role in formula_roles().items() if role == "app")
APPS = "apps"
# What it may be called. It goes into commands of machines, too.
_NAMES = by_path.load_yaml(f"salt/{APPS}/schema.yaml")["propertyNames"]
# The counter's sources; its name is theirs alone.
_COUNTER_FOLDER = ROOT / "webapp"
# What its releases, units and records are called, unless its pillar says otherwise.
NAME = str(by_path.load_yaml(f"salt/{FORMULA}/defaults.yaml")["name"])


@dataclass(frozen=True)
class Application:
    """``folder``: where its sources and its app.toml are; None where only its name is known."""

    name: str = NAME
    formula: str = FORMULA
    folder: Path | None = None

    @property
    def is_counter(self) -> bool:
        return self.name == NAME

    @property
    def history(self) -> str:
        """What a machine was brought to (salt/_modules/record.py)."""
        return f"/var/lib/stack/releases/{self.name}.json"

    @property
    def attempts(self) -> str:
        """Every attempt on a machine, a line of JSON each (salt/_modules/record.py)."""
        return f"/var/log/stack/{self.name}-deploys.log"

    @property
    def readme(self) -> str:
        """Where its settings are described."""
        return f"salt/{self.formula}/README.md"

    def setting(self, value: str) -> str:
        """A setting of it as the pillar has it, in one line of YAML; ``value`` is that of its own."""
        return f"{self.formula}: {value if self.is_counter else f'{{{self.name}: {value}}}'}"

    @property
    def option(self) -> str:
        """What is typed for it after `make deploy`, with a blank before it; nothing for the counter."""
        return "" if self.is_counter else f" APP={self.folder or self.name}"


COUNTER = Application()


def find(options: Options, topology: Topology | None = None) -> Application:
    """
    The application that APP means: a folder with an app.toml, or the name of one that runs in ``topology``; the counter
    where nothing is said. UserError for any other, and for one that no pillar of the topology names.
    """
    if not options.app:
        return COUNTER
    try:
        folder = Path(options.app).expanduser()
    except RuntimeError as error:
        raise UserError(f"APP={options.app}: {error}", 2) from error
    name = options.app
    is_folder = (folder / "app.toml").is_file()
    if is_folder:
        name = _read_name(folder / "app.toml")
        if name == NAME and folder.resolve() != _COUNTER_FOLDER:
            raise UserError(
                f"{folder / 'app.toml'}: name: {NAME} is the application in webapp/: give this one another",
                2,
            )
    elif folder.is_dir() and "/" in options.app:
        raise UserError(
            f"APP={options.app}: no app.toml in this folder (docs/your-application.md)", 2
        )
    known = list_names(topology) if topology else None
    if known is not None and name not in known:
        hint = by_path.hint(name, known)
        if is_folder:
            raise UserError(
                f"APP={options.app}: {name} is no application of topology {topology.name if topology else ''}: say where"
                f" it is served, `{Application(name, APPS).setting('{hosts: [name.example]}')}` in pillar/settings.sls, then"
                f" 'make apply'; {hint}",
                2,
            )
        raise UserError(
            f"APP={options.app}: neither a folder with an app.toml nor an application; {hint}", 2
        )
    if known is None and not is_folder and name != NAME:
        raise UserError(
            f"APP={options.app}: no folder with an app.toml (docs/your-application.md)", 2
        )
    if name == NAME:
        return COUNTER
    # A key of the pillar, which Salt has not read yet, is one too.
    return Application(_check_name(name, f"APP={options.app}"), APPS, folder if is_folder else None)


def _read_name(path: Path) -> str:
    try:
        name = tomllib.loads(path.read_text(encoding="utf-8")).get("name")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}", 2) from error
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{path}: name: is missing: what the application is called, a-z, 0-9 and -", 2
        )
    return _check_name(name, f"{path}: name")


def _check_name(name: str, where: str) -> str:
    if not re.fullmatch(_NAMES["pattern"], name):
        raise UserError(f"{where}: {name!r} is not allowed; use {_NAMES['description']}", 2)
    return name


def list_names(topology: Topology) -> list[str] | None:
    """The applications of a topology; None where its settings are a template, which only Salt reads."""
    try:
        given = settings.read(topology).get(APPS)
    except ControlError:
        return None
    return [NAME, *(sorted(given) if isinstance(given, dict) else [])]
