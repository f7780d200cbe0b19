"""`shardkv ctl join`, `leave`, `move`, `query`: configurations are changed and shown."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from raft.types import GroupId
from shardctrler.commands import Change, Leave, Move
from shardctrler.types import ConfigNumber, ShardConfig, ShardId, View
from shardkv import control, preview
from shardkv.cli.finding import Request, Whole, print_json, run, talks
from shardkv.cli.reaching import controller
from shardkv.growth import Wish
from shardkv.text import quoted

GID_MAX = control.GID_MAX


class _Group(click.ParamType[Wish]):
    name = "group"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Wish:
        if isinstance(value, Wish):
            return value
        try:
            return control.parse_group(str(value))
        except ValueError as error:
            self._fail(value, error, param, ctx)

    def _fail(
        self,
        value: object,
        error: ValueError,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> NoReturn:
        self.fail(f"{quoted(str(value))} {error}", param, ctx)


def _dry_run_option(command: Any) -> Any:
    text = "Show which shards would move; change nothing."
    return click.option("--dry-run", is_flag=True, help=text)(command)


@click.command(
    epilog="""\b
Examples:
  shardkv ctl join 3=n4,n5,n6
  shardkv ctl join 3=n4,n5,n6 --dry-run
"""
)
@click.argument("groups", nargs=-1, required=True, type=_Group(), metavar="GID=NODE,NODE,...")
@_dry_run_option
@talks
def join(request: Request, groups: tuple[Wish, ...], dry_run: bool) -> None:
    """Let groups take part. One that does not exist is created on the nodes named.

    Shards move to it until all groups own equally many; `status` shows how far they are. Running it
    again finishes what was cut off.
    """
    if dry_run:
        _preview(request, lambda view: preview.joined(view, groups))
        return

    async def work() -> ConfigNumber:
        deadline = asyncio.get_running_loop().time() + request.timeout
        async with controller(request, "ctl") as (client, reached):
            return await control.join(
                client,
                reached.transport,
                groups,
                deadline=deadline,
                progress=lambda line: click.echo(f"shardkv ctl join: {line}", err=True),
            )

    _print_number(request, run(work(), write=True))


@click.command(
    epilog="""\b
Examples:
  shardkv ctl leave 1
  shardkv ctl leave 1 --dry-run
"""
)
@click.argument("gids", nargs=-1, required=True, type=Whole(0, GID_MAX), metavar="GID...")
@_dry_run_option
@talks
def leave(request: Request, gids: tuple[int, ...], dry_run: bool) -> None:
    """Let groups take part no more; their shards move to those that stay.

    The nodes keep running the group until its shards have left; it may join again.
    """
    if dry_run:
        change = Leave(tuple(GroupId(gid) for gid in gids))
        _preview(request, lambda _: change)
        return

    async def work() -> ConfigNumber:
        async with controller(request, "ctl") as (client, _):
            return await client.leave([GroupId(gid) for gid in gids], timeout=request.timeout)

    _print_number(request, run(work(), write=True))


@click.command(
    epilog="""\b
Examples:
  shardkv ctl move 17 2
  shardkv ctl move 17 2 --dry-run
"""
)
@click.argument("shard", type=Whole(0, 2**31 - 1))
@click.argument("gid", type=Whole(0, GID_MAX))
@_dry_run_option
@talks
def move(request: Request, shard: int, gid: int, dry_run: bool) -> None:
    """Give one shard to one group. The next join or leave may move it again."""
    if dry_run:
        change = Move(ShardId(shard), GroupId(gid))
        _preview(request, lambda _: change)
        return

    async def work() -> ConfigNumber:
        async with controller(request, "ctl") as (client, _):
            return await client.move(ShardId(shard), GroupId(gid), timeout=request.timeout)

    _print_number(request, run(work(), write=True))


@click.command(
    epilog="""\b
Examples:
  shardkv ctl query
  shardkv ctl query 3 --json
"""
)
@click.argument("number", required=False, type=Whole(0, 2**63 - 1))
@talks
def query(request: Request, number: int | None) -> None:
    """Show a configuration: which group owns which shard. The newest, unless NUMBER is given."""

    async def work() -> ShardConfig:
        async with controller(request, "ctl") as (client, _):
            if number is not None:
                return await client.config(ConfigNumber(number), timeout=request.timeout)
            return control.as_of_now(await client.newest(timeout=request.timeout))

    config = run(work())
    if request.as_json:
        print_json(_as_json(config))
    else:
        sys.stdout.write(_as_text(config))


def _preview(request: Request, change: Callable[[View], Change]) -> None:
    """Show what a change would do; refused as the controller would refuse it."""

    async def work() -> tuple[ShardConfig, ShardConfig]:
        async with controller(request, "ctl") as (client, _):
            view = await client.newest(timeout=request.timeout)
            return view.config, preview.previewed(view, change(view))

    before, after = run(work())
    moved = preview.moves(before, after)
    if request.as_json:
        pairs = [
            {"from": old, "to": new, "shards": list(shards)} for (old, new), shards in moved.items()
        ]
        print_json({"dry_run": True, "config": after.number, "moves": pairs})
        return
    if after.number == before.number:
        sys.stdout.write(f"config {before.number}: it is so already\n")
        return
    lines = [f"config {after.number} would have {len(after.groups)} groups"]
    lines += [
        f"shards {ranges(shards)}: from {_named(old)} to {_named(new)}"
        for (old, new), shards in moved.items()
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _named(gid: GroupId) -> str:
    return f"group {gid}" if gid else "no group"


def _print_number(request: Request, number: int) -> None:
    if request.as_json:
        print_json({"config": number})
    else:
        sys.stdout.write(f"config {number}\n")


def _as_json(config: ShardConfig) -> dict[str, Any]:
    return {
        "config": config.number,
        "shards": list(config.shards),
        "groups": {
            str(gid): {
                "uuid": group.uuid.hex(),
                "nodes": [str(member.node) for member in group.members],
                "shards": list(config.shards_of(gid)),
            }
            for gid, group in config.groups.items()
        },
    }


def _as_text(config: ShardConfig) -> str:
    lines = [f"config {config.number}: {len(config.shards)} shards, {len(config.groups)} groups"]
    for gid, group in config.groups.items():
        nodes = ",".join(str(member.node) for member in group.members)
        lines.append(f"group {gid} on {nodes}: shards {ranges(config.shards_of(gid))}")
    parked = config.shards_of(GroupId(0))
    if parked:
        lines.append(f"no group: shards {ranges(parked)}")
    return "\n".join(lines) + "\n"


def ranges(numbers: tuple[int, ...]) -> str:
    """`0-3 7 9-10` for ascending numbers; `none` for no number."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] + 1 == number:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    words = [str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi in parts]
    return " ".join(words) or "none"
