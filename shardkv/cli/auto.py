"""`shardkv auto`: a node that founds its cluster with the others, or joins it; for containers."""

from pathlib import Path

import click

from shardkv.cli.finding import Place, Whole
from shardkv.cli.node import with_settings
from shardkv.launcher import (
    GROUPS_DEFAULT,
    GROUPS_MAX,
    REPLICAS_DEFAULT,
    REPLICAS_MAX,
)


@click.command(
    epilog="""\b
Example, on each of three machines, with its own name and address:
  export SHARDKV_SEEDS=kv-0:7400,kv-1:7400,kv-2:7400
  SHARDKV_NODE=kv-0 SHARDKV_CLIENT=kv-0:7400 shardkv auto --data /var/lib/shardkv/node
"""
)
@click.option(
    "--data",
    type=Place(),
    envvar="SHARDKV_DATA",
    required=True,
    help="Its directory (else SHARDKV_DATA); made in the first start.",
)
@click.option(
    "--groups",
    type=Whole(1, GROUPS_MAX),
    envvar="SHARDKV_GROUPS",
    default=GROUPS_DEFAULT,
    show_default=True,
    help="Groups that a new cluster is founded with (else SHARDKV_GROUPS).",
)
@click.option(
    "--replicas",
    type=Whole(1, REPLICAS_MAX),
    envvar="SHARDKV_REPLICAS",
    default=REPLICAS_DEFAULT,
    show_default=True,
    help="Voters of each of them, at most as many as seeds (else SHARDKV_REPLICAS).",
)
@with_settings(but=())
def auto(data: Path, groups: int, replicas: int, **flags: str | None) -> int:
    """Run a node that forms a cluster with others which run the same command.

    Each is given its name (SHARDKV_NODE), the address that others reach it at (SHARDKV_CLIENT),
    and, all the same, the addresses of the nodes that the cluster is founded with (SHARDKV_SEEDS):
    the first of them founds it when all have come up, once. Whoever comes later joins, and holds
    nothing until a group is given to it. Run again, it resumes.

    Settings come from flags, else SHARDKV_... in the environment, else their defaults. The peer's
    port is the client's + 1 and HTTP's + 2, unless they are set.
    """
    from shardkv.auto import Founding, run

    given = {key: text for key, text in flags.items() if text is not None}
    founding = Founding(groups=groups, replicas=replicas)
    return run(data.absolute(), flags=given, founding=founding)
