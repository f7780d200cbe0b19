"""`shardkv ctl recover` and `ctl abandon`: the ways out when a majority is lost."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, NamedTuple

import click

from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.errors import Unavailable
from shardctrler.types import RETIRED, GroupRecord, View
from shardkv import adopting, forgotten
from shardkv.admin import NodeStatus
from shardkv.adopting import Missed
from shardkv.cli.finding import Place, Request, Whole, print_json, run, talks
from shardkv.cli.reaching import controller, statuses
from shardkv.control import GID_MAX
from shardkv.errors import Unavailable as GroupUnavailable
from shardkv.forgotten import Fates, Forgotten
from shardkv.growth import CONTROLLER_GID
from shardkv.recovering import Losses, Recoverer, RecoveryRefused, choice_of
from shardkv.recovery import Assessment, Left, explained

LOOK_SECONDS: Final = 3.0
"""What the controller gets to answer in; without it only its own group can be recovered."""


class Planned(NamedTuple):
    """What is left of a group, and what follows if it goes on from that, as far as it is known."""

    found: Assessment
    fates: Fates | None  # of the shards of a group of the store
    missed: Missed | None  # of configurations, by the controller's group
    lost: Losses | None = None  # where nothing is left of a group of the store


class Reached(NamedTuple):
    """A cluster, as far as it answers."""

    client: ControllerClient
    recoverer: Recoverer
    nodes: dict[str, str]
    cluster: bytes
    view: View | None  # None: the controller does not answer

    def record(self, gid: int) -> GroupRecord | None:
        """What the controller knows of a group; None of its own.

        Raises:
            Failure: it does not answer, or knows no such group.
        """
        from shardkv.cli.failures import Exit, Failure, refused

        if gid == CONTROLLER_GID:
            return None
        if self.view is None:
            raise Failure(
                Exit.UNKNOWN,
                "unavailable: the controller does not answer: recover it first "
                "(`shardkv ctl recover plan 0`)",
                "Unavailable",
            )
        record = self.view.directory.groups.get(GroupId(gid))
        if record is None or record.uuid == RETIRED:
            known = ", ".join(str(known) for known in self.view.directory.groups)
            raise refused(f"no group {gid}; the controller knows {known or 'none'}")
        return record


_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be done; change nothing."
)


def _cluster_option(command: Any) -> Any:
    return click.option(
        "--cluster",
        metavar="ID",
        required=True,
        help="The cluster's id, as `shardkv status` shows it: a check that you mean this one.",
    )(command)


def _directories_option(command: Any) -> Any:
    return click.option(
        "--data-dir",
        "directories",
        type=Place(),
        multiple=True,
        help="Of a node that does not run; only read. May be given several times.",
    )(command)


@click.group(
    epilog="""\b
Examples:
  shardkv ctl recover plan 1
  shardkv ctl recover apply 1 --cluster 3f0c...
"""
)
def recover() -> None:
    """See what is left of a group that lost its majority, and go on from it."""


@recover.command(
    epilog="""\b
Examples:
  shardkv ctl recover plan 1
  shardkv ctl recover plan 1 --data-dir ./data/n2 --data-dir ./data/n3
"""
)
@click.argument("gid", type=Whole(0, GID_MAX))
@_directories_option
@talks
def plan(request: Request, gid: int, directories: tuple[Path, ...]) -> None:
    """Show what is left of group GID (0: the controller); changes nothing.

    It says which entries are certain, which are kept, which acknowledged writes may be gone, and
    which shards would begin anew, empty.
    """
    left = _read(directories)

    async def work() -> Planned:
        async with _reached(request) as reached:
            return await _planned(reached, gid, left)

    planned = run(work())
    if request.as_json:
        print_json({**_as_json(planned.found), **_outlook_as_json(planned)})
    else:
        sys.stdout.write("\n".join(_lines(planned)) + "\n")


@recover.command(
    epilog="""\b
Examples:
  shardkv ctl recover apply 1 --cluster 3f0c...
  shardkv ctl recover apply 1 --cluster 3f0c... --nodes n1,n4,n5
  shardkv ctl recover apply 1 --cluster 3f0c... --dry-run
