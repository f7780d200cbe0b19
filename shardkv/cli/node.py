"""`shardkv node`: one node on the directory that `init` or `up` made."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from shardkv import config
from shardkv.cli.finding import Place, Whole

INIT_ONLY = ("node", "shards")
"""What was fixed when the directory was made."""


def with_settings(*, but: Sequence[str]) -> Callable[[Any], Any]:
    """A flag for each key of the table, `but` for some."""

    def decorate(command: Any) -> Any:
        for key, row in reversed(list(config.TABLE.items())):
            if key not in but:
                text = f"{row.help[0].upper()}{row.help[1:]}."
                option = click.option(config.flag(key), key, metavar=_metavar(row), help=text)
                command = option(command)
        return command

    return decorate


def _metavar(row: config.Key) -> str:
    return "|".join(row.choices) if row.choices else row.kind.name.upper().replace(" ", "-")


@click.command(epilog="Example: shardkv node --data ./data/n1")
@click.option("--data", type=Place(), required=True, help="Its directory.")
@click.option("--config", "file", type=Place(), help="Settings. [default: DIR/node.yaml]")
@click.option("--lifeline", type=Whole(0, 2**20), hidden=True, help="Stop when this pipe ends.")
@with_settings(but=INIT_ONLY)
def node(data: Path, file: Path | None, lifeline: int | None, **flags: str | None) -> int:
    """Run one node until SIGINT or SIGTERM. It never creates anything: `shardkv init` does.

    Settings come from flags, else SHARDKV_... in the environment, else DIR/node.yaml, else their
    defaults. The log goes to DIR/node.log.
    """
    from shardkv.node import run

    given = {key: text for key, text in flags.items() if text is not None}
    return run(data.absolute(), flags=given, file=file, lifeline=lifeline)
