"""A store that was asked for more than it could do, and serves again once that is over (L10).

Simulated seed 950000061: five times the clients over slow disks, each impatient. When they had gone
their clerks went on for ever to ask for sessions that no write waited for, each time an entry in
the log; and a group that had been asked for six times what it could do went on doing it, for
nobody, half a minute long. Writes of those who were left were never answered, reads always.
"""

import asyncio
from contextlib import suppress

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import SimCluster
from labs.knobs import Knobs
from labs.scenario import Played, ScenarioConfig, play
from raft.config import RaftConfig
from raft.rsm import ReplicatedStateMachine
from shardkv.clerk import Clerk
from shardkv.client_sessions import ShardSessions
from shardkv.errors import OutcomeUnknown, Unavailable

ONE_ENTRY_AT_A_TIME = ScenarioConfig(
    seconds=1.0,
    topology="T1",
    faults=("overload",),
    knobs=Knobs(
        raft=RaftConfig(
            heartbeat_seconds=0.1,
            election_seconds_min=0.4,
            election_seconds_max=2.0,
            append_bytes_max=1,
            inflight_messages_max=1,
        )
    ),
)
"""What a group can do is then what its disks can, one sync after the other."""


@pytest.fixture(autouse=True)
def _long_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labs.overload.BUSY_SECONDS", 15.0)


def test_an_overload_is_borne_and_forgotten() -> None:
    outcome, _ = play("overload", ONE_ENTRY_AT_A_TIME)

    assert outcome.probes["overload borne"] == 1


def test_without_refusals_a_group_works_on_for_those_who_have_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue is as long as the overload was; nobody who comes later is answered in time."""
    monkeypatch.setattr(ReplicatedStateMachine, "waited", 0.0)

    with pytest.raises(Played, match="L10") as failed:
        play("overload", ONE_ENTRY_AT_A_TIME)

    assert failed.value.invariant == "L10"


@pytest.mark.parametrize("mended", [True, False], ids=["as it is", "as it was"])
def test_a_crowd_that_has_gone_leaves_nothing_to_do(
    mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session was asked for again for as long as it took, whether or not a write waited for it;
    and each time that it was answered too late another one was opened."""
    if not mended:
        monkeypatch.setattr(ShardSessions, "given_up", lambda self: None)

    assert (run(entries_that_nobody_asked_for()) == 0) is mended


async def entries_that_nobody_asked_for() -> int:
    """Entries that a group takes long after all of its impatient clients have given up."""
    cluster = SimCluster(Chance("crowd"), nodes=3, groups=1, nshards=4)
    await cluster.start()
    (gid,) = cluster.gids
    _, admin = cluster.client()
    await admin.join([cluster.joining(gid)])
    clerks = [clerk for clerk, _ in [cluster.client() for _ in range(8)]]
    await asyncio.gather(*[clerk.get(b"key") for clerk in clerks])
    for node in cluster.nodes.values():
        node.drive.sync_seconds = 3.0  # an answer comes when nobody listens any more

    await asyncio.gather(*[impatient(clerk) for clerk in clerks])
    await asyncio.sleep(30.0)
    leader = cluster.leader(gid)
    assert leader is not None and leader.host is not None
    log = leader.host.replicas[gid].core.log
    before = log.last.index
    await asyncio.sleep(30.0)
    for clerk in clerks:
        await clerk.close()
    return log.last.index - before


async def impatient(clerk: Clerk) -> None:
    for number in range(5):
        with suppress(Unavailable, OutcomeUnknown):
            await clerk.put(b"key %d" % number, b"value", timeout=0.4)
