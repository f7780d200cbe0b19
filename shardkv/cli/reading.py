"""What commands say of consistency: `--consistency` and `--max-age` of those that read, and
`--consistency` of those that write, which changes nothing and says so."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypedDict

import click

from shardkv.cli.finding import Seconds

OWN: Final = ("linearizable", "spread", "stale")
REPLICAS: Final[dict[str, str]] = {"one": "stale", "quorum": "linearizable", "all": "linearizable"}
"""Words of stores that count replicas, and which of our reads keeps what each promises."""
READS_HELP: Final = (
    "Who answers: linearizable: the leader, with all that was acknowledged before; spread: the "
    "same, from any replica; stale: any replica by itself, perhaps --max-age old. Words of other "
    "stores: one is stale; quorum and all are linearizable."
)
WRITES_HELP: Final = (
    "Accepted, and changes nothing: every write is acknowledged once a majority of the replicas "
    "has it on disk, not fewer for one, not more for all. Every linearizable read sees it then."
)


class Reading(TypedDict):
    """As the clerk's reads take it."""

    consistency: str
    max_age: float | None


def reads(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a read, and hand it a `Reading` as `how`."""

    @click.option(
        "--consistency",
        type=click.Choice((*OWN, *REPLICAS)),
        default=OWN[0],
        show_default=True,
        help=READS_HELP,
    )
    @click.option(
        "--max-age",
        type=Seconds(),
        metavar="SECONDS",
        help="With stale or one: how old the answer may be (10 where not given).",
    )
    @wraps(command)
    def reading(*args: Any, consistency: str, max_age: float | None, **kwargs: Any) -> Any:
        chosen = REPLICAS.get(consistency, consistency)
        if max_age is not None and chosen != "stale":
            raise click.UsageError("--max-age needs --consistency stale (or one)")
        how = Reading(consistency=chosen, max_age=max_age)
        return command(*args, how=how, **kwargs)

    return reading


def writes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that writes the option that other stores have, and hand it nothing."""

    @click.option("--consistency", type=click.Choice(tuple(REPLICAS)), help=WRITES_HELP)
    @wraps(command)
    def writing(*args: Any, consistency: str | None, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    return writing
