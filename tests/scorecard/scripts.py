"""Safeguards whose loss a script shows as a broken invariant: stories too rare for chance.

The scripts are those of the field's bugs (`tests/raft/test_field_bugs_*.py`) and a few of our own.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from zlib import crc32

import msgpack
import pytest

import raft.disk.log_store
import raft.election
from labrpc.sim.loop import run
from raft.disk.data_store import Capture
from raft.disk.log_store import ReplicaRefused
from raft.disk.records import ReplicaRecord
from raft.frames import CHECKSUM_BYTES, FrameCodec
from raft.leader import Leader
from raft.messages import AppendReply, Heartbeat, RequestVote
from raft.parcel import Parcel
from raft.quorum import Electorate
from raft.types import Index, NodeId, Term
from shardctrler.types import ShardId
from shardkv.handover import Handover
from tests.raft import test_field_bugs_elections as elections
from tests.raft import test_field_bugs_snapshots as snapshots
from tests.raft import test_field_bugs_transfer as transfer
from tests.raft.test_field_bugs_can_fail import (
    a_blank_node_gets_its_old_name,
    a_transfer_never_expires,
    joint_is_left_at_once,
    no_prevote_and_no_check_of_the_quorum,
)
from tests.raft.test_safeguards import LONG_LOGS, QUICK, Safeguard, led, others
from tests.scorecard import sharding, shell
from tests.scorecard.trials import Row, Trial, _quietly, chaos, cluster, tests
from tests.simulation.test_field_bugs_shards import A, B, Scene
from tests.simulation.test_field_bugs_shards import play as play_shards
from tests.support.chaos import ChaosWorld, Knobs
from tests.support.hosts import GID, UUID
from tests.support.scripted import E, Scripted

Patch = pytest.MonkeyPatch
MEMBERS = ("members", "isolate", "slow disk", "crash")


def script(play: Callable[..., None], *arguments: Any) -> Callable[[], Iterator[Trial]]:
    """One story. Its assertions begin with the invariant that is broken."""

    def trials() -> Iterator[Trial]:
        name = play.__name__.removeprefix("test_")
        yield Trial(f"script `{name}`", partial(_quietly, play, *arguments))

    return trials


# Stories


def a_candidate_that_cannot_win() -> None:
    """A14: a node with a stale log asks for votes all the time; the others elect one of theirs."""
    group = Scripted(5)
    lead = group.commits(b"before")
    group.run(2 * E)
    lead = group.leading()[-1]
    stale = group.node(group.numbers(lead.id)[0])
    assert stale.core is not None
    last = stale.core.log.last
    group.cut_off(stale.id)
    group.commits(b"the stale one has it not")
    group.run(E)
    group.crash(lead)

    end = group.now + 20 * E
    while not group.leading():
        assert group.now < end, "L1: nobody leads while one that cannot win campaigns"
        for node in group.nodes.values():
            if node.core is not None and node is not stale:
                node.core.step(
                    RequestVote(stale.id, node.id, Term(max(1, node.core.term - 1)), last),
                    group.now,
                )
                group.turn(node)
        group.run(0.2)


def an_idle_group_after_a_restart() -> None:
    """A19: with no client's write a new leader must come to know what is committed."""
    group = Scripted(3)
    group.commits(b"before")
    group.run(E)
    for node in group.nodes.values():
        group.crash(node)
    for node in group.nodes.values():
        group.start(node)
    lead = group.led()
    group.run(5 * E)
    assert lead.core is not None
    lead = group.leading()[-1]
    assert lead.core is not None
    assert any(e.data == b"before" for e in lead.applied), "L3: it applies nothing any more"


def one_apply_that_fails() -> None:
    """G05: a replica whose machine fails at one entry must not go on with the next."""

    async def main() -> None:
        world = ChaosWorld(2, Knobs(size=3, faults=(), config=QUICK, compaction=LONG_LOGS))
        await world.grow()
        leader = await led(world)
        await world.submit(leader, b"before")
        victim = others(world, leader)[0]
        await world.until(lambda: victim.replica.applied == leader.replica.applied)
        machine = victim.rsm.machine
        apply = machine.apply

        def failing(index: Index, command: bytes, rows: Any) -> Any:
            machine.apply = apply  # type: ignore[method-assign]
            raise ZeroDivisionError("a bug")

        machine.apply = failing  # type: ignore[method-assign]
        for number in range(5):
            await world.submit(leader, b"after %d" % number)
        await asyncio.sleep(0.5)
        world.oracle.must(
            victim.replica.stopped_because is not None, "R6", "it went on behind what it missed"
        )
        world.oracle.check()

    run(main())


