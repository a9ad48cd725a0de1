"""
What a command is told: by its command line, and by the environment, which is read here and nowhere else.

:class:`Options` declares every setting once, with its variable and its help. Those that a person types
are options of the commands that take them (control/command.py); the others are those of a store of
artifacts, of a pipeline and of the tools that are run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .by_path import load_module
from .errors import UserError

Parse = Callable[[str, str], Any]
# Set by a shell that asks for completions.
COMPLETE = "_CONTROL_COMPLETE"
_ENVIRONMENT = threading.Lock()


def _text(_: str, value: str) -> str:
    return value


def _switch(hint: str = "") -> Parse:
    """``1`` or ``0``, anything else refused; ``hint``: what 1 is for."""

    def parse(variable: str, value: str) -> bool:
        if value not in ("0", "1"):
            raise UserError(f"{variable}={value}: use {variable}=1{hint and f' to {hint}'}", 2)
        return value == "1"

    return parse


def _not_zero(_: str, value: str) -> bool:
    return value != "0"


def _overlay(variable: str, value: str) -> str:
    """JSON laid over the pillar for one run; as JSON again, in one line."""
    try:
        overlay = json.loads(value)
    except ValueError as error:
        raise UserError(f"{variable}: not JSON: {error}", 2) from error
    if not isinstance(overlay, dict):
        raise UserError(
            f'{variable}: must be a JSON object, such as \'{{"counter": {{"instances": 3}}}}\'', 2
        )
    fixed = sorted({"machine", "topology", "secrets"} & set(overlay))
    if fixed:
        raise UserError(f"{variable}: {', '.join(fixed)} cannot be overlaid", 2)
    return json.dumps(overlay, ensure_ascii=False)


def setting(
    variable: str, help: str, metavar: str = "", parse: Parse = _text, default: Any = ""
) -> Any:
    """A field that a person sets; a switch where there is no ``metavar``."""
    metadata = {"variables": (variable,), "help": help, "metavar": metavar, "parse": parse}
    return field(default=default, metadata=metadata)


def switch(variable: str, help: str, parse: Parse) -> Any:
    return setting(variable, help, parse=parse, default=False)


def surrounding(*variables: str) -> Any:
    """A field that no command line has; the first of its ``variables`` that is set."""
    return field(default="", metadata={"variables": variables, "parse": _text})


@dataclass(frozen=True)
class Options:
    """What one command is told. Texts are empty where nothing was said."""

    topology: str = setting(
        "TOPOLOGY", "Which machines: a file of pillar/topologies.", "NAME", default="dev"
    )
    host: str = setting("HOST", "One machine of the topology, instead of all.", "MACHINE")
    suite: str = setting("SUITE", "Debian release of lab machines: trixie or bookworm.", "RELEASE")
    provider: str = setting(
        "PROVIDER", "What Vagrant makes them with: virtualbox, libvirt or lxc.", "NAME"
    )
    test: bool = switch(
        "TEST", "Only show what would change.", _switch("only show what would change")
    )
    verbose: bool = switch("VERBOSE", "Name every state, not those alone that change.", _not_zero)
    sls: str = setting("SLS", "Formulas to converge, instead of all; with commas.", "FORMULA")
    pillar: str = setting("PILLAR", "JSON laid over the pillar for this run.", "JSON", _overlay)
    cmd: str = setting("CMD", "A shell's command, instead of a shell.", "COMMAND")
    service: str = setting("SERVICE", "Only what this service logged.", "SERVICE")
    request: str = setting("REQUEST", "Only the lines of one request.", "ID")
    since: str = setting("SINCE", "How far back, such as 10m or 2h.", "TIME")
    follow: bool = switch(
        "FOLLOW", "Go on showing what comes.", _switch("go on showing what comes")
    )
    all: bool = switch("ALL", "Also what the controller's own commands left there.", _not_zero)
    app: str = setting(
        "APP", "The application: its folder, or its name; by default the counter.", "FOLDER"
    )
    version: str = setting("VERSION", "The release.", "VERSION")
    why: str = setting("WHY", "A reason, for the lock and the record.", "TEXT")
    secret: str = setting("SECRET", "Name of the secret.", "NAME")
    forget: bool = switch("FORGET", "Keep it no longer.", _switch("keep it no longer"))
    identity: str = setting("IDENTITY", "An age identity that opens the backup.", "FILE")
    force: bool = switch("FORCE", "Do it although something speaks against it.", _switch())
    on: bool = switch("ON", "Begin it.", _switch("begin it"))
    off: bool = switch("OFF", "End it.", _switch("end it"))
    yes: str = setting("YES", "Name of what is lost by it, instead of typing it.", "NAME")
    edge: bool = switch("EDGE", "The edges' address.", _switch("move the edges' address"))
    name: str = setting("NAME", "What the new service is called, such as memcached.", "SERVICE")
    renew: bool = switch(
        "RENEW", "Take the packages of today, and lock them.", _switch("lock the packages of today")
    )
    file: str = setting("FILE", "What export-state gave; - is standard input.", "FILE")

    # The store of artifacts (control/artifacts/repository.py).
    artifact_store: str = surrounding("ARTIFACT_STORE")
    artifact_store_token: str = surrounding("ARTIFACT_STORE_TOKEN")
    artifact_store_user: str = surrounding("ARTIFACT_STORE_USER")
    artifact_store_password: str = surrounding("ARTIFACT_STORE_PASSWORD")
    netrc: str = surrounding("NETRC")
    gitlab_token: str = surrounding("GITLAB_TOKEN")
    aws_access_key_id: str = surrounding("AWS_ACCESS_KEY_ID")
    aws_secret_access_key: str = surrounding("AWS_SECRET_ACCESS_KEY")
    aws_session_token: str = surrounding("AWS_SESSION_TOKEN")
    aws_region: str = surrounding("AWS_REGION", "AWS_DEFAULT_REGION")
    aws_endpoint_url: str = surrounding("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    release_key: str = surrounding("RELEASE_KEY")
    # The images (control/images): a mirror with debian/ and debian-security/ below it.
    debian_mirror: str = surrounding("DEBIAN_MIRROR")
    image_store: str = surrounding("IMAGE_STORE")
    image_store_user: str = surrounding("IMAGE_STORE_USER")
    image_store_password: str = surrounding("IMAGE_STORE_PASSWORD")
    ci_registry_image: str = surrounding("CI_REGISTRY_IMAGE")
    ci_registry_user: str = surrounding("CI_REGISTRY_USER")
    ci_registry_password: str = surrounding("CI_REGISTRY_PASSWORD")
    # GitLab's pipeline, and who works there or here.
    ci: str = surrounding("CI")
    ci_api_v4_url: str = surrounding("CI_API_V4_URL")
    ci_job_token: str = surrounding("CI_JOB_TOKEN")
    ci_job_url: str = surrounding("CI_JOB_URL")
    ci_project_id: str = surrounding("CI_PROJECT_ID")
    gitlab_user_login: str = surrounding("GITLAB_USER_LOGIN")
    sudo_user: str = surrounding("SUDO_USER")
    # Tools that are run, and that run these commands.
    salt_cloud_profile: str = surrounding("SALT_CLOUD_PROFILE")
    salt_cloud_deploy: str = surrounding("SALT_CLOUD_DEPLOY")
    salt_cloud_address: str = surrounding("SALT_CLOUD_ADDRESS")

    @classmethod
    def read(
        cls, typed: Mapping[str, str] | None = None, names: Iterable[str] | None = None
    ) -> Options:
        """
        What was ``typed`` on the command line, by field, before what the environment has. ``names``: the
        settings that the command takes (all by default); the others stay as they are by default.

        Raises UserError, with the variable's name, for a value that is none of its setting's.
        """
        chosen = set(SETTINGS if names is None else names)
        values: dict[str, Any] = {}
        for one in dataclasses.fields(cls):
            if one.name in SETTINGS and one.name not in chosen:
                continue
            for variable in one.metadata["variables"]:
                value = (typed or {}).get(one.name) or os.environ.get(variable)
                if value:
                    values[one.name] = one.metadata["parse"](variable, value)
                    break
        return cls(**values)

    @property
    def pillar_arguments(self) -> list[str]:
        """The overlay as an argument of bootstrap/converge; none without one."""
        return [f"pillar={self.pillar}"] if self.pillar else []

    @property
    def apply_arguments(self) -> list[str]:
        """Arguments of bootstrap/converge for an apply of everything."""
        words = ["test=True"] if self.test else []
        return [*words, *([] if self.verbose else ["verbose=False"]), *self.pillar_arguments]


# Fields of Options that a person types, in their order.
SETTINGS = {one.name: one for one in dataclasses.fields(Options) if "help" in one.metadata}


def refuse_narrowing(command: str, *variables: str) -> None:
    """UserError when one of these is set: they narrow an apply, and this command's must be whole."""
    given = [f"{name}={os.environ[name]}" for name in variables if os.environ.get(name)]
    if given:
        raise UserError(f"{', '.join(given)}: not with {command}, which is for all machines", 2)


