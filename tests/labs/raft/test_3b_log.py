"""Raft lab, part 3B: the log. Each test is the official one of its name."""

import asyncio

import pytest

from labs.harness.raft_cluster import ELECTION_SECONDS, RaftCluster
from tests.support.raft_lab import Play


def random_command(cluster: RaftCluster) -> int:
    """As large as the tests' commands get: 63 bits."""
    return cluster.rng.getrandbits(63)


def test_basic_agree_3b(play: Play) -> None:
    async def scenario(cluster: RaftCluster) -> None:
        for index in range(1, 4):
            assert cluster.n_committed(index)[0] == 0, "some have committed before start()"
            assert await cluster.one(index * 100, 3, retry=False) == index

    play(scenario, servers=3)


def test_rpc_bytes_3b(play: Play) -> None:
    """Each command is sent to each peer just once."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(99, 3, retry=False)
        before = cluster.bytes_total
        sent = 0
        for index in range(2, 12):
            command = "".join(chr(cluster.rng.randrange(97, 123)) for _ in range(5000))
            assert await cluster.one(command, 3, retry=False) == index
            sent += len(command)

        assert cluster.bytes_total - before <= 3 * sent + 50_000

    play(scenario, servers=3)


def test_follower_failure_3b(play: Play) -> None:
    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(101, 3, retry=False)
        leader1 = await cluster.check_one_leader()
        cluster.disconnect((leader1 + 1) % 3)
        await cluster.one(102, 2, retry=False)
        await asyncio.sleep(ELECTION_SECONDS)
        await cluster.one(103, 2, retry=False)

        leader2 = await cluster.check_one_leader()
        cluster.disconnect((leader2 + 1) % 3)
        cluster.disconnect((leader2 + 2) % 3)
        started = cluster.server(leader2).start(104)
        assert (started.is_leader, started.at) == (True, 4)
        await asyncio.sleep(2 * ELECTION_SECONDS)

        assert cluster.n_committed(4)[0] == 0, "committed without a majority"

    play(scenario, servers=3)


def test_leader_failure_3b(play: Play) -> None:
    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(101, 3, retry=False)
        cluster.disconnect(await cluster.check_one_leader())
        await cluster.one(102, 2, retry=False)
        await asyncio.sleep(ELECTION_SECONDS)
        await cluster.one(103, 2, retry=False)

        cluster.disconnect(await cluster.check_one_leader())
        for server in cluster.alive():
            server.start(104)
        await asyncio.sleep(2 * ELECTION_SECONDS)

        assert cluster.n_committed(4)[0] == 0, "committed without a majority"

    play(scenario, servers=3)


def test_fail_agree_3b(play: Play) -> None:
    """A follower comes back and catches up."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(101, 3, retry=False)
        away = (await cluster.check_one_leader() + 1) % 3
        cluster.disconnect(away)
        await cluster.one(102, 2, retry=False)
        await cluster.one(103, 2, retry=False)
        await asyncio.sleep(ELECTION_SECONDS)
        await cluster.one(104, 2, retry=False)
        await cluster.one(105, 2, retry=False)

        cluster.connect(away)
        await cluster.one(106, 3, retry=True)
        await asyncio.sleep(ELECTION_SECONDS)
        await cluster.one(107, 3, retry=True)

    play(scenario, servers=3)


