"""`shardkv ctl replace`, `add-replica`, `remove-replica`, `transfer`, `forget`: who holds what."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace as changed
from typing import Final, NamedTuple

import click

from shardkv.cli.finding import TIMEOUT_SECONDS, Request, Whole, print_json, run, talking
from shardkv.cli.reaching import controller
from shardkv.control import GID_MAX
from shardkv.moving_replicas import Change
from shardkv.relocation import Relocation
from shardkv.text import quoted

MOVE_SECONDS: Final = 600.0
"""A new replica has to copy all that its group holds."""

WAIT_SECONDS: Final = 60.0

GID = Whole(0, GID_MAX)


_dry_run_option = click.option("--dry-run", is_flag=True, help="Show the steps; change nothing.")


class Source(NamedTuple):
    """Whose replicas are moved: a node's, or only that of one group."""

    node: str
    gid: int | None


class _Source(click.ParamType[Source]):
    name = "source"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Source:
        if isinstance(value, Source):
            return value
        gid, colon, node = str(value).rpartition(":")
        if not colon:
            return Source(node, None)
        try:
            return Source(node, GID.convert(gid, param, ctx))
        except click.BadParameter as error:
            self.fail(f"{quoted(str(value))}: the group {error.message}", param, ctx)


@click.command(
    epilog="""\b
Examples:
  shardkv ctl replace n2 n7 --dry-run
  shardkv ctl replace n2 n7
  shardkv ctl replace 3:n2 n7
"""
)
@click.argument("old", type=_Source(), metavar="[GID:]OLD")
@click.argument("new")
@_dry_run_option
@talking(MOVE_SECONDS)
def replace(request: Request, old: Source, new: str, dry_run: bool) -> None:
    """Move every replica of node OLD to node NEW, the controller's too, group by group.

    OLD may be dead. Each group takes NEW in as a learner, and once it has caught up exchanges the
    two in one joint change: at no moment does it depend on one node more. Refused, with no effect,
    where it would leave fewer than a majority alive. OLD and NEW may be one node, which came back
    under its name without its data: it gets new replicas for those that it has lost.
    """

    async def work() -> list[Change]:
        async with _relocation(request, "replace") as relocation:
            changes = await relocation.replacements(old.node, new, old.gid)
            if dry_run:
                _print_outline(request, await relocation.outlined(changes))
            else:
                await relocation.carry_out(changes)
            return changes

    changes = run(work(), write=not dry_run)
    if dry_run:
        return
    gids = [change.gid for change in changes]
    if request.as_json:
        print_json({"old": old.node, "new": new, "groups": gids})
    elif not gids:
        where = "any group" if old.gid is None else f"group {old.gid}"
        why = f"holds no replica of {where}" if old.node != new else "holds what it should"
        sys.stdout.write(f"nothing to do: {old.node} {why}\n")
    else:
        names = ", ".join(map(str, gids))
        sys.stdout.write(f"{new} replaces {old.node} in group{'s'[: len(gids) > 1]} {names}\n")


@click.command(
    "add-replica",
    epilog="""\b
Examples:
  shardkv ctl add-replica 1 n4
  shardkv ctl add-replica 1 n4 --dry-run
""",
)
@click.argument("gid", type=GID)
@click.argument("node")
@_dry_run_option
@talking(MOVE_SECONDS)
def add_replica(request: Request, gid: int, node: str, dry_run: bool) -> None:
    """Give group GID (0: the controller) one replica more, on NODE.

    It comes in as a learner and votes once it has caught up. Nothing, if it votes already.
    """
    _change(request, "add-replica", Change(gid, (node,)), dry_run, f"{node} votes in group {gid}")


@click.command(
    "remove-replica",
    epilog="""\b
Examples:
  shardkv ctl remove-replica 1 n4
  shardkv ctl remove-replica 1 n4 --dry-run
""",
)
@click.argument("gid", type=GID)
@click.argument("node")
@_dry_run_option
@talking(MOVE_SECONDS)
def remove_replica(request: Request, gid: int, node: str, dry_run: bool) -> None:
    """Take NODE's replica out of group GID (0: the controller); the node then drops it.

    A leader hands its leadership on first. Of a node that still catches up the change that takes
    it in is given up. Refused, with no effect, where it would leave fewer than a majority alive.
    """
    done = f"{node} holds no replica of group {gid}"
    _change(request, "remove-replica", Change(gid, (), (node,)), dry_run, done)


