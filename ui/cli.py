"""The command `assistant`: finds its verbs, and turns every error into one line and an exit code.

Verbs are entry points of the group ``assistant.commands``, each a click command in a module that is cheap to import, so
that help never waits for torch. Verbs raise; this is the only place that catches.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

import click

from assistant.errors import AssistantError

__all__ = ["cli", "main"]

INTERRUPTED = 130  # what shells give for a process that ctrl-c ended


class CommandLine(click.Group):
    """A group whose commands are entry points, loaded when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry.name for entry in metadata.entry_points(group="assistant.commands"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in metadata.entry_points(group="assistant.commands", name=cmd_name):
            try:
                return entry.load()
            except (ImportError, AttributeError) as error:
                return _unloadable(cmd_name, error)
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:
            if ctx.params["debug"]:
                traceback.print_exc()
            raise

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = "assistant", **extra: Any
    ) -> NoReturn:
        try:
            result = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
            code = result if isinstance(result, int) else 0  # ctx.exit(n) comes back as n
        except BrokenPipeError:
            # Nobody reads on. What is still buffered must go somewhere, or Python complains when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except click.Abort:
            code = INTERRUPTED
        except Exception as error:
            code = _report(error)
        sys.exit(code)


def _unloadable(name: str, cause: Exception) -> click.Command:
    """Stands for a verb whose module cannot be imported, so that help still lists the others."""
    why = f"'assistant {name}' cannot be loaded: {cause}; 'assistant doctor' says what is not installed"

    def fail(**_: Any) -> NoReturn:
        raise AssistantError(why) from cause

    return click.Command(
        name, callback=fail, help=why, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
    )


def _report(error: Exception) -> int:
    """Write one line to stderr and give the exit code that goes with it."""
    match error:
        case AssistantError():
            text, code = str(error), error.exit_code
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "assistant"
            text, code = f"{error.format_message()} (usage: {path} --help)", error.exit_code
        case click.ClickException():
            text, code = error.format_message(), error.exit_code
        case _:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            text, code = f"unexpected {what} (where it happened: assistant --debug ...)", 1
    click.echo("error: " + " ".join(text.split()), err=True)
    return code


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show where an error happened.")
@click.version_option(package_name="flamingo-assistant", prog_name="assistant")
def cli(debug: bool) -> None:
    """Ask about pictures, teach by example, and train what answers."""


def main() -> NoReturn:
    """Run the command line on ``sys.argv``."""
    cli.main()
