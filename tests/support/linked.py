"""A real cluster whose nodes speak to each other through proxies that can be hurt."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from labrpc.transport import Address
from tests.support import dialled
from tests.support.processes import ROOT, Cluster, environment
from tests.support.proxy import Links


@asynccontextmanager
async def through_proxies(cluster: Cluster) -> AsyncIterator[Links]:
    """End each node that `up` started, and start it again so that it dials through proxies."""
    nodes = {node.name: Address(node.peer) for node in cluster.nodes.values()}
    async with Links(nodes) as links:
        for name in cluster.nodes:
            await asyncio.to_thread(cluster.kill, name)
            await asyncio.to_thread(cluster.obituary, name)
        for name in cluster.nodes:
            start(cluster, name, links)
        yield links


def start(cluster: Cluster, name: str, links: Links) -> None:
    """Start a node that is down, as `Cluster.restart` does, with its ways through the proxies."""
    node = cluster.nodes[name]
    assert not cluster.runs(name)
    with (cluster.directory / f"{name}.err").open("ab") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", dialled.__name__, "node", "--data", str(node.data)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            cwd=ROOT,
            env=environment(**cluster.settings)
            | {dialled.VARIABLE: json.dumps(links.map_of(name))},
        )
    cluster.adopt(process)
    node.process, node.pid = process, process.pid
