"""How shards go from group to group: each step where it fits, and nowhere else.

A shard that is written while it is copied: `test_live_copy.py`.
"""

from collections.abc import Sequence

import pytest

from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import Chunk, Configure, Drop, ExpireSessions, Freeze, Install, OpenSession
from shardkv.copying import Pulled
from shardkv.phases import Phase
from shardkv.rows import ROWS_DONE, ShardRecord, counter_at
from shardkv.types import ABSENT, DONE, Answer, Code, CopyId, Generation, SessionId
from tests.support.stores import (
    S0,
    S1,
    S3,
    A,
    B,
    C,
    Group,
    append,
    configures,
    delete,
    ok,
    put,
    row,
)

OUT_OF_STEP = Answer(Code.OUT_OF_STEP)
N1, N2, N3, N4 = (ConfigNumber(n) for n in (1, 2, 3, 4))


class Cluster:
    """Groups A, B and C and a history; each takes the next configuration when told to."""

    def __init__(self, *rows: Sequence[int]) -> None:
        self.history: list[Configure] = configures(*rows)
        self.groups = {gid: Group(gid) for gid in (A, B, C)}

    def __getitem__(self, gid: GroupId) -> Group:
        return self.groups[gid]

    def configure(self, number: int, *gids: GroupId) -> None:
        for gid in gids or (A, B, C):
            assert self[gid].apply(self.history[number - 1]) == DONE, (gid, number)

    def copy(
        self, shard: ShardId, number: int, source: Group, target: Group, **limits: int
    ) -> Install:
        """Freeze the shard, and stage the whole of it at the target, chunk by chunk; returns the
        install that is due."""
        copy_id = source.machine.record(shard).copy_id
        assert source.apply(Freeze(shard, ConfigNumber(number), copy_id)) == DONE
        cursor = b""
        while (chunk := source.pulled(shard, number, cursor, **limits).chunk) is not None:
            assert target.apply(chunk) == DONE
            cursor = chunk.next_cursor
        return Install(shard, ConfigNumber(number), copy_id, counter_at(cursor) or 0)

    def freeze(self, shard: ShardId, *gids: GroupId) -> None:
        for gid in gids:
            record = self[gid].machine.record(shard)
            assert self[gid].apply(Freeze(shard, record.number, record.copy_id)) == DONE

    def hand_over(self, shard: ShardId, number: int, source: GroupId, target: GroupId) -> None:
        """The whole of it, to the drop."""
        assert self[target].apply(self.copy(shard, number, self[source], self[target])) == DONE
        assert self[target].machine.is_in(shard, ConfigNumber(number))
        assert self[source].apply(Drop(shard, ConfigNumber(number))) == DONE


def phase(group: Group, shard: ShardId = S0) -> Phase:
    return group.machine.record(shard).phase


@pytest.fixture
def cluster() -> Cluster:
    """Shard 0 is A's in configuration 1 and B's in 2; it holds rows, versions and sessions.

    All have taken configuration 2, and A has frozen the shard; nothing is copied yet.
    """
    cluster = Cluster([A, A, B, B], [B, A, B, B], [B, A, C, B], [A, A, B, B])
    cluster.configure(1)
    group = cluster[A]
    group.open(), group.open()
    group.entry(
        put(1, 1, b"a", b"1"),
        append(1, 2, b"b", b"2"),
        put(2, 5, b"gone", b"", floor=4),
        delete(2, 6, b"gone", floor=4),
    )
    cluster.configure(2)
    cluster.freeze(S0, A)
    return cluster


# One whole hand-over


def test_what_is_installed_is_what_was_frozen(cluster: Cluster) -> None:
    """S3, S4: data, versions, recorded answers, floors and the counter."""
    frozen = cluster[A].copy(S0)

    cluster.hand_over(S0, 2, A, B)

    assert cluster[B].copy(S0) == frozen
    assert cluster[B].get(b"a") == row(b"1", 1)
    assert cluster[B].apply(append(1, 2, b"b", b"2")) == ok(1)  # C5: the answer A gave
    assert cluster[B].apply(put(2, 3, b"a", b"late")) == Answer(Code.SEQUENCE_STALE)
    assert cluster[B].apply(put(2, 7, b"gone", b"new", floor=4)) == ok(2)  # above the deleted one
    assert cluster[B].open() == 3


