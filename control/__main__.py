"""`python -m control COMMAND`: what the make commands run (`make help`), and their options."""

from __future__ import annotations

import sys

import click

from .commands import COMMANDS, SECTIONS
from .options import COMPLETE, is_completing


class Controller(click.Group):
    """The commands, in the sections and the order in which a person comes to need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, command in self.commands.items() if not command.hidden]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(str(one.name), one.get_short_help_str(100)) for one in commands]
                )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            known = ", ".join(f"'{name}'" for name in self.list_commands(ctx))
            ctx.fail(f"No such command '{args[0]}'; there are: {known}.")
        return super().resolve_command(ctx, args)


PROGRAM = Controller(
    commands={str(one.name): one for one in COMMANDS},
    help="""Run a web stack: its machines, what they are converged to, the releases on them.

    Every command is also a target of the Makefile, and every option one of its variables: 'make up
    TOPOLOGY=prod' is 'python -m control up --topology prod'. What an option does not say is taken from the
    environment variable that stands in brackets behind it.""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> int:
    try:
        code = PROGRAM.main(
            # A shell completes one word: bin/control.
            prog_name="control" if is_completing() else "python -m control",
            complete_var=COMPLETE,
            standalone_mode=False,
        )
        return int(code or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130


if __name__ == "__main__":
    sys.exit(main())