"""
)
@click.argument("gid", type=Whole(0, GID_MAX))
@_cluster_option
@_directories_option
@click.option("--nodes", metavar="NODE,...", help="Then grow it to these; they must run.")
@_dry_run_option
@talks
def apply(
    request: Request,
    gid: int,
    cluster: str,
    directories: tuple[Path, ...],
    nodes: str | None,
    dry_run: bool,
) -> None:
    """Make a new group of what the longest survivor of group GID holds.

    Writes that only the lost replicas held are gone for good: look at `plan` first. The old
    replicas never come back into the group. Cut off anywhere, it is finished by running it again.
    """
    left = _read(directories)
    names = () if nodes is None else tuple(nodes.split(","))
    if dry_run:
        _foretell(request, gid, cluster, left, names)
        return

    async def work() -> tuple[str, int]:
        deadline = asyncio.get_running_loop().time() + request.timeout
        async with _reached(request) as reached:
            _check_cluster(cluster, reached.cluster)
            _check_nodes(names, reached.nodes)
            planned = await _planned(reached, gid, left)
            leader = _leader(planned.found)
            if leader and names:
                node, number = leader, 0  # born before; what is left to do is growth
                if gid == CONTROLLER_GID:
                    await reached.recoverer.caught_up(reached.client)
            else:
                for line in _lines(planned)[:-1]:
                    _tell(line)
                node, number = await reached.recoverer.apply(
                    reached.client, gid, directories=left, deadline=deadline
                )
            if names:
                await reached.recoverer.grow(gid, names, deadline=deadline)
            return node, number

    node, number = run(work(), write=True)
    if request.as_json:
        print_json({"gid": gid, "node": node, "config": number, "nodes": list(names)})
        return
    text = f"group {gid} goes on from {node}"
    text += f", in configuration {number}" if number else ""
    sys.stdout.write(text + (f", on {','.join(names)}" if names else "") + "\n")
    if not names:
        click.echo(
            f"it has one voter; give it more: shardkv ctl recover apply {gid} --cluster {cluster} "
            "--nodes NODE,...",
            err=True,
        )


def _leader(found: Assessment) -> str:
    return next((one.node for one in found.left if one.leads), "")


def _foretell(
    request: Request, gid: int, cluster: str, left: Sequence[Left], names: Sequence[str]
) -> None:
    """Show what `apply` would do; refused as that would be."""

    async def work() -> list[str]:
        async with _reached(request) as reached:
            _check_cluster(cluster, reached.cluster)
            _check_nodes(names, reached.nodes)
            planned = await _planned(reached, gid, left)
            grown = [f"group {gid}: grow it to {','.join(names)}"] if names else []
            if grown and _leader(planned.found):
                return grown
            node = choice_of(planned.found).node
            return [*_lines(planned)[:-1], f"group {gid}: go on from {node}", *grown]

    lines = run(work())
    if request.as_json:
        print_json({"dry_run": True, "steps": lines})
    else:
        sys.stdout.write("\n".join(lines) + "\n")


@click.command(
    epilog="""\b
Examples:
  shardkv ctl abandon 2 --cluster 3f0c...
  shardkv ctl abandon 2 --cluster 3f0c... --dry-run
