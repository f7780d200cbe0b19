"""Raft lab, part 3C: persistence. Each test is the official one of its name."""

import asyncio
from collections.abc import Callable

from labs.harness.edition import Edition
from labs.harness.raft_cluster import ELECTION_SECONDS, RaftCluster
from tests.support.raft_lab import Play


def random_command(cluster: RaftCluster) -> int:
    return cluster.rng.getrandbits(63)


def take_down(cluster: RaftCluster, i: int) -> None:
    """2024 disconnects a server and restarts it later; 2025 shuts it down at once."""
    if cluster.edition is Edition.E2025:
        cluster.crash(i)
    else:
        cluster.disconnect(i)


def test_persist1_3c(play: Play) -> None:
    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(11, 3, retry=True)
        if cluster.edition is Edition.E2025:
            await cluster.restart_all()
        else:
            for i in range(3):
                await cluster.start(i)
            for i in range(3):
                cluster.disconnect(i)
                cluster.connect(i)
        await cluster.one(12, 3, retry=True)

        leader1 = await cluster.check_one_leader()
        take_down(cluster, leader1)
        await cluster.restart(leader1)
        await cluster.one(13, 3, retry=True)

        leader2 = await cluster.check_one_leader()
        take_down(cluster, leader2)
        await cluster.one(14, 2, retry=True)
        await cluster.restart(leader2)
        await cluster.wait(4, 3, -1)  # leader2 has caught up before the next one goes

        i3 = (await cluster.check_one_leader() + 1) % 3
        take_down(cluster, i3)
        await cluster.one(15, 2, retry=True)
        await cluster.restart(i3)
        await cluster.one(16, 3, retry=True)

    play(scenario, servers=3)


def test_persist2_3c(play: Play) -> None:
    async def bring_back(cluster: RaftCluster, i: int) -> None:
        if cluster.edition is Edition.E2025:
            await cluster.restart(i)
        else:
            cluster.connect(i)

    async def scenario(cluster: RaftCluster) -> None:
        index = 1
        for _ in range(5):
            await cluster.one(10 + index, 5, retry=True)
            index += 1
            leader1 = await cluster.check_one_leader()
            for k in (1, 2):
                take_down(cluster, (leader1 + k) % 5)
            await cluster.one(10 + index, 3, retry=True)
            index += 1
            for k in (0, 3, 4):
                take_down(cluster, (leader1 + k) % 5)
            for k in (1, 2):
                await cluster.restart((leader1 + k) % 5)
            await asyncio.sleep(ELECTION_SECONDS)
            await cluster.restart((leader1 + 3) % 5)
            await cluster.one(10 + index, 3, retry=True)
            index += 1
            for k in (4, 0):
                await bring_back(cluster, (leader1 + k) % 5)
        await cluster.one(1000, 5, retry=True)

    play(scenario, servers=5)


def test_persist3_3c(play: Play) -> None:
    """A partitioned leader and one follower crash; the leader restarts."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(101, 3, retry=True)
        leader = await cluster.check_one_leader()
        cluster.disconnect((leader + 2) % 3)
        await cluster.one(102, 2, retry=True)
        cluster.crash((leader + 0) % 3)
        cluster.crash((leader + 1) % 3)
        cluster.connect((leader + 2) % 3)
        await cluster.restart((leader + 0) % 3)
        await cluster.one(103, 2, retry=True)
        await cluster.restart((leader + 1) % 3)
        await cluster.one(104, 3, retry=True)

    play(scenario, servers=3)


async def pause(cluster: RaftCluster) -> None:
    """One time in ten up to half a second, otherwise up to 12 ms."""
    longest = 500 if cluster.rng.randrange(1000) < 100 else 13
    await asyncio.sleep(cluster.rng.randrange(longest) / 1000)


def test_figure8_3c(play: Play) -> None:
    """Raft (extended), figure 8: leaders crash soon after taking entries, over and over."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(random_command(cluster), 1, retry=True)
        up = 5
        for _ in range(1000):
            leader = -1
            for i, server in enumerate(cluster.servers):
                if server is not None and server.start(random_command(cluster)).is_leader:
                    leader = i
            await pause(cluster)
            if leader != -1:
                cluster.crash(leader)
                up -= 1
            if up < 3:
                i = cluster.rng.randrange(5)
                if cluster.servers[i] is None:
                    await cluster.restart(i)
                    up += 1
        for i in range(5):
            if cluster.servers[i] is None:
                await cluster.restart(i)
        await cluster.one(random_command(cluster), 5, retry=True)

    play(scenario, servers=5)


