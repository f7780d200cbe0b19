"""A group leaves and joins a hundred times, and every key is where it is looked for."""

import asyncio

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import SimCluster
from raft.types import GroupId

KEYS = 1_000
"""With 10,000 it takes ten times as long, and is as right."""
TURNS = 100
AT_A_TIME = 500
CLEAN_SECONDS_MAX = 150.0


async def there_and_back(turns: int, keys: int) -> None:
    """Half of all shards go from one group to the other and come back, once a turn; in each some
    keys are written anew while they are on their way."""
    cluster = SimCluster(Chance("many moves"), groups=2)
    await cluster.start()
    clerk, admin = cluster.client()
    number = await admin.join([cluster.joining(gid) for gid in cluster.gids])
    names = [b"key %d" % at for at in range(keys)]
    expected = dict.fromkeys(names, b"0")
    for at in range(0, keys, AT_A_TIME):
        await asyncio.gather(*(clerk.put(name, b"0") for name in names[at : at + AT_A_TIME]))
    leaving = GroupId(cluster.gids[1])
    for turn in range(turns):
        wished = admin.leave([leaving]) if turn % 2 == 0 else admin.join([cluster.joining(leaving)])
        some = names[turn::turns]
        value = b"%d" % turn
        number, *_ = await asyncio.gather(wished, *(clerk.put(name, value) for name in some))
        expected |= dict.fromkeys(some, value)
        while not cluster.quiet(number):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)
    for at in range(0, keys, AT_A_TIME):
        some = names[at : at + AT_A_TIME]
        found = await asyncio.gather(*(clerk.get(name) for name in some))
        assert dict(zip(some, found, strict=True)) == {name: expected[name] for name in some}
    servers = [server for gid in cluster.gids for server in cluster.servers(gid)]
    deadline = asyncio.get_running_loop().time() + CLEAN_SECONDS_MAX
    while any(server.machine.has_garbage for server in servers):  # type: ignore[attr-defined]
        assert asyncio.get_running_loop().time() < deadline, "L6"
        await asyncio.sleep(1.0)
    config = (await admin.newest()).config
    for server in servers:
        cluster.oracle.judge_rest(server.machine, server.replica.store.reader, config)
    await clerk.close()
    await admin.close()


def test_every_key_survives_a_hundred_moves() -> None:
    run(there_and_back(TURNS, KEYS), seed="many moves")
