"""Raft lab, part 3D: log compaction. Each test is the official one of its name."""

from labs.harness.edition import Edition
from labs.harness.raft_cluster import LOG_BYTES_MAX, SNAPSHOT_INTERVAL, RaftCluster
from tests.support.raft_lab import Play

ITERATIONS = 30


def random_command(cluster: RaftCluster) -> int:
    return cluster.rng.getrandbits(63)


def some(cluster: RaftCluster) -> int:
    """How many commands bring on a snapshot, now and then."""
    return SNAPSHOT_INTERVAL // 2 + cluster.rng.randrange(SNAPSHOT_INTERVAL)


def snapshots_of_a_lagging_server(
    play: Play, *, reliable: bool, disconnect: bool = False, crash: bool = False
) -> None:
    """The tests' `snapcommon`: a server misses what the others cut from their logs."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(random_command(cluster), 3, retry=True)
        leader1 = await cluster.check_one_leader()
        for iteration in range(ITERATIONS):
            victim, sender = (leader1 + 1) % 3, leader1
            if iteration % 3 == 1:
                victim, sender = leader1, (leader1 + 1) % 3
            if disconnect:
                cluster.disconnect(victim)
                await cluster.one(random_command(cluster), 2, retry=True)
            if crash:
                cluster.crash(victim)
                await cluster.one(random_command(cluster), 2, retry=True)
            for _ in range(some(cluster)):
                cluster.server(sender).start(random_command(cluster))
            expected = 3 if not disconnect and not crash else 2
            await cluster.one(random_command(cluster), expected, retry=True)

            assert cluster.log_size() < LOG_BYTES_MAX, "the log is too large"

            if disconnect:
                cluster.connect(victim)
                await cluster.one(random_command(cluster), 3, retry=True)
                leader1 = await cluster.check_one_leader()
            if crash:
                await cluster.start(victim)
                cluster.connect(victim)
                await cluster.one(random_command(cluster), 3, retry=True)
                leader1 = await cluster.check_one_leader()

    play(scenario, servers=3, reliable=reliable, snapshots=True)


def test_snapshot_basic_3d(play: Play) -> None:
    snapshots_of_a_lagging_server(play, reliable=True)


def test_snapshot_install_3d(play: Play) -> None:
    snapshots_of_a_lagging_server(play, reliable=True, disconnect=True)


def test_snapshot_install_unreliable_3d(play: Play) -> None:
    snapshots_of_a_lagging_server(play, reliable=False, disconnect=True)


def test_snapshot_install_crash_3d(play: Play) -> None:
    snapshots_of_a_lagging_server(play, reliable=True, crash=True)


def test_snapshot_install_un_crash_3d(play: Play) -> None:
    snapshots_of_a_lagging_server(play, reliable=False, crash=True)


def test_snapshot_all_crash_3d(play: Play, edition: Edition) -> None:
    """All servers crash and restart, from a snapshot and the tail of the log."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(random_command(cluster), 3, retry=True)
        for _ in range(5):
            for _ in range(some(cluster)):
                await cluster.one(random_command(cluster), 3, retry=True)
            before = await cluster.one(random_command(cluster), 3, retry=True)
            await cluster.restart_all()
            after = await cluster.one(random_command(cluster), 3, retry=True)
            assert after >= before + 1

    play(scenario, servers=3, reliable=edition is Edition.E2024, snapshots=True)


def test_snapshot_init_3d(play: Play, edition: Edition) -> None:
    """What is saved after a restart still has the snapshot in it."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.one(random_command(cluster), 3, retry=True)
        for _ in range(SNAPSHOT_INTERVAL + 1):
            await cluster.one(random_command(cluster), 3, retry=True)
        await cluster.restart_all()
        await cluster.one(random_command(cluster), 3, retry=True)
        await cluster.restart_all()
        await cluster.one(random_command(cluster), 3, retry=True)

    play(scenario, servers=3, reliable=edition is Edition.E2024, snapshots=True)
