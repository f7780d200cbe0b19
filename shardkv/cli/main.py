"""`shardkv`: the group of all commands, and the one place where a command's failure ends."""

import difflib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, cast

import click

from shardkv import __version__
from shardkv.config import environment, silence_grpc
from shardkv.text import quoted

COMMANDS: Final = {
    "put": ("shardkv.cli.store:put", "Write a key."),
    "get": ("shardkv.cli.store:get", "Print a key's value."),
    "append": ("shardkv.cli.store:append", "Add to the end of a key's value."),
    "delete": ("shardkv.cli.store:delete", "Make a key absent."),
    "batch": ("shardkv.cli.batching:batch", "Write several keys; those of one shard atomically."),
    "list": ("shardkv.cli.listing:list_", "Print keys in order."),
    "import": ("shardkv.cli.importing:import_", "Write files to keys, or an export back."),
    "export": ("shardkv.cli.exporting:export", "Write keys and values to a file."),
    "status": ("shardkv.cli.status:status", "Show nodes, groups, members and shards."),
    "top": ("shardkv.cli.top:top", "Watch nodes, leaders, rates, latencies and moves."),
    "ctl": ("shardkv.cli.ctl:ctl", "Join and leave groups, move shards, see configurations."),
    "backup": ("shardkv.cli.backup:backup", "Make a backup of a running cluster, or verify one."),
    "restore": ("shardkv.cli.backup:restore", "Make a new cluster's data from a backup."),
    "up": ("shardkv.cli.up:up", "Run a whole cluster on this machine."),
    "node": ("shardkv.cli.node:node", "Run one node on its directory."),
    "auto": ("shardkv.cli.auto:auto", "Run a node that forms its cluster with others."),
    "probe": ("shardkv.cli.probe:probe", "Ask a node whether it is live or ready."),
    "init": ("shardkv.cli.init:init", "Make a node's directory."),
    "demo": ("shardkv.cli.demo:demo", "See a cluster survive; every byte is checked."),
    "bench": ("shardkv.cli.bench:bench", "Put load on a cluster, and print figures."),
    "version": ("shardkv.cli.version:version", "Print the version."),
    "help": ("shardkv.cli.version:help_", "Show this, or a command's help."),
}
"""Name, where it lives, and its line in the list; nothing is imported to print the list."""

SERVERS: Final = ("up", "node", "auto")
"""Their standard error is a log, in which gRPC has its say, too."""

HELP: Final = """A sharded, replicated key/value store: linearizable, each write exactly once.

\b
  shardkv up                        a cluster of 3 nodes, data in ./data
  shardkv put greeting hello        in another terminal
  shardkv get greeting
  shardkv status --watch

The cluster is found by --endpoints, else SHARDKV_ENDPOINTS, else ./data/cluster.yaml.
Exit status: 0 done, 1 refused or not found, 2 usage or configuration, 3 no answer in time (the
outcome of a write is then unknown), 4 data unusable, 5 in use.

Shell completion: eval "$(_SHARDKV_COMPLETE=bash_source shardkv)" (or zsh_source, fish_source).
"""


class Commands(click.Group):
    """Finds commands without importing all of them, and guesses what was meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(unknown_command(args[0], list(COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def unknown_command(name: str, names: list[str]) -> str:
    """What to say about a command that there is not."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"unknown command {quoted(name)}" + (f"; did you mean '{near[0]}'?" if near else "")


@click.group(cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="shardkv %(version)s")
def shardkv() -> None:
    """Defined by `HELP`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, and exit with its status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit status."""
    if not any(word in SERVERS for word in arguments[:1]):
        silence_grpc()
    try:
        result = shardkv.main(
            args=list(arguments), prog_name="shardkv", standalone_mode=False
        )  # raises instead of exiting
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        return 2
    except click.ClickException as error:
        return _usage(error, arguments)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _failed(KeyboardInterrupt(), arguments)
    except Exception as error:
        return _failed(error, arguments)
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException, arguments: Sequence[str]) -> int:
    from shardkv.cli.failures import Exit, Told

    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "shardkv"
    message = error.format_message().rstrip(".")
    hint = f"see `{command} --help`"
    _tell(Told(Exit.USAGE, "UsageError", message, hint), command, arguments)
    return 2


def _failed(error: BaseException, arguments: Sequence[str]) -> int:
    from shardkv.cli.failures import told

    if environment().get("SHARDKV_TRACEBACK") == "1":
        traceback.print_exception(error)
    failure = told(error)
    if isinstance(error, BrokenPipeError):  # let the interpreter's own flush at exit not fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    named = next((word for word in arguments if word in COMMANDS), "")
    _tell(failure, f"shardkv {named}".rstrip(), arguments)
    return failure.status


def _tell(failure: Any, command: str, arguments: Sequence[str]) -> None:
    from shardkv.cli.failures import MESSAGE_CHARACTERS_MAX, line
    from shardkv.text import one_line

    if "--json" in arguments:
        text = json.dumps(
            {
                "error": one_line(failure.message, MESSAGE_CHARACTERS_MAX),
                "code": failure.code,
                "hint": failure.hint,
            }
        )
    else:
        text = line(failure, command)
    click.echo(text, err=True)