def test_each_phase_says_where_to_ask(cluster: Cluster) -> None:
    """S1: the phase alone decides who serves; the other shards are served throughout."""
    a, b = cluster[A], cluster[B]
    install = cluster.copy(S0, 2, a, b)
    assert (phase(a), phase(b)) == (Phase.LEAVING, Phase.ARRIVING)
    assert a.get(b"a") == Answer(Code.WRONG_GROUP, (2,))
    assert b.get(b"a") == Answer(Code.NOT_READY, (2, A))
    assert b.apply(put(1, 3, b"a", b"x")) == Answer(Code.NOT_READY, (2, A))
    assert a.get(b"a", S1) == ABSENT

    b.apply(install)

    assert b.get(b"a") == row(b"1", 1)
    assert a.get(b"a") == Answer(Code.WRONG_GROUP, (2,))


def test_a_write_let_in_before_the_freeze_and_applied_after_is_refused(cluster: Cluster) -> None:
    """S9; and it stays fresh, so that it can be done once where the shard goes (S4)."""
    late = append(1, 3, b"b", b"!")
    frozen = cluster[A].copy(S0)

    assert (
        cluster[A].entry(late, OpenSession(S0), ExpireSessions(S0, ((SessionId(1), 2),)))
        == [Answer(Code.WRONG_GROUP, (2,))] * 3
    )

    assert cluster[A].copy(S0) == frozen
    cluster.hand_over(S0, 2, A, B)
    assert cluster[B].apply(late) == ok(2)
    assert cluster[B].get(b"b") == row(b"2!", 2)


def test_a_write_and_the_freeze_in_one_entry_are_taken_in_order() -> None:
    cluster = Cluster([A, A, A, A], [B, A, A, A])
    cluster.configure(1)
    a = cluster[A]
    a.open()

    copy_id = CopyId(a.index + 1)
    answers = a.entry(
        put(1, 1, b"k", b"v"),
        cluster.history[1],
        put(1, 2, b"k", b"in time"),
        Freeze(S0, N2, copy_id),
        put(1, 3, b"k", b"late"),
    )

    assert answers == [ok(1), DONE, ok(2), DONE, Answer(Code.WRONG_GROUP, (2,))]
    assert a.copy(S0)[b"dk"].endswith(b"in time")
    assert a.machine.changes(S0) == 2  # the row and the session's


def test_a_shard_that_nobody_had_serves_at_once_and_empty() -> None:
    cluster = Cluster([A, A, B, B])
    cluster.configure(1, A)

    assert cluster[A].machine.record(S0) == ShardRecord(
        Phase.SERVING, N1, taken=N1, generation=Generation(1)
    )
    assert phase(cluster[A], S3) is Phase.ABSENT
    assert cluster[A].machine.unsettled == ()


# Configurations


def test_configurations_are_taken_one_by_one_and_in_order(cluster: Cluster) -> None:
    """S5, S7."""
    c = cluster[C]
    before = dict(c.rows.map)

    assert c.apply(cluster.history[3]) == Answer(Code.NOT_NEXT, (2,))
    assert c.apply(cluster.history[1]) == DONE  # repeated
    assert c.apply(cluster.history[0]) == Answer(Code.OLD, (2,))

    assert c.rows.map == before


@pytest.mark.parametrize("gid", [A, B])
def test_the_next_configuration_waits_for_shards_on_their_way(
    cluster: Cluster, gid: GroupId
) -> None:
    """S5: the source until it has dropped, the target until it has installed."""
    group, third = cluster[gid], cluster.history[2]
    unsettled = Answer(Code.UNSETTLED, (2,))

    assert group.apply(third) == unsettled
    install = cluster.copy(S0, 2, cluster[A], cluster[B])
    assert group.apply(third) == unsettled
    cluster[B].apply(install)
    assert group.apply(third) == (DONE if gid == B else unsettled)
    cluster[A].apply(Drop(S0, N2))
    assert group.apply(third) == DONE


