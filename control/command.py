"""What every command has: its options on the command line, its topology, its errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

from . import terminal, topology
from .cloud import addresses
from .errors import ControlError
from .options import SETTINGS, Options, settle
from .topology import FOLDER, Topology

Run = Callable[[Topology, Options], int]


def _complete_topology(
    _: click.Context, __: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _option(name: str, help: str | None = None) -> click.Option:
    metadata = SETTINGS[name].metadata
    (variable,) = metadata["variables"]
    is_switch = not metadata["metavar"]
    return click.Option(
        [f"--{name}"],
        is_flag=is_switch,
        flag_value="1" if is_switch else None,
        default=None,
        metavar=metadata["metavar"] or None,
        help=f"{help or metadata['help']}  [{variable}={'1' if is_switch else '…'}]",
        shell_complete=_complete_topology if name == "topology" else None,
    )


def make_command(
    name: str,
    run: Run,
    *settings: str,
    arguments: Sequence[str] = (),
    hidden: bool = False,
    is_as_written: bool = False,
    **helps: str,
) -> click.Command:
    """
    The command ``name`` that does ``run(topology, options)``, whose docstring is its help.

    settings
        fields of :class:`Options` that are its options; ``topology`` is one of every command
    arguments
        those that are given by their place instead
    is_as_written
        it starts from the topology as its file has it, not with the addresses that a cloud gave
    helps
        what an option is for in this command, where that is not what it is for in most
    """
    names = ["topology", *settings, *helps]

    def call(**typed: str | None) -> int:
        terminal.guard()
        try:
            given = {key: value for key, value in typed.items() if value}
            options = Options.read(given, [*names, *arguments])
            chosen = topology.load(options.topology)
            settle(machine.address for machine in chosen.machines.values())
            return run(chosen if is_as_written else addresses.resolve(chosen), options)
        except ControlError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return error.code
        except OSError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted; run it again and it goes on", file=sys.stderr)
            return 130

    params: list[click.Parameter] = [_option(one, helps.get(one)) for one in names]
    params += [click.Argument([one]) for one in arguments]
    return click.Command(name, params=params, callback=call, help=run.__doc__, hidden=hidden)
