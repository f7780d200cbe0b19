"""`shardkv ctl`: changes of the cluster. Each command lives in a module of its own."""

import importlib
from typing import Final, cast

import click

from shardkv.cli.main import unknown_command

COMMANDS: Final = {
    "query": ("shardkv.cli.configs:query", "Show a configuration."),
    "join": ("shardkv.cli.configs:join", "Let groups take part."),
    "leave": ("shardkv.cli.configs:leave", "Let groups take part no more."),
    "move": ("shardkv.cli.configs:move", "Give one shard to one group."),
    "replace": ("shardkv.cli.replicas:replace", "Move a node's replicas to another node."),
    "add-replica": ("shardkv.cli.replicas:add_replica", "Give a group one replica more."),
    "remove-replica": ("shardkv.cli.replicas:remove_replica", "Take a replica out of a group."),
    "plan": ("shardkv.cli.plan:plan", "Show what the cluster does next to mend itself, and why."),
    "explain": ("shardkv.cli.plan:explain", "Say where a shard, group or node is, and why so."),
    "transfer": ("shardkv.cli.replicas:transfer", "Let a node lead a group."),
    "wait": ("shardkv.cli.replicas:wait", "Wait until every group has all its voters."),
    "forget": ("shardkv.cli.replicas:forget", "Forget a node that is gone for good."),
    "recover": ("shardkv.cli.recover:recover", "Go on where a majority is lost: plan, apply."),
    "abandon": ("shardkv.cli.recover:abandon", "Give up a group of which nothing is left."),
}
"""Name, where it lives, and its line in the list; nothing is imported to print the list."""


class _Verbs(click.Group):
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


@click.group(
    cls=_Verbs,
    epilog="""\b
Examples:
  shardkv ctl query
  shardkv ctl join 3=n1,n2,n3
  shardkv ctl plan
  shardkv ctl replace n2 n7 --dry-run
  shardkv ctl explain s12
""",
)
def ctl() -> None:
    """Change which groups take part, which shards they own, and which nodes hold them.

    Each change of groups or shards makes one numbered configuration; `ctl query` shows them.
    Every command may be cut off anywhere, and finished by running it again.
    """
