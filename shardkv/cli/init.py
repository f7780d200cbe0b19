"""`shardkv init`: the directory of a node that joins a cluster."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import click

from labrpc.errors import RpcError
from shardkv import config, nodedir
from shardkv.admin import NodeStatus
from shardkv.cli.finding import Place, Request, Seconds, parse_endpoints, run
from shardkv.config import ConfigError
from shardkv.launcher import BASE_PORT_DEFAULT, HOST, PORT_STEP

NUMBERED: Final = re.compile(r"n([1-9][0-9]{0,3})", re.ASCII)


class Found(NamedTuple):
    """What the cluster says to a newcomer."""

    cluster: bytes
    shards: int
    seeds: tuple[str, ...]


@click.command(
    epilog="""\b
Examples:
  shardkv init --data ./data/n4 --node n4 --join 127.0.0.1:7400
  shardkv node --data ./data/n4
  shardkv ctl join 3=n4,n5,n6
"""
)
@click.option("--data", type=Place(), required=True, help="To be made.")
@click.option("--node", required=True, help="Its name, such as n4; unique in the cluster.")
@click.option("--join", required=True, metavar="HOST:PORT,...", help="Nodes of the cluster.")
@click.option("--client", help="Where clients connect. [default: by the number in its name]")
@click.option("--peer", help="Where nodes connect. [default: client's port + 1]")
@click.option("--http", help="Where HTTP is served, or off. [default: client's port + 2]")
@click.option("--timeout", type=Seconds(), default=10.0, show_default=True, metavar="SECONDS")
def init(
    data: Path,
    node: str,
    join: str,
    client: str | None,
    peer: str | None,
    http: str | None,
    timeout: float,
) -> None:
    """Make a node's directory, for a node that joins a running cluster.

    The directory must be new or empty. `shardkv node` then runs it; it holds nothing until a group
    is given to it.
    """
    addresses = _addresses(node, client, peer, http)
    given = {"node": node, **addresses}
    config.load(flags=given, environment=config.environment())  # refuses what does not fit together
    if nodedir.exists(data):
        nodedir.create(data, cluster=b"", settings={})  # says what is there
    endpoints = parse_endpoints(join, "--join")
    request = Request(",".join(endpoints), timeout, as_json=False)

    def placed(known: Mapping[str, str]) -> dict[str, str]:
        """Where the others are says where this one goes by default."""
        return _addresses(node, client or _beside(node, known), peer, http)

    found, addresses = run(_ask(request, node, placed))
    nodedir.create(
        data.absolute(),
        cluster=found.cluster,
        settings={"node": node, **addresses, "seeds": found.seeds, "shards": found.shards},
    )
    sys.stdout.write(f"{node} of cluster {found.cluster.hex()} in {data}\n")
    click.echo(f"run it with: shardkv node --data {data}", err=True)


def _addresses(node: str, client: str | None, peer: str | None, http: str | None) -> dict[str, str]:
    if client is None:
        number = NUMBERED.fullmatch(node)
        if number is None:
            raise ConfigError(f"--client is needed: {node!r} has no number to derive a port from")
        client = f"{HOST}:{BASE_PORT_DEFAULT + PORT_STEP * (int(number[1]) - 1)}"
    try:
        host, _, port = config.address(client).rpartition(":")
    except ValueError as error:
        raise ConfigError(f"--client {error}") from error
    return {
        "client": client,
        "peer": peer or f"{host}:{int(port) + 1}",
        "http": http or f"{host}:{int(port) + 2}",
    }


def _beside(node: str, known: Mapping[str, str]) -> str | None:
    """The address that belongs to a node's number, if all numbered nodes that are known keep to one
    rule: base port + 10 (number - 1), on one host."""
    bases: dict[tuple[str, int], None] = {}
    for name, client in known.items():
        number = NUMBERED.fullmatch(name)
        if number is not None and name != node:
            host, _, port = client.rpartition(":")
            bases[host, int(port) - PORT_STEP * (int(number[1]) - 1)] = None
    own = NUMBERED.fullmatch(node)
    if own is None or len(bases) != 1:
        return None
    host, base = next(iter(bases))
    place = base + PORT_STEP * (int(own[1]) - 1)
    return f"{host}:{place}" if 0 < place < 65534 else None


async def _ask(
    request: Request, node: str, placed: Callable[[Mapping[str, str]], dict[str, str]]
) -> tuple[Found, dict[str, str]]:
    from shardkv.cli.failures import refused
    from shardkv.cli.reaching import reach, statuses

    async with reach(request, "init") as reached:
        seen = await statuses(reached.transport, reached.addresses)
        known = {
            name: client
            for status in seen.values()
            if isinstance(status, NodeStatus)
            for name, client in (*status.known, (status.node, status.client))
        }
        if node in known:
            living = await statuses(reached.transport, [known[node]])
            if not isinstance(living[known[node]], RpcError):
                raise refused(f"node {node} runs already, at {known[node]}: choose another name")
    addresses = placed(known)
    for name, client in known.items():
        if name != node and client == addresses["client"]:
            raise refused(f"{client} is the address of node {name}: choose another --client")
    answered = next((s for s in seen.values() if isinstance(s, NodeStatus)), None)
    if answered is None:
        raise refused("no node said how it is; try again")
    seeds = tuple(dict.fromkeys((*known.values(), *reached.addresses)))
    return Found(answered.cluster, answered.nshards, seeds), addresses