"""
)
@click.argument("gid", type=Whole(1, GID_MAX))
@_cluster_option
@click.option(
    "--although-held",
    is_flag=True,
    help="Also lose shards of which a former owner still has rows that cannot be kept.",
)
@_dry_run_option
@talks
def abandon(request: Request, gid: int, cluster: str, although_held: bool, dry_run: bool) -> None:
    """Give up group GID, of which nothing is left: its shards begin anew, empty, in other groups.

    Shards that were on their way to it stay with the group that still has them. The gid never means
    a group again.
    """

    async def work() -> tuple[int, Losses]:
        deadline = asyncio.get_running_loop().time() + request.timeout
        async with _reached(request) as reached:
            _check_cluster(cluster, reached.cluster)
            reached.record(gid)
            if dry_run:
                view = await reached.client.newest()
                _, lost = await reached.recoverer.to_abandon(
                    reached.client, view, gid, although_held=although_held
                )
                return view.config.number + 1, lost
            return await reached.recoverer.abandon(
                reached.client, gid, deadline=deadline, although_held=although_held
            )

    number, lost = run(work(), write=not dry_run)
    if request.as_json:
        head = {"dry_run": True} if dry_run else {}
        print_json({**head, "config": number, **_losses_as_json(lost)})
        return
    title = f"config {number} would give group {gid} up" if dry_run else f"config {number}"
    lines = [title, *_losses_in_words(gid, lost)]
    sys.stdout.write("\n".join(lines) + "\n")


@asynccontextmanager
async def _reached(request: Request) -> AsyncIterator[Reached]:
    """The cluster with every node that the controller or any endpoint knows."""
    async with controller(request, "recover") as (client, reached):
        seen = await statuses(reached.transport, reached.addresses)
        answered = [status for status in seen.values() if isinstance(status, NodeStatus)]
        nodes = {name: address for status in answered for name, address in status.known}
        nodes |= {status.node: status.client for status in answered}
        view: View | None = None
        try:
            view = await client.newest(timeout=min(request.timeout, LOOK_SECONDS))
        except Unavailable:  # it may be what is lost
            _tell("the controller does not answer")
        if view is not None:
            nodes |= {str(node): found.client for node, found in view.directory.nodes.items()}
        recoverer = Recoverer(reached.transport, nodes, SystemRandom(secrets.randbits(64)), _tell)
        yield Reached(client, recoverer, nodes, reached.cluster, view)


def _read(directories: Sequence[Path]) -> list[Left]:
    from shardkv.leftovers import read

    return [left for directory in directories for left in read(directory)]


def _check_cluster(typed: str, cluster: bytes) -> None:
    from shardkv.cli.failures import refused

    if typed != cluster.hex():
        raise refused(
            "--cluster is not the id of the cluster at these endpoints; nothing was changed. "
            "`shardkv status` shows the id"
        )


def _check_nodes(names: Sequence[str], known: dict[str, str]) -> None:
    for name in names:
        if name not in known:
            raise RecoveryRefused(f"no node '{name:.64}'; known are {', '.join(sorted(known))}")


def _tell(line: str) -> None:
    click.echo(f"shardkv ctl: {line}", err=True)


async def _planned(reached: Reached, gid: int, left: Sequence[Left]) -> Planned:
    recoverer, view = reached.recoverer, reached.view
    found = await recoverer.plan(gid, reached.record(gid), left)
    fates = None if view is None else await recoverer.forgotten(reached.client, view, found)
    lost = None if found.left else await _lost_with(reached, gid)
    return Planned(found, fates, await recoverer.missed(found), lost)


async def _lost_with(reached: Reached, gid: int) -> Losses | None:
    """What would be lost with a group of which nothing is left; None: that cannot be said now."""
    if reached.view is None or gid == CONTROLLER_GID:
        return None
    try:
        return await reached.recoverer.losses(reached.client, reached.view, gid)
    except GroupUnavailable as error:
        _tell(f"what would be lost is not known: {error}")
        return None


def _lines(planned: Planned) -> list[str]:
    """A plan in words; what to type is the last line."""
    found, fates, missed, lost = planned
    lines = explained(found)
    choice = found.choice
    if missed is not None:
        lines[-1:-1] = adopting.explained(missed)
    if fates is not None:
        lines[-1:-1] = forgotten.explained(fates)
    elif choice is not None and not found.alive and found.gid != CONTROLLER_GID:
        lines[-1:-1] = [
            f"NOT KNOWN: {choice.node} does not say how its shards stand; some may begin anew, "
            "empty"
        ]
    if lost is not None:
        lines[-1:-1] = _losses_in_words(found.gid, lost)
    return lines


def _outlook_as_json(planned: Planned) -> dict[str, Any]:
    _, fates, missed, lost = planned
    if lost is not None:
        return _losses_as_json(lost)
    if missed is not None:
        return {
            "stands_at": missed.stands_at,
            "config": missed.newest,
            "missing_configs": list(missed.nowhere),
        }
    if fates is None:
        return {}
    return {
        "stands_at": fates.stands_at,
        "config": fates.newest,
        "begin_anew": [_forgotten_as_json(one) for one in fates.anew],
        "may_begin_anew": [
            {**_forgotten_as_json(one), "unheard": group} for one, group in fates.unsure
        ],
    }


def _losses_in_words(gid: int, lost: Losses) -> list[str]:
    """What is lost with a group that is given up, and what is kept."""
    from shardkv.cli.configs import ranges

    lines = [f"lost, begun anew empty: shards {ranges(lost.lost)}"]
    lines += [f"kept: shard {shard} with group {holder}" for shard, holder in lost.kept]
    lines += [
        f"MAY BE GONE: what group {gid} was written to shard {shard} since group {holder} froze it"
        for shard, holder in lost.stale
    ]
    lines += [
        f"still held by group {holder}, and cannot be kept: shard {shard}"
        for shard, holder in lost.given_on
    ]
    return lines


def _losses_as_json(lost: Losses) -> dict[str, Any]:
    return {
        "lost": list(lost.lost),
        "kept": {str(shard): holder for shard, holder in lost.kept},
        "may_lack_writes": [shard for shard, _ in lost.stale],
        "held_and_lost": {str(shard): holder for shard, holder in lost.given_on},
    }


def _forgotten_as_json(one: Forgotten) -> dict[str, int]:
    return {"shard": one.shard, "config": one.number, "from": one.source}


def _as_json(found: Assessment) -> dict[str, Any]:
    return {
        "gid": found.gid,
        "alive": found.alive,
        "commit": found.commit,
        "choice": None if found.choice is None else found.choice.node,
        "kept_to": None if found.choice is None else found.choice.last_index,
        "acknowledged_may_be_gone": not found.safe,
        "silent": list(found.silent),
        "left": [
            {
                "node": one.node,
                "uuid": one.uuid.hex(),
                "replica": one.replica,
                "index": one.last_index,
                "term": one.last_term,
                "commit": one.commit,
                "runs": one.lives,
            }
            for one in found.left
        ],
    }