def test_a_configuration_that_moves_nothing_here_changes_only_the_number(cluster: Cluster) -> None:
    cluster.hand_over(S0, 2, A, B)
    a = cluster[A]
    records = a.machine.facts.records

    cluster.configure(3, A)

    assert a.machine.number == 3
    assert a.machine.facts.records == records


# Chunks


def test_chunks_go_on_where_the_last_one_ended(cluster: Cluster) -> None:
    a, b = cluster[A], cluster[B]
    cursors = [b""]
    while True:
        chunk = a.pull(S0, 2, cursors[-1], bytes_max=1)
        assert len(chunk.rows) == 1  # never more than asked for, unless one row is
        assert b.apply(chunk) == DONE
        b.restart()  # a snapshot, a crash or a new leader in between: the cursor is a row
        cursors.append(chunk.next_cursor)
        assert b.machine.record(S0).cursor == chunk.next_cursor
        if chunk.next_cursor == ROWS_DONE:
            break

    assert cursors == sorted(cursors)
    assert len(cursors) == len(a.copy(S0)) + 1
    assert b.copy(S0) == a.copy(S0)


def test_a_chunk_holds_as_many_rows_as_it_may() -> None:
    cluster = Cluster([A, A, A, A], [B, A, A, A])
    cluster.configure(1)
    a = cluster[A]
    a.open()
    for seq in range(1, 8):
        a.apply(put(1, seq, b"k%d" % seq, b"v" * 100_000, floor=seq))
    a.apply(put(1, 8, b"k8", b"v" * 2**20))
    cluster.configure(2)

    sizes, cursor = [], b""
    while cursor != ROWS_DONE:
        chunk = a.pull(S0, 2, cursor)
        sizes.append(sum(len(key) + len(value) for key, value in chunk.rows))
        assert sizes[-1] <= 256 * 1024 or len(chunk.rows) == 1
        assert cluster[B].apply(chunk) == DONE
        cursor = chunk.next_cursor

    assert len(sizes) == 6  # 2 + 2 + 2 + 1 values, the large one, the sessions
    assert cluster[B].copy(S0) == a.copy(S0)


def test_an_empty_shard_is_one_chunk_without_rows() -> None:
    cluster = Cluster([A, A, A, A], [B, A, A, A])
    cluster.configure(1)
    cluster.configure(2)

    chunk = cluster[A].pull(S0, 2)

    assert chunk == Chunk(S0, N2, chunk.copy_id, b"", ROWS_DONE, ())
    assert cluster[B].entry(chunk, Install(S0, N2, chunk.copy_id, 0)) == [DONE, DONE]
    assert phase(cluster[B]) is Phase.SERVING


def test_a_chunk_counts_only_at_its_cursor_and_of_its_copy(cluster: Cluster) -> None:
    """Safeguard H02, invariant S3."""
    a, b = cluster[A], cluster[B]
    first = a.pull(S0, 2, bytes_max=1)
    second = a.pull(S0, 2, first.next_cursor, bytes_max=1)
    third = a.pull(S0, 2, second.next_cursor, bytes_max=1)
    assert b.apply(second) == OUT_OF_STEP  # before the first
    assert b.apply(first) == DONE
    assert b.apply(second) == DONE
    staged = dict(b.rows.map)

    assert b.apply(first) == DONE  # repeated: done before
    other, older = CopyId(first.copy_id + 1), CopyId(first.copy_id - 1)
    for wrong in (
        third._replace(copy_id=other),
        third._replace(copy_id=older),
        first._replace(copy_id=older),
        third._replace(cursor=third.cursor + b"\x00", rows=()),
        third._replace(number=N3),
        third._replace(shard=S3),
        third._replace(shard=S1),
    ):
        assert b.apply(wrong) == OUT_OF_STEP, wrong
    assert b.apply(third._replace(number=N1)) == Answer(Code.OLD, (2,))

    assert b.rows.map == staged


