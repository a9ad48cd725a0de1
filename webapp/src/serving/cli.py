"""The command of an artifact, `bin/NAME`, and `python -m serving` of a source tree."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.application import ROOT, Application, ApplicationError, read_application
from serving.commands import execute, find_command
from serving.log import call_it, complain
from serving.release import read_release
from serving.settings import SettingsError, read_settings, variables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    0: served until told to stop, or checked. 1: it can't listen, or failed. 2: wrong usage or
    a wrong setting.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    place = _taken_out(words, "--app")
    try:
        application = read_application(Path(place) if place else ROOT)
    except ApplicationError as error:
        complain(str(error))
        return 2
    call_it(application.name)
    options = _parser(application).parse_args(words)
    try:
        if options.command != "serve":
            execute(application, find_command(application, options.command, options.words))
        return _serve(application, options.check)
    except (ApplicationError, SettingsError) as error:
        complain(str(error))
        return 2


def _serve(application: Application, check: bool) -> int:
    settings = read_settings(os.environ, _variables(application))
    if check:
        if application.settings["wsgi"]:
            application.load()
        host, port = settings.listen
        print(f"{application.name}: the settings are right; it would listen on {host}:{port}")
        return 0
    release = read_release(application.root)
    # Late, so that wrong settings are told at once.
    if application.settings["exec"]:
        from serving.external import supervise

        return supervise(application, settings, release)
    from serving.server import serve

    return serve(application, settings, release)


def _variables(application: Application):  # noqa: ANN202 - as variables()
    serve = application.serve
    return variables(serve["prefix"], serve["threads"], application.name)


def _taken_out(words: list[str], option: str) -> str | None:
    """The value of a leading option, which is taken out: it says whose help is meant."""
    if len(words) > 1 and words[0] == option:
        value = words[1]
        del words[:2]
        return value
    return None


def _parser(application: Application) -> argparse.ArgumentParser:
    told = "\n".join(
        f"  {variable.name}={variable.default or ''}\n      {variable.purpose}\n"
        f"      Allowed: {variable.allowed}"
        for variable in _variables(application)
    )
    settings = application.settings
    names = [*(f"process {name}" for name in settings["processes"])]
    names += [*(f"cron {name}" for name in settings["cron"]), "run COMMAND"]
    if settings["release"]:
        names.insert(0, "release")
    parser = argparse.ArgumentParser(
        prog=application.name,
        description="Serves the application; SIGTERM drains it. `release`, `process NAME` and "
        "`cron NAME` run a command of app.toml, `run` any, with the application's packages.",
        epilog=f"commands beside serve: {', '.join(names)}\n\n"
        f"settings of the runtime, from the environment, with their defaults:\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="check the settings and exit")
    parser.add_argument(
        "--version", action="version", version=read_release(application.root).version
    )
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        choices=["serve", "release", "process", "cron", "run"],
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help="NAME, or the command to run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