def test_fail_no_agree_3b(play: Play) -> None:
    """No agreement while too many followers are away."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(10, 5, retry=False)
        leader = await cluster.check_one_leader()
        for k in (1, 2, 3):
            cluster.disconnect((leader + k) % 5)
        started = cluster.server(leader).start(20)
        assert (started.is_leader, started.at) == (True, 2)
        await asyncio.sleep(2 * ELECTION_SECONDS)
        assert cluster.n_committed(2)[0] == 0, "committed without a majority"

        for k in (1, 2, 3):
            cluster.connect((leader + k) % 5)
        leader2 = await cluster.check_one_leader()
        started = cluster.server(leader2).start(30)
        assert started.is_leader
        assert started.at in (2, 3)
        await cluster.one(1000, 5, retry=True)

    play(scenario, servers=5)


def test_concurrent_starts_3b(play: Play) -> None:
    async def attempt(cluster: RaftCluster) -> bool:
        """False when the term moved on meanwhile, which makes the attempt void."""
        leader = cluster.server(await cluster.check_one_leader())
        first = leader.start(1)
        if not first.is_leader:
            return False

        async def start(number: int) -> int | None:
            started = leader.start(100 + number)
            return started.at if started.is_leader and started.term == first.term else None

        indexes = await asyncio.gather(*(start(number) for number in range(5)))
        if any(server.get_state()[0] != first.term for server in cluster.alive()):
            return False
        commands = []
        for index in indexes:
            if index is not None:
                command = await cluster.wait(index, 3, first.term)
                if command is None:
                    return False
                commands.append(command)
        assert sorted(commands) == [100, 101, 102, 103, 104]
        return True

    async def scenario(cluster: RaftCluster) -> None:
        for tried in range(5):
            if tried > 0:
                await asyncio.sleep(3.0)
            if await attempt(cluster):
                return
        pytest.fail("the term changed too often")

    play(scenario, servers=3)


def test_rejoin_3b(play: Play) -> None:
    """A leader that was away comes back with entries that nobody committed."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(101, 3, retry=True)
        leader1 = await cluster.check_one_leader()
        cluster.disconnect(leader1)
        for command in (102, 103, 104):
            cluster.server(leader1).start(command)
        await cluster.one(103, 2, retry=True)

        leader2 = await cluster.check_one_leader()
        cluster.disconnect(leader2)
        cluster.connect(leader1)
        await cluster.one(104, 2, retry=True)

        cluster.connect(leader2)
        await cluster.one(105, 3, retry=True)

    play(scenario, servers=3)


def test_backup_3b(play: Play) -> None:
    """A leader backs up quickly over logs that differ in many entries."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(random_command(cluster), 5, retry=True)

        # 1. A leader with one follower gathers 50 entries that cannot be committed.
        leader1 = await cluster.check_one_leader()
        for k in (2, 3, 4):
            cluster.disconnect((leader1 + k) % 5)
        for _ in range(50):
            cluster.server(leader1).start(random_command(cluster))
        await asyncio.sleep(ELECTION_SECONDS / 2)
        for k in (0, 1):
            cluster.disconnect((leader1 + k) % 5)

        # 2. The other three commit 50.
        for k in (2, 3, 4):
            cluster.connect((leader1 + k) % 5)
        for _ in range(50):
            await cluster.one(random_command(cluster), 3, retry=True)

        # 3. Of these, a leader with one follower gathers 50 more that cannot be committed.
        leader2 = await cluster.check_one_leader()
        other = (leader1 + 2) % 5
        if leader2 == other:
            other = (leader2 + 1) % 5
        cluster.disconnect(other)
        for _ in range(50):
            cluster.server(leader2).start(random_command(cluster))
        await asyncio.sleep(ELECTION_SECONDS / 2)

        # 4. The first two and the one left over commit 50, over all that.
        for i in range(5):
            cluster.disconnect(i)
        for i in (leader1, (leader1 + 1) % 5, other):
            cluster.connect(i)
        for _ in range(50):
            await cluster.one(random_command(cluster), 3, retry=True)

        for i in range(5):
            cluster.connect(i)
        await cluster.one(random_command(cluster), 5, retry=True)

    play(scenario, servers=5)


def test_count_3b(play: Play) -> None:
    """Not too many RPCs: for an election, for agreement, and when idle."""

    async def attempt(cluster: RaftCluster) -> bool:
        """False when the term moved on meanwhile, which makes the attempt void."""
        leader = cluster.server(await cluster.check_one_leader())
        before = cluster.rpc_total
        first = leader.start(1)
        if not first.is_leader:
            return False
        commands = []
        for number in range(1, 12):
            commands.append(cluster.rng.getrandbits(31))
            started = leader.start(commands[-1])
            if started.term != first.term or not started.is_leader:
                return False
            assert started.at == first.at + number
        for number in range(1, 11):
            command = await cluster.wait(first.at + number, 3, first.term)
            if command is None:
                return False
            assert command == commands[number - 1]
        if any(server.get_state()[0] != first.term for server in cluster.alive()):
            return False
        assert cluster.rpc_total - before <= (10 + 1 + 3) * 3, "too many RPCs for the entries"
        return True

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.check_one_leader()
        assert 1 <= cluster.rpc_total <= 30, "too many or too few RPCs for the first election"

        for tried in range(5):
            if tried > 0:
                await asyncio.sleep(3.0)
            if await attempt(cluster):
                break
        else:
            pytest.fail("the term changed too often")

        before = cluster.rpc_total
        await asyncio.sleep(ELECTION_SECONDS)
        assert cluster.rpc_total - before <= 3 * 20, "too many RPCs for a second of idleness"

    play(scenario, servers=3)
