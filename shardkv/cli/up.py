"""`shardkv up`: a whole cluster on this machine."""

from pathlib import Path

import click

from shardkv.cli.finding import Place, Whole
from shardkv.launcher import (
    BASE_PORT_DEFAULT,
    GROUPS_DEFAULT,
    GROUPS_MAX,
    NODES_DEFAULT,
    NODES_MAX,
    REPLICAS_DEFAULT,
    REPLICAS_MAX,
    SHARDS_DEFAULT,
    Plan,
)
from shardkv.launcher import up as launch

SHARDS_MAX = 1024


@click.command(
    epilog="""\b
Examples:
  shardkv up
  shardkv up --data ./big --nodes 6 --groups 4 --base-port 7600
"""
)
@click.option("--nodes", type=Whole(1, NODES_MAX), help=f"Processes. [default: {NODES_DEFAULT}]")
@click.option("--groups", type=Whole(0, GROUPS_MAX), help=f"Groups. [default: {GROUPS_DEFAULT}]")
@click.option(
    "--replicas",
    type=Whole(1, REPLICAS_MAX),
    help=f"Voters of each group. [default: {REPLICAS_DEFAULT}, or --nodes if that is less]",
)
@click.option(
    "--shards", type=Whole(1, SHARDS_MAX), help=f"Fixed for ever. [default: {SHARDS_DEFAULT}]"
)
@click.option(
    "--base-port",
    type=Whole(1024, 65000),
    help=f"Node i listens at this + 10 (i - 1) and the two after. [default: {BASE_PORT_DEFAULT}]",
)
@click.option(
    "--data",
    type=Place(),
    default=Path("data"),
    show_default="./data",
    help="Where everything is kept.",
)
def up(
    nodes: int | None,
    groups: int | None,
    replicas: int | None,
    shards: int | None,
    base_port: int | None,
    data: Path,
) -> int:
    """Run a cluster of node processes; Ctrl-C stops it, and `up` again finds everything.

    Founds a cluster in an empty directory, resumes the one in a directory that holds one. Prints a
    line a node, then the address of its web page (every node has one) and `ready` once every group
    leads and has all its voters, and every node knows of them. A node that ends stays ended: the
    command that starts it again is printed. One that runs already, started by hand, takes part and
    is not stopped with the others.
    """
    plan = Plan(
        data=data.absolute(),
        nodes=nodes,
        groups=groups,
        replicas=replicas,
        shards=shards,
        base_port=base_port,
    )
    return launch(
        plan, say=click.echo, warn=lambda line: click.echo(f"shardkv up: {line}", err=True)
    )