def a_node_of_another_cluster() -> None:
    """G14: a node that was restored from a copy under another cluster's id still knows our
    addresses, and speaks of a term far above ours."""

    async def main() -> None:
        world = ChaosWorld(3, Knobs(size=3, faults=(), config=QUICK, compaction=LONG_LOGS))
        await world.grow()
        leader = await led(world)
        await world.submit(leader, b"a command")
        core, host = leader.replica.core, leader.host
        assert host is not None
        other = others(world, leader)[0]
        term = core.term
        answer = AppendReply(other.replica.id, leader.replica.id, Term(term + 5))
        stranger = FrameCodec(b"x" * 16, NodeId(other.name), other.address)

        host.receive(stranger.pack([Parcel(GID, UUID, answer)]))

        await asyncio.sleep(0.01)
        world.oracle.must(core.term == term, "R17", "a term that nobody of this group was in")
        world.oracle.check()

    run(main())


def an_old_log_is_put_back() -> None:
    """K05: a copy of the log from before some acknowledged entries; it is whole, and too old."""

    async def main() -> None:
        world = ChaosWorld(4, Knobs(size=3, faults=(), config=QUICK, compaction=LONG_LOGS))
        await world.grow()
        leader = await led(world)
        await world.submit(leader, b"old")
        victim = others(world, leader)[0]
        await world.until(lambda: victim.replica.applied == leader.replica.applied)
        image = victim.drive.image()
        for number in range(10):
            await world.submit(leader, b"newer %d" % number)
        await asyncio.sleep(0.3)  # the promise follows the entries within a tenth of a second
        victim.power_cut()
        victim.drive.roll_back("log", image)
        victim.power_up()
        await asyncio.sleep(0.5)
        refused = [story for story in world.oracle.violations if "DataUnusable" in story]
        world.oracle.violations = [s for s in world.oracle.violations if s not in refused]
        world.oracle.must(bool(refused), "R18", "a log without what was acknowledged was taken")
        world.oracle.check()

    run(main())


def a_leader_with_an_ill_disk() -> None:
    """K06: its syncs take 5 s, the others' 0.2 ms: it must not lead on (gray failure)."""

    async def main() -> None:
        world = ChaosWorld(5, Knobs(size=3, faults=(), config=QUICK, compaction=LONG_LOGS))
        await world.grow()
        leader = await led(world)
        leader.drive.sync_seconds = 5.0
        waiting = leader.rsm.submit(b"the others have it")
        await asyncio.sleep(3.0)
        world.oracle.must(world.leading() is not leader, "L8", "an ill disk leads on")
        waiting.cancel()
        world.oracle.check()

    run(main())


def a_removed_id_comes_back() -> None:
    """H12: a replica was removed and dropped; its id, with which it promised, is given again."""

    async def main() -> None:
        world = ChaosWorld(6, Knobs(size=3, faults=(), config=QUICK, compaction=LONG_LOGS))
        await world.grow()
        leader = await led(world)
        gone = others(world, leader)[0]
        old = gone.replica.id
        leader.replica.change_members(remove=[old])
        await world.until(lambda: len(leader.replica.core.membership.voters) == 2)
        await asyncio.sleep(0.5)
        assert gone.host is not None
        await gone.host.drop_replica(GID)
        gone.power_cut()
        gone.power_up()
        await world.until(lambda: gone.up)
        try:
            await gone.host.create_replica(ReplicaRecord(GID, UUID, old, incarnation=9))
        except ReplicaRefused:
            return
        world.oracle.must(False, "R1", f"replica {old} is there again, without its promises")
        world.oracle.check()

    run(main())