@click.command(
    epilog="""\b
Examples:
  shardkv ctl transfer 1 n2
  shardkv ctl transfer 1 n2 --dry-run
"""
)
@click.argument("gid", type=GID)
@click.argument("node")
@_dry_run_option
@talking(TIMEOUT_SECONDS)
def transfer(request: Request, gid: int, node: str, dry_run: bool) -> None:
    """Let NODE lead group GID (0: the controller). Nothing, if it does."""

    async def work() -> None:
        async with _relocation(request, "transfer") as relocation:
            if dry_run:
                _print_outline(request, await relocation.transfer_outlined(gid, node))
            else:
                await relocation.transfer(gid, node)

    run(work(), write=not dry_run)
    if dry_run:
        return
    if request.as_json:
        print_json({"group": gid, "leader": node})
    else:
        sys.stdout.write(f"{node} leads group {gid}\n")


@click.command(epilog="Example: shardkv ctl wait && kill $(cat data/n1/LOCK)")
@talking(WAIT_SECONDS)
def wait(request: Request) -> None:
    """Wait until every node answers and every group has all its voters, caught up.

    Then any one node may be stopped, and nothing but its leaderships moves.
    """

    async def work() -> None:
        async with _relocation(request, "wait") as relocation:
            await relocation.whole()

    run(work())
    if request.as_json:
        print_json({"whole": True})
    else:
        sys.stdout.write("every group is whole\n")


@click.command(
    epilog="""\b
Examples:
  shardkv ctl forget n2
  shardkv ctl forget n2 --dry-run
"""
)
@click.argument("node")
@_dry_run_option
@talking(TIMEOUT_SECONDS)
def forget(request: Request, node: str, dry_run: bool) -> None:
    """Let the cluster forget NODE, which is gone for good. Nothing, if it is not known.

    Refused, with no effect, while it answers or a group has a replica there.
    """

    async def work() -> bool:
        async with _relocation(request, "forget") as relocation:
            if dry_run:
                return await relocation.may_be_forgotten(node)
            return await relocation.forgotten(node)

    known = run(work(), write=not dry_run)
    if dry_run:
        _print_outline(request, [f"forget {node}"] if known else [])
    elif request.as_json:
        print_json({"forgotten": node, "was_known": known})
    elif known:
        sys.stdout.write(f"{node} is forgotten\n")
    else:
        sys.stdout.write(f"nothing to do: no node {quoted(node)} is registered\n")


def _change(request: Request, verb: str, change: Change, dry_run: bool, done: str) -> None:
    async def work() -> None:
        async with _relocation(request, verb) as relocation:
            if dry_run:
                _print_outline(request, await relocation.outlined([change]))
            else:
                await relocation.carry_out([change])

    run(work(), write=not dry_run)
    if dry_run:
        return
    if request.as_json:
        print_json({"group": change.gid, "done": done})
    else:
        sys.stdout.write(f"{done}\n")


def _print_outline(request: Request, lines: Sequence[str]) -> None:
    if request.as_json:
        print_json({"steps": list(lines)})
    else:
        sys.stdout.write("\n".join(lines or ["nothing to do"]) + "\n")


@asynccontextmanager
async def _relocation(request: Request, verb: str) -> AsyncIterator[Relocation]:
    deadline = asyncio.get_running_loop().time() + request.timeout
    reaching = changed(request, timeout=min(request.timeout, TIMEOUT_SECONDS))
    async with controller(reaching, "ctl") as (client, reached):
        yield await Relocation.prepared(
            client,
            reached.transport,
            reaching=reaching.timeout,
            deadline=deadline,
            progress=lambda line: click.echo(f"shardkv ctl {verb}: {line}", err=True),
        )
