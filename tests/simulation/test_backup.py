"""Backups in the simulator: cuts of a cluster whose shards move and whose nodes crash, each one
consistent or none; and a new cluster that is planted from one."""

import asyncio
from random import Random

import pytest

from labrpc.errors import Refused
from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labrpc.transport import Address
from labs.cluster import SimCluster
from labs.history import History
from labs.sim_node import CLUSTER
from labs.workload import Workload, WorkloadConfig
from raft.errors import RaftError
from raft.ports import Rows as DiskRows
from raft.types import EntryId, GroupId, Index, Term
from shardctrler.errors import ChangeRefused, ShardCtrlerError
from shardctrler.types import ShardId
from shardkv import admin as messages
from shardkv.backup.manifest import GroupFile, Manifest, decode, encode
from shardkv.backup.protocol import NEXT, OPEN, Next, Open, Opened
from shardkv.backup.restoring import Birth, plant
from shardkv.backup.rows import BackupDamaged, RowReader, check_cut
from shardkv.backup.taking import BackupFailed, Cut, Taker
from shardkv.handover import RateLimit
from shardkv.planner import HealPolicy
from shardkv.routing import SlotRouting
from shardkv.rows import DATA, copy_of, decode_row, prefix_of
from tests.support.storage import G1, ONE_VOTER, Storage, entry_id, record

NSHARDS = 12
ROUTING = SlotRouting(NSHARDS)


class Memory:
    """A sink that keeps chunks."""

    def __init__(self) -> None:
        self.chunks: dict[GroupId, list[bytes]] = {}

    def begin(self, gid: GroupId) -> None:
        self.chunks[gid] = []

    def add(self, gid: GroupId, chunk: bytes) -> None:
        self.chunks[gid].append(chunk)

    def end(self, gid: GroupId) -> None:
        assert self.chunks[gid]


class Rows(RowReader):
    """A reader that keeps the clients' rows."""

    def __init__(self, gid: GroupId, last: EntryId) -> None:
        super().__init__(gid, last)
        self.kept: dict[bytes, bytes] = {}

    def write(self, batch) -> None:  # type: ignore[no-untyped-def]
        super().write(batch)
        skip = len(prefix_of(ShardId(0), 0)) + 1  # type: ignore[arg-type]
        for key, row in batch:
            if key[:1] != b"s" or key[skip - 1 : skip] != DATA:
                continue
            shard, generation = copy_of(key)
            if self._live.get(shard) == generation:  # what is not is garbage on its way out
                self.kept[key[skip:]] = decode_row(key, row).value or b""


def keys_in(cut: Cut, memory: Memory) -> dict[bytes, bytes]:
    """Every key of a backup; each in one group only."""
    found: dict[bytes, bytes] = {}
    contents = {}
    for gid, source in cut.sources.items():
        opened = source.opened
        reader = Rows(gid, EntryId(Index(opened.index), Term(opened.term)))
        for chunk in memory.chunks[gid]:
            reader.add(chunk)
        contents[gid] = reader.contents
        assert not gid or not found.keys() & reader.kept.keys()
        found |= reader.kept if gid else {}
    check_cut(contents)
    return found


def scene(seed: str) -> SimCluster:
    heal = HealPolicy(heal=False, uneven_seconds=1e6)
    return SimCluster(Chance(seed), groups=3, nshards=NSHARDS, heal=heal)


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_backup_in_a_storm_of_moves_and_crashes_is_consistent_or_none(seed: int) -> None:
    """What was acknowledged before it began is in it; each key once."""
    name = f"storm/{seed}"
    taken = 0

    async def main() -> None:
        nonlocal taken
        cluster = scene(name)
        await cluster.start()
        pairs = [cluster.client() for _ in range(4)]
        admin = pairs[0][1]
        await admin.join([cluster.joining(gid) for gid in cluster.gids[:2]])
        history = History()
        config = WorkloadConfig(lists=8, registers=0, pairs=0, pause_max=0.03)
        workload = Workload([c for c, _ in pairs[1:]], Random(seed), config, history)
        asking = asyncio.ensure_future(workload.run())
        await asyncio.sleep(1.5)
        stop = False

        async def storm() -> None:
            rng, third = Random(name), False
            while not stop:
                try:
                    if third:
                        await admin.leave([GroupId(3)])
                    else:
                        await admin.join([cluster.joining(GroupId(3))])
                    third = not third
                except (ChangeRefused, ShardCtrlerError):
                    third = GroupId(3) in (await admin.newest()).config.groups
                node = rng.choice(list(cluster.nodes.values()))
                node.crash()
                await asyncio.sleep(0.4)
                await node.start()
                await asyncio.sleep(rng.uniform(0.0, 0.8))

        raging = asyncio.ensure_future(storm())
        transport = cluster.network.transport(Address("operator"))
        controller = cluster.client()[1]
        for _ in range(4):
            before = {
                op.value: op.key
                for op in history.operations
                if op.writes and op.happened and op.value
            }
            memory, lines = Memory(), list[str]()
            taker = Taker(transport, controller, RateLimit(50_000), lines.append)
            try:
                cut = await taker.take(memory, settle_seconds=6.0)
            except (BackupFailed, ShardCtrlerError, RaftError):
                continue  # definite: nothing was made
            taken += 1
            found = keys_in(cut, memory)
            for value, key in before.items():
                assert value in found[key], (value, key, lines)
        stop = True
        await asyncio.gather(raging)
        workload.stop()
        await asking
        for one, two in pairs:
            await one.close()
            await two.close()
        await controller.close()

    run(main(), seed=name)
    assert taken > 0, "a storm in which no backup succeeds shows little"


