"""The command `counter`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from counter.log import complain
from counter.release import read_release
from counter.settings import VARIABLES, SettingsError, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    0: served until told to stop, or checked. 1: it can't listen, or failed. 2: wrong usage or
    a wrong setting.
    """
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        complain(str(error))
        return 2
    if options.check:
        host, port = settings.listen
        print(f"counter: the settings are right; it would listen on {host}:{port}")
        return 0
    # Pyramid 2.1 needs pkg_resources, which warns on every start that it will go.
    warnings.filterwarnings("ignore", message=".*pkg_resources is deprecated.*")
    # Late, so that wrong settings are told at once: Pyramid takes a while to import.
    from counter.server import serve

    return serve(settings, read_release())


def _parser() -> argparse.ArgumentParser:
    variables = "\n".join(
        f"  {variable.name}={variable.default or ''}\n      {variable.purpose}\n"
        f"      Allowed: {variable.allowed}"
        for variable in VARIABLES
    )
    parser = argparse.ArgumentParser(
        prog="counter",
        description="Serves a page that says how often it has been seen. SIGTERM drains it.",
        epilog=f"settings, all from the environment, with their defaults:\n{variables}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="check the settings and exit")
    parser.add_argument("--version", action="version", version=read_release().version)
    return parser


if __name__ == "__main__":
    sys.exit(main())
