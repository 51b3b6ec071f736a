"""The command line. A command is a file in ``perfdoc/commands`` that defines ``command``; nothing lists them."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys

import click

import perfdoc
from perfdoc import commands
from perfdoc.core import registry
from perfdoc.core.errors import PerfdocError


class Commands(click.Group):
    """Finds commands by file name and imports only the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted(name.replace("_", "-") for name in registry.names([commands.__name__]))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(perfdoc.__version__, prog_name="perfdoc")
def cli() -> None:
    """The training-performance doctor for PyTorch.

    perfdoc runs your unmodified training script, measures where each step's time goes, tries the real alternatives inside
    the running loop, and says which help, by how much, and which hurt.
    """


def main() -> None:
    """Entry point: errors that the user can mend are one line on stderr."""
    try:
        cli(prog_name="perfdoc")
    except PerfdocError as error:
        click.echo(f"perfdoc: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # The terminal has gone; what there was to say is in the run's folder.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        sys.exit(128 + signal.SIGHUP)