def test_repeated_chunks_change_nothing_after_the_install(cluster: Cluster) -> None:
    """Safeguard F04: a late install must not overwrite newer writes."""
    a, b = cluster[A], cluster[B]
    chunk = a.pull(S0, 2)
    install = Install(S0, N2, chunk.copy_id, 0)
    b.entry(chunk, install)
    b.apply(put(1, 3, b"a", b"newer"))
    before = dict(b.rows.map)

    assert b.entry(chunk, install) == [DONE, DONE]

    assert b.rows.map == before
    assert b.get(b"a") == row(b"newer", 2)


def test_only_a_shard_on_its_way_from_here_is_given_out(cluster: Cluster) -> None:
    """Safeguard F06."""
    a, b = cluster[A].machine, cluster[B].machine

    def pulled(group: GroupId, shard: ShardId, number: int) -> Pulled | Answer:
        rows = cluster[group].rows
        return cluster[group].machine.pull(rows, shard, ConfigNumber(number), b"")

    assert a.record(S0).phase is Phase.LEAVING and b.record(S0).phase is Phase.ARRIVING
    assert pulled(A, S1, 2) == OUT_OF_STEP  # serves
    assert pulled(A, S0, 3) == OUT_OF_STEP  # not yet frozen for 3
    assert pulled(A, S0, 1) == Answer(Code.OLD, (2,))
    assert pulled(A, S3, 2) == OUT_OF_STEP  # never had it
    assert pulled(B, S0, 2) == OUT_OF_STEP  # on its way there
    assert pulled(A, ShardId(99), 2) == Answer(Code.BAD_COMMAND)
    cluster.hand_over(S0, 2, A, B)
    assert pulled(A, S0, 2) == Answer(Code.OLD, (2,))  # dropped: the target has it


# Install and drop


def test_an_install_needs_the_whole_of_its_copy(cluster: Cluster) -> None:
    """Safeguard F08."""
    a, b = cluster[A], cluster[B]
    chunk = a.pull(S0, 2, bytes_max=1)
    install = Install(S0, N2, chunk.copy_id, 0)

    assert b.apply(install) == OUT_OF_STEP
    b.apply(chunk)
    assert b.apply(install) == OUT_OF_STEP
    b.apply(a.pull(S0, 2, chunk.next_cursor))
    for wrong in (
        install._replace(end=1),
        install._replace(copy_id=CopyId(install.copy_id + 1)),
        install._replace(number=N3),
        install._replace(shard=S3),
    ):
        assert b.apply(wrong) == OUT_OF_STEP
    assert b.apply(install._replace(number=N1)) == Answer(Code.OLD, (2,))
    assert phase(b) is Phase.ARRIVING

    assert b.apply(install) == DONE
    assert b.apply(install) == DONE
    assert phase(b) is Phase.SERVING


def test_a_drop_is_for_a_frozen_shard_of_its_number(cluster: Cluster) -> None:
    """S7, S8."""
    a = cluster[A]
    before = dict(a.rows.map)
    assert a.apply(Drop(S1, N1)) == OUT_OF_STEP  # serves
    assert a.apply(Drop(S0, N3)) == OUT_OF_STEP  # a configuration to come
    assert a.apply(Drop(S3, N2)) == OUT_OF_STEP  # never had it
    assert a.apply(Drop(S0, N1)) == Answer(Code.OLD, (2,))
    assert cluster[B].apply(Drop(S0, N2)) == OUT_OF_STEP  # on its way there
    assert a.rows.map == before

    cluster.hand_over(S0, 2, A, B)
    before = dict(a.rows.map)

    assert a.apply(Drop(S0, N2)) == DONE
    assert a.rows.map == before
    assert phase(a) is Phase.ABSENT


