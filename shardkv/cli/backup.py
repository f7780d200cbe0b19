"""`shardkv backup` and `shardkv restore`: a running cluster as files, and a new cluster of them."""

import asyncio
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import click

from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardkv.backup import files
from shardkv.backup.manifest import Manifest
from shardkv.backup.taking import Taker
from shardkv.cli.finding import Place, Request, Seconds, Whole, print_json, run, talks
from shardkv.cli.reaching import reach
from shardkv.control import endpoints_of
from shardkv.handover import RateLimit
from shardkv.launcher import BASE_PORT_DEFAULT, NODES_MAX, REPLICAS_MAX

MIB: Final = 1024 * 1024
RATE_DEFAULT: Final = 24
"""1 GB in 43 seconds."""
NICENESS: Final = 5
"""So that a backup on a machine of the cluster leaves the processor to the nodes."""
RATE_MAX: Final = 10_000
WAIT_SECONDS: Final = 30.0
PROGRESS_SECONDS: Final = 1.0
VERIFY: Final = "verify"


@click.command(
    epilog="""\b
Examples:
  shardkv backup ./backup-1
  shardkv backup ./backup-1 --rate 8 --wait 120
  shardkv backup verify ./backup-1
"""
)
@click.argument("words", nargs=-1, required=True, metavar="[verify] DIR")
@click.option(
    "--rate",
    type=Whole(1, RATE_MAX),
    default=RATE_DEFAULT,
    show_default=True,
    metavar="MIB",
    help="MiB a second to read at most, over all groups.",
)
@click.option(
    "--wait",
    type=Seconds(),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for shards that move to settle.",
)
@talks
def backup(request: Request, words: tuple[str, ...], rate: int, wait: float) -> None:
    """Make a backup of a running cluster in DIR, which must be new or empty.

    Clients go on reading and writing. What was acknowledged before the backup began is in it. With
    `verify`, read a backup through and say what is in it; no cluster is needed for that.
    """
    verifying = words[0] == VERIFY and len(words) > 1
    rest = words[1:] if verifying else words
    if len(rest) != 1:
        raise click.UsageError("one DIR is needed: `shardkv backup DIR`, or `backup verify DIR`")
    directory = Place().convert(rest[0], None, None)
    if verifying:
        manifest, _ = files.verify(directory, _tell)
    else:
        writer = files.BackupWriter(directory.absolute())
        try:
            manifest = run(_take(request, writer, rate, wait))
        except BaseException:
            writer.abandon()
            raise
    _print(request, directory, manifest)


async def _take(request: Request, writer: files.BackupWriter, rate: int, wait: float) -> Manifest:
    os.nice(NICENESS)
    async with reach(request, "backup") as reached:
        controller = ControllerClient(
            reached.transport,
            endpoints_of(reached.addresses),
            Random(secrets.randbits(64)),
            timeout_seconds=request.timeout,
        )
        taker = Taker(reached.transport, controller, RateLimit(rate * MIB), _tell)
        watch = asyncio.get_running_loop().create_task(_watch(taker))
        try:
            cut = await taker.take(writer, settle_seconds=wait)
            made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return writer.finish(cut, cluster=reached.cluster, made=made)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await controller.close()


async def _watch(taker: Taker) -> None:
    """Say once a second how far it is."""
    said = 0
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        if taker.bytes != said:
            said = taker.bytes
            _tell(f"{said / MIB:.0f} MiB")


def _tell(line: str) -> None:
    click.echo(f"shardkv backup: {line}", err=True)


def _print(request: Request, directory: Path, manifest: Manifest) -> None:
    total = sum(group.bytes for group in manifest.groups)
    keys = sum(group.keys for group in manifest.groups)
    if request.as_json:
        print_json(
            {
                "backup": str(directory),
                "cluster": manifest.cluster,
                "made": manifest.made,
                "config": manifest.config,
                "shards": manifest.nshards,
                "keys": keys,
                "bytes": total,
                "groups": [
                    {"gid": g.gid, "index": g.index, "keys": g.keys, "bytes": g.bytes}
                    for g in manifest.groups
                ],
            }
        )
        return
    lines = [
        f"backup {directory}: cluster {manifest.cluster}, made {manifest.made}",
        f"configuration {manifest.config}, {manifest.nshards} shards, {keys} keys, {total} bytes",
    ]
    for group in manifest.groups:
        name = f"group {group.gid}" if group.gid else "controller"
        lines.append(
            f"{name}: entry {group.index}, {group.keys} keys, {group.sessions} sessions, "
            f"{group.bytes} bytes"
        )
    sys.stdout.write("\n".join(lines) + "\n")


@click.command(
    epilog="""\b
Examples:
  shardkv restore ./backup-1 --data ./new
  shardkv restore ./backup-1 --data ./new --nodes 5 --base-port 7600
  shardkv up --data ./new
"""
)
@click.argument("directory", type=Place(), metavar="DIR")
@click.option("--data", type=Place(), required=True, help="To be made; new or empty.")
@click.option("--nodes", type=Whole(1, NODES_MAX), help="[default: as many as there were]")
@click.option("--replicas", type=Whole(1, REPLICAS_MAX), help="[default: 3, or --nodes if less]")
@click.option(
    "--base-port",
    type=Whole(1024, 65000),
    help=f"Node i listens at this + 10 (i - 1) and the two after. [default: {BASE_PORT_DEFAULT}]",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def restore(
    directory: Path,
    data: Path,
    nodes: int | None,
    replicas: int | None,
    base_port: int | None,
    as_json: bool,
) -> None:
    """Make the data of a new cluster from the backup in DIR; `shardkv up` then starts it.

    Every byte of the backup is verified before anything is written. The new cluster has an id of
    its own: nodes and clients of the old one are refused by it, and refuse it.
    """
    from shardkv.backup.restoring import Shape, restore_to

    restored = restore_to(
        directory,
        data.absolute(),
        Shape(nodes=nodes, replicas=replicas, base_port=base_port),
        lambda line: click.echo(f"shardkv restore: {line}", err=True),
    )
    gids = sorted(GroupId(gid) for gid in restored.groups)
    if as_json:
        print_json({"cluster": restored.cluster, "nodes": list(restored.nodes), "groups": gids})
    else:
        sys.stdout.write(
            f"cluster {restored.cluster}: {len(restored.nodes)} nodes, {len(gids)} groups, "
            f"in {data}\n"
        )
    click.echo(f"start it with: shardkv up --data {data}", err=True)