async def _two_administrators(scene: Scene) -> None:
    _, other = scene.cluster.client()
    number = (await scene.admin.newest()).config.number
    moves = [
        admin.move(ShardId(shard), gid, expect=number)
        for admin, shard, gid in ((scene.admin, 0, B), (other, 1, B), (other, 2, A))
    ]
    told = await asyncio.gather(*moves, return_exceptions=True)
    made = [answer for answer in told if isinstance(answer, int) and answer > number]
    assert len(made) == len(set(made)) <= 1, f"S6: after {number} came {told}, each made of it"
    await other.close()


def two_administrators() -> None:
    """F31: both have read one configuration, and change it at once."""
    play_shards(_two_administrators, 1)


# What is taken away


def snapshots_without(patch: Patch, hidden: Callable[[bytes], bool]) -> None:
    """What is streamed to a follower lacks rows."""
    make, chunks = Capture.__init__, Capture.chunks

    def noted(self: Capture, gid: Any, *more: Any) -> None:
        make(self, gid, *more)
        self.of = gid  # type: ignore[attr-defined]

    def broken(self: Capture, bytes_max: int) -> Iterator[bytes]:
        inner, skip = self._rows, len(self._lo)
        if not self.of:  # type: ignore[attr-defined]
            return chunks(self, bytes_max)  # the controller's rows are others

        class Rows:
            def range(self, lo: bytes, hi: bytes) -> Iterator[tuple[bytes, bytes]]:
                return ((k, v) for k, v in inner.range(lo, hi) if not hidden(k[skip:]))

            def close(self) -> None:
                inner.close()

        self._rows = Rows()  # type: ignore[assignment]
        return chunks(self, bytes_max)

    patch.setattr(Capture, "__init__", noted)
    patch.setattr(Capture, "chunks", broken)


def is_session(key: bytes) -> bool:
    return key[:1] == b"s" and key[11:12] == b"t"


def is_record(key: bytes) -> bool:
    return key[:1] in (b"r", b"c")


def successors_do_not_resume(patch: Patch) -> None:
    """Only who led when the configuration was taken does what it asks for."""
    look, advance = Handover.look, Handover._advance

    async def noted(self: Handover, step: Any) -> bool:
        done = await advance(self, step)
        if done:
            self.saw = step.number  # type: ignore[attr-defined]
        return done

    def broken(self: Handover) -> None:
        machine = self._server.machine
        if machine.unsettled and getattr(self, "saw", None) != machine.number:
            return
        look(self)

    patch.setattr(Handover, "_advance", noted)
    patch.setattr(Handover, "look", broken)


def frames_of_any_cluster(patch: Patch) -> None:
    unpack = FrameCodec.unpack

    def broken(self: FrameCodec, data: bytes) -> Any:
        fields = msgpack.unpackb(data[CHECKSUM_BYTES:])
        fields[1] = self._cluster
        return unpack(self, _checked(msgpack.packb(fields)))

    patch.setattr(FrameCodec, "unpack", broken)


def damaged_frames_are_believed(patch: Patch) -> None:
    unpack = FrameCodec.unpack

    def broken(self: FrameCodec, data: bytes) -> Any:
        return unpack(self, _checked(data[CHECKSUM_BYTES:]))

    patch.setattr(FrameCodec, "unpack", broken)


def _checked(packed: bytes) -> bytes:
    return crc32(packed).to_bytes(CHECKSUM_BYTES, "big") + packed


def votes_while_a_leader_lives(patch: Patch) -> None:
    patch.setattr(raft.election, "hears_leader", lambda state, now: False)
    no_prevote_and_no_check_of_the_quorum(patch)


def learners_count(patch: Patch) -> None:
    of = Electorate.of

    def broken(at: Any) -> Electorate:
        return of(at._replace(voters=(*at.voters, *at.learners), learners=()))

    patch.setattr(Electorate, "of", staticmethod(broken))


def the_promise_is_not_compared(patch: Patch) -> None:
    find = raft.disk.log_store.find_promise  # type: ignore[attr-defined]

    def broken(slots: Any) -> Any:
        found = find(slots)
        if found.promise is None:
            return found
        return found._replace(promise=found.promise._replace(write_number=0, vows=()))

    patch.setattr(raft.disk.log_store, "find_promise", broken)


def an_ill_disk_is_nobodys_business(patch: Patch) -> None:
    patch.setattr(Leader, "_check_disk", lambda self, now: None)