def test_unreliable_agree_3c(play: Play) -> None:
    async def scenario(cluster: RaftCluster) -> None:
        background = []
        for number in range(1, 50):
            for k in range(4):
                agreeing = cluster.one(100 * number + k, 1, retry=True)
                background.append(asyncio.ensure_future(agreeing))
            await cluster.one(number, 1, retry=True)
        cluster.set_reliable(True)
        await asyncio.gather(*background)
        await cluster.one(100, 5, retry=True)

    play(scenario, servers=5, reliable=False)


def test_figure8_unreliable_3c(play: Play) -> None:
    """Figure 8 with losses and, from round 200 on, answers out of another age."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(cluster.rng.randrange(10_000), 1, retry=True)
        up = 5
        for iteration in range(1000):
            if iteration == 200:
                cluster.set_long_reordering(True)
            leader = -1
            for i in range(5):
                started = cluster.server(i).start(cluster.rng.randrange(10_000))
                if started.is_leader and cluster.connected[i]:
                    leader = i
            await pause(cluster)
            if leader != -1 and cluster.rng.randrange(1000) < 500:
                cluster.disconnect(leader)
                up -= 1
            if up < 3:
                i = cluster.rng.randrange(5)
                if not cluster.connected[i]:
                    cluster.connect(i)
                    up += 1
        for i in range(5):
            if not cluster.connected[i]:
                cluster.connect(i)
        await cluster.one(cluster.rng.randrange(10_000), 5, retry=True)

    play(scenario, servers=5, reliable=False)


async def churning_client(cluster: RaftCluster, me: int, stopped: Callable[[], bool]) -> list[int]:
    """Starts commands on every live server; returns those that it saw committed."""
    seen: list[int] = []
    while not stopped():
        command = random_command(cluster)
        index = -1
        for server in cluster.alive():
            started = server.start(command)
            if started.is_leader:
                index = started.at
        if index == -1:
            await asyncio.sleep((79 + me * 17) / 1000)
            continue
        for milliseconds in (10, 20, 50, 100, 200):
            count, found = cluster.n_committed(index)
            if count > 0:
                if found == command:
                    seen.append(command)
                break
            await asyncio.sleep(milliseconds / 1000)
    return seen


def churn(play: Play, *, reliable: bool) -> None:
    """Servers come and go while three clients start commands: nothing committed is lost."""

    async def scenario(cluster: RaftCluster) -> None:
        stop = False
        clients = [
            asyncio.ensure_future(churning_client(cluster, me, lambda: stop)) for me in range(3)
        ]
        for _ in range(20):
            if cluster.rng.randrange(1000) < 200:
                cluster.disconnect(cluster.rng.randrange(5))
            if cluster.rng.randrange(1000) < 500:
                i = cluster.rng.randrange(5)
                if cluster.servers[i] is None:
                    await cluster.start(i)
                cluster.connect(i)
            if cluster.rng.randrange(1000) < 200:
                cluster.crash(cluster.rng.randrange(5))
            await asyncio.sleep(0.7 * ELECTION_SECONDS)
        await asyncio.sleep(ELECTION_SECONDS)
        cluster.set_reliable(True)
        for i in range(5):
            if cluster.servers[i] is None:
                await cluster.start(i)
            cluster.connect(i)
        stop = True
        seen = [command for commands in await asyncio.gather(*clients) for command in commands]
        await asyncio.sleep(ELECTION_SECONDS)

        last = await cluster.one(random_command(cluster), 5, retry=True)
        committed = {await cluster.wait(index, 5, -1) for index in range(1, last + 1)}
        assert seen, "no client saw a command committed"
        assert set(seen) <= committed, "a command that was committed is gone"

    play(scenario, servers=5, reliable=reliable)


def test_reliable_churn_3c(play: Play) -> None:
    churn(play, reliable=True)


def test_unreliable_churn_3c(play: Play) -> None:
    churn(play, reliable=False)
