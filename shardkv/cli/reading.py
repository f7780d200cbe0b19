"""What commands that read share: `--consistency` and `--max-age`."""

from collections.abc import Callable
from typing import Any, Final, TypedDict

import click

from shardkv.cli.finding import Seconds

CONSISTENCIES: Final = ("linearizable", "spread", "stale")


class Reading(TypedDict):
    """As the clerk's reads take it."""

    consistency: str
    max_age: float | None


def reads(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a read, and hand it a `Reading` as `how`."""

    @click.option(
        "--consistency",
        type=click.Choice(CONSISTENCIES),
        default=CONSISTENCIES[0],
        show_default=True,
        help="Who answers: the leader; any replica, as new; or any, perhaps older.",
    )
    @click.option(
        "--max-age",
        type=Seconds(),
        metavar="SECONDS",
        help="With stale: how old the answer may be (10 where not given).",
    )
    def reading(*args: Any, consistency: str, max_age: float | None, **kwargs: Any) -> Any:
        if max_age is not None and consistency != "stale":
            raise click.UsageError("--max-age needs --consistency stale")
        how = Reading(consistency=consistency, max_age=max_age)
        return command(*args, how=how, **kwargs)

    reading.__doc__, reading.__name__ = command.__doc__, command.__name__
    params = getattr(command, "__click_params__", [])
    reading.__click_params__ = [*params, *reading.__click_params__]  # type: ignore[attr-defined]
    return reading