def is_completing() -> bool:
    """Whether a shell asks for completions (click's protocol)."""
    return COMPLETE in os.environ


def vagrant_home() -> Path:
    """Folder of Vagrant's boxes and plugins."""
    return Path(os.environ.get("VAGRANT_HOME") or Path.home() / ".vagrant.d")


def lab_cache() -> Path:
    """Folder of what all checkouts of this user share of the lab: boxes, and whose machines there are."""
    if given := os.environ.get("LAB_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counter-lab"


def child_environment(**more: str) -> dict[str, str]:
    """Environment of a program that is run: this process' own, and ``more``."""
    return {**os.environ, **more}


def replace_environment(own: Mapping[str, str]) -> None:
    """In a process that has another's: give it ``own``."""
    os.environ.clear()
    os.environ.update(own)


@contextlib.contextmanager
def python_path(folder: Path) -> Iterator[None]:
    """While the block runs, a Python that is started finds modules in ``folder``."""
    with _ENVIRONMENT:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(folder)
        try:
            yield
        finally:
            del os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


def settle(addresses: Iterable[str] = ()) -> None:
    """
    What the caller's computer happens to have set changes nothing from here on: the same as a run of Salt
    begins with on a machine; ``addresses`` as there.
    """
    load_module("salt/_executors/environment.py").settle(os.environ, addresses)