def heartbeats_commit_anything(patch: Patch) -> None:
    """Also what the follower is not known to hold: its tail may be another leader's."""
    beat = Leader.beat

    def broken(self: Leader) -> None:
        beat(self)
        early = self._state.early
        for place, message in enumerate(early):
            if isinstance(message, Heartbeat):
                early[place] = message._replace(commit=self._state.commit)

    patch.setattr(Leader, "beat", broken)


def rows() -> list[Row]:
    leveldb = "tests/raft/disk/test_paranoid.py"
    one_way = elections.test_three_nodes_of_which_one_is_isolated_one_way
    return [
        Row("A14", "any message restarts the election timer", shell.any_message_restarts_the_timer,
            ("L1",), script(a_candidate_that_cannot_win)),
        Row("A19", "no empty entry at the start of a term", shell.no_empty_entry, ("L3",),
            script(an_idle_group_after_a_restart)),
        Row("C04", "sessions are not in the snapshot",
            lambda p: snapshots_without(p, is_session), ("R13", "R6", "C3", "S4", "silent"),
            cluster("isolate", "crash", "power-cut", seeds=30)),
        Row("C05", "the shards' states and the configuration are not in the snapshot",
            lambda p: snapshots_without(p, is_record), ("R13", "R6", "S5", "S1", "silent"),
            cluster("isolate", "crash", "power-cut", seeds=30)),
        Row("C18", "a failed restore is not the end", shell.go_on, ("R13",),
            script(snapshots.test_rqlite_2759_a_failed_restore_is_the_replicas_end_and_nobody_elses)),
        Row("E14", "a wiped node comes back under its old id", a_blank_node_gets_its_old_name,
            ("R8", "R1", "R5", "R9"),
            script(elections.test_rethinkdb_a_wiped_node_does_not_vote_and_returns_as_another_replica)),
        Row("F24", "a new leader does not resume hand-overs", successors_do_not_resume,
            ("L4", "L2", "S12"),
            cluster("changes", "migration-crash", "transfer", "kill", seeds=20, seconds=8.0)),
        Row("F31", "a configuration is written whatever it was to follow",
            sharding.ignore_what_is_expected, ("S6",), script(two_administrators)),
        Row("G02", "paranoid_checks=False",
            lambda p: shell.leveldb_with(p, paranoid_checks=False), ("test",), tests(leveldb)),
        Row("G05", "an error in apply is not the end", shell.go_on, ("R6",),
            script(one_apply_that_fails)),
        Row("G14", "frames of another cluster are taken", frames_of_any_cluster, ("R17",),
            script(a_node_of_another_cluster)),
        Row("H12", "a removed replica's id is used again", shell.forget_tombstones, ("R1",),
            script(a_removed_id_comes_back)),
        Row("K01", "votes are given while a leader lives, without PreVote",
            votes_while_a_leader_lives, ("L9",), script(one_way, "follower", True, "all")),
        Row("K02", "learners are counted", learners_count, ("R10", "R8", "R5", "R1", "R11"),
            chaos(Safeguard("K02", "", learners_count, (), MEMBERS))),
        Row("K03", "a joint membership is left before it is committed", joint_is_left_at_once,
            ("R10", "R11"),
            chaos(Safeguard("K03", "", joint_is_left_at_once, (), (*MEMBERS, "transfer")))),
        Row("K04", "a transfer never gives up", a_transfer_never_expires, ("R16",),
            script(transfer.test_hashicorp_493_a_transfer_that_fails_gives_the_leader_back)),
        Row("K05", "the log is not compared with the promise", the_promise_is_not_compared,
            ("R18",), script(an_old_log_is_put_back)),
        Row("K06", "a leader whose disk is ill leads on", an_ill_disk_is_nobodys_business,
            ("L8",), script(a_leader_with_an_ill_disk)),
        Row("K07", "a heartbeat commits what its target is not known to hold",
            heartbeats_commit_anything, ("R6", "R8", "R7", "silent"),
            chaos(Safeguard("K07", "", heartbeats_commit_anything, (), ("isolate", "partition"),
                            knobs={"clients": 8}))),
        Row("K08", "a damaged frame is believed", damaged_frames_are_believed,
            ("R9", "R17", "R3", "R6", "R8", "R10", "R18", "H1", "silent"),
            cluster("corruption", seeds=20)),
    ]  # fmt: skip
