"""A replica that is born again as the only voter of another group, wherever a crash may cut."""

import asyncio

import pytest

from labrpc.sim.loop import run
from raft.codec import decode_membership
from raft.disk.log_store import LogStore, ReplicaRefused
from raft.types import EntryKind, GroupUuid, Index, Member, Membership, NodeId, ReplicaId, Term
from tests.support.storage import G1, Storage, loaded, meta, one_group, record, vote

NEW = GroupUuid(b"n" * 16)
REBORN = record(replica=1001)._replace(uuid=NEW)
ALONE = Membership((Member(ReplicaId(1001), NodeId("n1"), "a"),), next_id=ReplicaId(1002))


async def born_again(store: LogStore) -> None:
    store.hard_state(G1)
    loaded(store)
    await store.rebirth(REBORN, ALONE)


def test_the_log_goes_on_under_the_other_uuid_with_one_voter() -> None:
    """All that it held is kept; the members are set by the entry that follows, in a later term."""

    async def main() -> None:
        storage = Storage()
        store = await storage.reopen(await one_group(storage, "1 1 2", term=4))
        before = loaded(store)

        await store.rebirth(REBORN, ALONE)
        store = await storage.crash(store)

        assert store.replicas() == [REBORN]
        assert store.hard_state(G1) == vote(5)
        *kept, last = loaded(store)
        assert kept == before
        assert (last.index, last.term, last.kind) == (Index(4), Term(5), EntryKind.MEMBERSHIP)
        assert decode_membership(last.data) == ALONE

    run(main())


def test_no_id_of_the_group_that_it_was_comes_back() -> None:
    async def main() -> None:
        storage = Storage()
        store = await storage.reopen(await one_group(storage, "1"))
        await born_again(store)
        store = await storage.reopen(store)
        loaded(store)

        await store.drop_replica(G1)

        with pytest.raises(ReplicaRefused, match="ids up to 1001"):
            store.create_replica(record(replica=1), meta(0, 0))

    run(main())


@pytest.mark.parametrize("turns", range(12))
def test_a_crash_leaves_it_as_it_was_or_as_it_is_to_be(turns: int) -> None:
    """And the node starts again either way: no promise names what is not on disk."""
    seen: list[bool] = []

    async def main() -> None:
        storage = Storage()
        store = await storage.reopen(await one_group(storage, "1 1 2", term=4))
        entries = loaded(store)
        rebirth = asyncio.ensure_future(store.rebirth(REBORN, ALONE))
        for _ in range(turns):
            await asyncio.sleep(0.00005)
        store = await storage.crash(store)
        rebirth.cancel()
        await asyncio.gather(rebirth, return_exceptions=True)

        reborn = store.replicas() == [REBORN]
        if reborn:
            assert loaded(store)[:3] == entries and store.hard_state(G1) == vote(5)
        else:
            assert (store.replicas(), loaded(store)) == ([record()], entries)
        seen.append(reborn)

    run(main())
    assert seen in ([True], [False])


def test_a_vote_under_way_is_promised_under_the_id_that_gave_it() -> None:
    """Or a crash might leave a promise of the new id beside a log that knows the old one alone."""
    seen: dict[bool, int] = {True: 0, False: 0}

    async def main(seed: int, moments: int) -> None:
        storage = Storage(seed)
        store = await storage.reopen(await one_group(storage, "1", term=4))
        loaded(store)
        voted = store.save(G1, vote(6, 1), [])
        rebirth = asyncio.ensure_future(store.rebirth(REBORN, ALONE))
        await asyncio.sleep(moments * 0.00005)
        store = await storage.crash(store)
        voted.cancel()
        rebirth.cancel()
        await asyncio.gather(rebirth, return_exceptions=True)

        reborn = store.replicas() == [REBORN]
        assert reborn or store.replicas() == [record()]
        assert store.hard_state(G1) in ((vote(7),) if reborn else (vote(4, 1), vote(6, 1)))
        seen[reborn] += 1

    for seed in range(16):
        for moments in range(1, 16):
            run(main(seed, moments), seed=seed)
    assert all(seen.values()), "crashes before and after it"