def test_states_that_nobody_reads_are_let_go() -> None:
    """A backup that dies costs a node nothing after a while."""

    async def main() -> None:
        cluster = scene("idle streams")
        await cluster.start()
        _, admin = cluster.client()
        await admin.join([cluster.joining(gid) for gid in cluster.gids])
        await asyncio.sleep(2.0)
        transport = cluster.network.transport(Address("operator"))
        taker = Taker(transport, admin, RateLimit(1), lambda _: None)
        reading = asyncio.ensure_future(taker.take(Memory(), settle_seconds=5.0))
        await asyncio.sleep(1.0)
        held = [n.assembly.backups.streams for n in cluster.nodes.values() if n.assembly]
        assert sum(held) == 4
        transport.crash()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

        await asyncio.sleep(130.0)

        held = [n.assembly.backups.streams for n in cluster.nodes.values() if n.assembly]
        assert sum(held) == 0
        await admin.close()

    run(main())


def test_a_chunk_is_given_again_and_none_is_passed_over() -> None:
    async def main() -> None:
        cluster = scene("chunks")
        await cluster.start()
        _, admin = cluster.client()
        await admin.newest()
        transport = cluster.network.transport(Address("operator"))

        async def ask(method: str, question: Open | Next) -> bytes:
            body = messages.encode(question)
            return await transport.call(cluster.controllers[0], method, body, timeout=1.0)

        opened = messages.decode(Opened, await ask(OPEN, Open(0, b"")))
        first = await ask(NEXT, Next(opened.stream, 0))
        assert await ask(NEXT, Next(opened.stream, 0)) == first, "its answer was lost"
        for number in (2, 7):
            with pytest.raises(Refused, match="chunk 0 was given last"):
                await ask(NEXT, Next(opened.stream, number))
        await admin.close()

    run(main())


def test_a_new_group_has_its_state_before_it_has_a_log() -> None:
    """A power cut in the moment in which it is born leaves all of it, what was rewritten too."""

    async def main() -> None:
        source, target = Storage(), Storage()
        old = source.data()
        old.adopt(7, ONE_VOTER)
        old.commit([(b"kept", b"1"), (b"rewritten", b"old")], entry_id(5, 2), ONE_VOTER)
        capture = old.capture()
        birth = Birth(record(), ONE_VOTER.voters[0])
        store = await target.create()

        def rewrite(rows: DiskRows) -> None:
            rows.put(b"rewritten", b"new")

        data_disk, chunks = target.drive.disk("data"), capture.chunks(1000)
        await plant(store, data_disk, birth, entry_id(5, 2), Term(3), chunks, rewrite)
        store = await target.crash(store)

        data = target.data()
        assert data.applied == entry_id(5, 2) == store.last(G1)
        assert dict(data.reader.range(b"", b"z")) == {b"kept": b"1", b"rewritten": b"new"}

    run(main())


def test_a_cut_that_does_not_fit_together_is_found_on_the_rows() -> None:
    """Whatever the replicas said of themselves: two groups at different configurations."""

    async def main() -> None:
        cluster = scene("torn")
        await cluster.start()
        clerk, admin = cluster.client()
        number = await admin.join([cluster.joining(gid) for gid in cluster.gids[:2]])
        assert number == 1
        transport = cluster.network.transport(Address("operator"))
        first, second = Memory(), Memory()
        taker = Taker(transport, admin, RateLimit(1e9), lambda _: None)
        one = await taker.take(first, settle_seconds=5.0)
        await admin.move(
            ShardId(0), GroupId(2 if one.contents[GroupId(1)].phases[0][0] == 0 else 1)
        )
        two = await taker.take(second, settle_seconds=10.0)

        assert two.number == one.number + 1
        torn = {**two.contents, GroupId(1): one.contents[GroupId(1)]}
        with pytest.raises(BackupDamaged, match="stands at configuration"):
            check_cut(torn)
        missing = {gid: found for gid, found in two.contents.items() if gid != 2}
        with pytest.raises(BackupDamaged, match="names groups"):
            check_cut(missing)
        served = two.contents[GroupId(1)].phases
        for phases in (served[1:], (*served, two.contents[GroupId(2)].phases[0])):
            wrong = {**two.contents, GroupId(1): two.contents[GroupId(1)]._replace(phases=phases)}
            with pytest.raises(BackupDamaged, match="group 1 serves other shards"):
                check_cut(wrong)
        await clerk.close()
        await admin.close()

    run(main())


def test_a_manifest_is_read_as_it_was_written() -> None:
    group = GroupFile(
        gid=0, uuid="00" * 16, index=7, term=2, newest_term=3, nodes=("n1",), rows=1, keys=0,
        sessions=0, bytes=10, sha256="00" * 32,
    )  # fmt: skip
    manifest = Manifest(
        version="1", made="now", cluster=CLUSTER.hex(), nshards=4, config=0, groups=(group,)
    )

    data = encode(manifest)

    assert decode(data) == manifest
    for at in range(len(data)):
        with pytest.raises(BackupDamaged):
            decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for length in range(len(data)):
        with pytest.raises(BackupDamaged):
            decode(data[:length])