def test_that_a_shard_is_in_stays_true_when_it_has_moved_on(cluster: Cluster) -> None:
    """S8: so a source that was away for long hears it from an owner that has it no more."""
    a, b, c = (cluster[gid].machine for gid in (A, B, C))
    assert not b.is_in(S0, N2)
    install = cluster.copy(S0, 2, cluster[A], cluster[B])
    assert not b.is_in(S0, N2)
    cluster[B].apply(install)
    assert b.is_in(S0, N2) and b.is_in(S0, N1) and not b.is_in(S0, N3)
    assert not a.is_in(S0, N2) and not c.is_in(S0, N1)
    assert not b.is_in(ShardId(99), N1) and not b.is_in(S0, ConfigNumber(0))
    cluster[A].apply(Drop(S0, N2))
    cluster.configure(3, A, B)
    cluster.configure(4, A)

    # B waits for C to take shard 2; then it takes 4 and gives shard 0 away.
    cluster.configure(3, C)
    cluster.hand_over(ShardId(2), 3, B, C)
    cluster.configure(4, B)
    assert phase(cluster[B]) is Phase.MOVING
    assert b.is_in(S0, N2)
    cluster.hand_over(S0, 4, B, A)
    cluster[B].restart()

    assert cluster[B].machine.is_in(S0, N2)
    assert a.is_in(S0, N4)


# Shards that come back


def test_a_shard_that_comes_back_is_a_new_copy_that_late_steps_do_not_touch() -> None:
    """A to B to A (S8): a late drop, chunk or install of the first move changes nothing."""
    cluster = Cluster([A, A, A, A], [B, A, A, A], [A, A, A, A], [B, A, A, A])
    cluster.configure(1)
    a, b = cluster[A], cluster[B]
    a.open()
    a.apply(put(1, 1, b"k", b"first"))
    first = a.machine.record(S0).generation
    cluster.configure(2)
    late = a.pull(S0, 2)
    cluster.hand_over(S0, 2, A, B)
    b.apply(put(1, 2, b"k", b"second"))
    cluster.configure(3)
    cluster.hand_over(S0, 3, B, A)
    assert a.get(b"k") == row(b"second", 2)
    assert a.machine.record(S0).generation > first
    before = dict(a.rows.map)

    for command in (late, Install(S0, N2, late.copy_id, 0), Drop(S0, N2)):
        assert a.apply(command) == Answer(Code.OLD, (3,))
        assert b.apply(command) == Answer(Code.OLD, (3,))

    assert a.rows.map == before
    assert a.get(b"k") == row(b"second", 2)
    cluster.configure(4)
    assert b.apply(late) == Answer(Code.OLD, (4,))
    cluster.hand_over(S0, 4, A, B)
    assert b.get(b"k") == row(b"second", 2)


def test_groups_that_swap_shards_give_while_they_take() -> None:
    """L12, safeguard F21: neither's answers wait for its own copies."""
    cluster = Cluster([A, B, A, B], [B, A, A, B])
    cluster.configure(1)
    a, b = cluster[A], cluster[B]
    a.open(S0), b.open(S1)
    a.apply(put(1, 1, b"k", b"a's"))
    b.apply(put(1, 1, b"k", b"b's", shard=S1))
    cluster.configure(2)
    cluster.freeze(S0, A)
    cluster.freeze(S1, B)

    to_b, to_a = a.pull(S0, 2), b.pull(S1, 2)
    assert a.entry(to_a, Install(S1, N2, to_a.copy_id, 0)) == [DONE, DONE]
    assert b.entry(to_b, Install(S0, N2, to_b.copy_id, 0)) == [DONE, DONE]
    assert a.apply(Drop(S0, N2)) == b.apply(Drop(S1, N2)) == DONE

    assert b.get(b"k", S0) == row(b"a's", 1)
    assert a.get(b"k", S1) == row(b"b's", 1)
    assert a.machine.unsettled == b.machine.unsettled == ()


def test_a_parked_shard_stays_where_it_is_and_is_handed_on_from_there() -> None:
    """The previous owner is the last one other than nobody; it may have left all the same."""
    cluster = Cluster([A, A, A, A], [0, A, A, A], [0, C, C, C], [B, C, C, C])
    cluster.configure(1)
    a = cluster[A]
    a.open()
    a.apply(put(1, 1, b"k", b"v"))
    cluster.configure(2)
    assert phase(a) is Phase.PARKED and a.machine.unsettled == ()
    assert a.apply(put(1, 2, b"k", b"late")) == Answer(Code.WRONG_GROUP, (2,))
    assert a.machine.pull(a.rows, S0, N4, b"") == OUT_OF_STEP  # A may be behind: see `pull`
    cluster.configure(3)
    for shard in (S1, ShardId(2), S3):
        cluster.hand_over(shard, 3, A, C)
    assert phase(a) is Phase.PARKED

    cluster.configure(4)

    assert cluster[B].machine.record(S0).peer == A
    config = cluster[B].machine.config
    assert config is not None and config.group(A) is not None and A not in config.groups
    cluster.hand_over(S0, 4, A, B)
    assert cluster[B].get(b"k") == row(b"v", 1)


def test_a_parked_shard_may_return_without_a_copy() -> None:
    cluster = Cluster([A, A, A, A], [0, A, A, A], [0, A, A, A], [A, A, A, A], [B, A, A, A])
    cluster.configure(1)
    a = cluster[A]
    a.open()
    a.entry(put(1, 1, b"k", b"v"), put(1, 2, b"d", b""), delete(1, 3, b"d"))
    generation = a.machine.record(S0).generation
    cluster.configure(2)
    a.restart()
    cluster.configure(3)

    cluster.configure(4)

    assert a.machine.record(S0) == ShardRecord(Phase.SERVING, N4, taken=N4, generation=generation)
    assert a.get(b"k") == row(b"v", 1)
    assert a.apply(put(1, 4, b"d", b"")) == ok(2)
    cluster.configure(5)
    cluster.hand_over(S0, 5, A, B)
    assert cluster[B].get(b"d") == row(b"", 2)


# Garbage and mirrors


def test_dead_copies_are_deleted_in_slices_and_nothing_else_is(cluster: Cluster) -> None:
    a = cluster[A]
    dead = len(a.copy(S0)) + a.machine.changes(S0)
    assert a.machine.garbage(a.rows, 100) == []
    cluster.hand_over(S0, 2, A, B)
    alive = {key: value for key, value in a.rows.map.items() if key[:1] != b"s"}
    a.restart()  # it finds them again

    slices = []
    while deletes := a.machine.garbage(a.rows, 2):
        assert len(deletes) <= 2 and all(value is None for _, value in deletes)
        a.rows.write(deletes)
        slices.append(len(deletes))

    assert sum(slices) == dead
    assert a.rows.map == alive
    assert a.copies() == []
    a.restart()
    assert a.machine.garbage(a.rows, 100) == []


def test_late_clean_up_touches_nothing_of_a_copy_that_came_back() -> None:
    """Safeguard H03: the generations differ."""
    cluster = Cluster([A, A, A, A], [B, A, A, A], [A, A, A, A])
    cluster.configure(1)
    a = cluster[A]
    a.open()
    a.apply(put(1, 1, b"k", b"v"))
    cluster.configure(2)
    cluster.hand_over(S0, 2, A, B)
    cluster.configure(3)
    cluster.hand_over(S0, 3, B, A)
    assert len(a.copies()) == 2
    back = a.copy(S0)

    a.rows.write(a.machine.garbage(a.rows, 1000))

    assert a.copy(S0) == back
    assert len(a.copies()) == 1
    assert a.get(b"k") == row(b"v", 1)


def test_mirrors_are_what_the_rows_say_at_every_step(cluster: Cluster) -> None:
    for group in cluster.groups.values():
        group.restart()
    install = cluster.copy(S0, 2, cluster[A], cluster[B], bytes_max=1)
    cluster[B].restart()
    cluster[B].apply(install)
    cluster[B].restart()
    cluster[A].apply(Drop(S0, N2))
    cluster[A].restart()
    cluster.configure(3, B)
    for group in cluster.groups.values():
        group.restart()
