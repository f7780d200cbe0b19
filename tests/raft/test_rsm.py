"""The replicated state machine against a replica whose log the test writes itself."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate, chain, pairwise

import pytest

from labrpc.sim.loop import run
from raft.errors import NotLeader, OutcomeUnknown, Overloaded, ReplicaStopped, StopReplica
from raft.ports import Reader, Rows, Write
from raft.rsm import ReplicatedStateMachine, decode_entry, encode_entry
from raft.types import Entry, EntryId, EntryKind, Index, Member, NodeId, ReplicaId, Term
from tests.support.memory_rows import MemoryRows

LATE = 2.0
OTHER = Member(ReplicaId(2), NodeId("n2"), "n2")


class FakeReplica:
    """Appends what is proposed and commits when told to."""

    def __init__(self, rsm: ReplicatedStateMachine, rows: MemoryRows) -> None:
        self.rsm, self.rows = rsm, rows
        self.term = Term(1)
        self.log: list[Entry] = []
        self.applied = 0
        self.leads, self.overloaded = True, False
        self.leader: Member | None = None
        rsm.attach(self)

    def propose(self, data: bytes) -> EntryId | None:
        if self.overloaded:
            raise Overloaded("4 MiB wait for commit")
        return self.append(EntryKind.COMMAND, data).id if self.leads else None

    def read_barrier(self) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.leads:
            future.set_result(None)
        else:
            future.set_exception(NotLeader(self.leader))
        return future

    def append(self, kind: EntryKind, data: bytes = b"") -> Entry:
        entry = Entry(Index(len(self.log) + 1), self.term, kind, data)
        self.log.append(entry)
        return entry

    def truncate(self, after: int) -> None:
        del self.log[after:]

    def commit(self) -> None:
        entries, self.applied = self.log[self.applied :], len(self.log)
        self.rsm.apply(entries, self.rows)


class Appender:
    """Each command is appended to one row; its result is the row as it then is."""

    def __init__(self) -> None:
        self.indexes: list[Index] = []

    def apply(self, index: Index, command: bytes, rows: Rows) -> object:
        if command == b"newer":
            raise StopReplica("command version 2")
        self.indexes.append(index)
        value = (rows.get(b"row") or b"") + command
        rows.put(b"row", value)
        return value

    def reload(self, rows: Reader) -> None:
        self.indexes.clear()

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        return ()


Scene = tuple[ReplicatedStateMachine, FakeReplica]


def in_loop(test: Callable[[Scene], Awaitable[None]]) -> Callable[[], None]:
    """Run a test on a loop of its own; at its end nothing waits for an answer any more."""

    async def scene() -> None:
        rsm = ReplicatedStateMachine(Appender(), entry_bytes_max=10, late_seconds=LATE)
        await test((rsm, FakeReplica(rsm, MemoryRows())))
        assert rsm.pending == 0

    def in_virtual_time() -> None:
        run(scene())  # who waits for ever is found at once

    return in_virtual_time


async def turn() -> None:
    await asyncio.sleep(0)


@in_loop
async def test_commands_of_one_turn_are_one_entry_and_each_sees_those_before_it(
    scene: Scene,
) -> None:
    """Scorecard H07: two appends to one key in one entry are two appends."""
    rsm, replica = scene
    answers = [rsm.submit(command) for command in (b"a", b"b", b"c")]
    await turn()

    replica.commit()

    assert [await answer for answer in answers] == [b"a", b"ab", b"abc"]
    assert [decode_entry(entry) for entry in replica.log] == [[b"a", b"b", b"c"]]


@in_loop
async def test_commands_of_another_turn_are_another_entry(scene: Scene) -> None:
    rsm, replica = scene
    first = rsm.submit(b"a")
    await turn()
    second = rsm.submit(b"b")
    await turn()

    replica.commit()

    assert (await first, await second) == (b"a", b"ab")
    assert len(replica.log) == 2


@in_loop
async def test_an_entry_closes_before_it_is_too_long_but_holds_one_command(scene: Scene) -> None:
    rsm, replica = scene
    commands = [b"12345", b"67890", b"x", b"longer than ten", b"y"]
    answers = [rsm.submit(command) for command in commands]
    await turn()

    replica.commit()

    assert [decode_entry(entry) for entry in replica.log] == [
        [b"12345", b"67890"],
        [b"x"],
        [b"longer than ten"],
        [b"y"],
    ]
    assert await answers[-1] == b"".join(commands)


@in_loop
async def test_a_frame_is_answered_together_across_entries(scene: Scene) -> None:
    rsm, replica = scene
    answer = rsm.submit_frame([b"12345", b"67890", b"x"])
    await turn()

    replica.commit()

    assert len(replica.log) == 2
    assert await answer == [b"12345", b"1234567890", b"1234567890x"]
    assert await rsm.submit_frame([]) == []


@in_loop
async def test_a_frame_says_of_each_command_what_became_of_it(scene: Scene) -> None:
    rsm, replica = scene
    answer = rsm.submit_frame([b"12345", b"67890", b"x"])
    await turn()
    replica.rsm.apply(replica.log[:1], replica.rows)

    rsm.leadership_changed(False)

    first, second, third = await answer
    assert (first, second) == (b"12345", b"1234567890")
    assert isinstance(third, OutcomeUnknown)


@in_loop
async def test_a_follower_names_the_leader_and_proposes_nothing(scene: Scene) -> None:
    rsm, replica = scene
    replica.leads, replica.leader = False, OTHER

    with pytest.raises(NotLeader) as refused:
        await rsm.submit(b"a")

    assert refused.value.leader == OTHER
    assert replica.log == []


@in_loop
async def test_too_much_on_its_way_is_refused(scene: Scene) -> None:
    rsm, replica = scene
    replica.overloaded = True

    with pytest.raises(Overloaded, match="4 MiB"):
        await rsm.submit(b"a")


@in_loop
async def test_while_one_has_waited_for_too_long_the_next_is_refused_at_once(scene: Scene) -> None:
    """Simulated seed 950000061, L10: a queue of seconds, of which nobody waited for the answers."""
    rsm, replica = scene
    old = rsm.submit(b"a")
    await asyncio.sleep(LATE)
    younger = rsm.submit(b"b")
    await asyncio.sleep(LATE / 2)

    with pytest.raises(Overloaded, match=r"the oldest command waits for 3\.0 s, 2 s may"):
        await rsm.submit(b"c")

    assert len(replica.log) == 2, "nothing of it was proposed"
    replica.commit()
    assert (await old, await younger) == (b"a", b"ab")
    newest = rsm.submit(b"d")
    await turn()
    replica.commit()
    assert await newest == b"abd"


@in_loop
async def test_what_was_replaced_or_given_up_is_not_waited_for(scene: Scene) -> None:
    rsm, replica = scene
    lost = [rsm.submit(b"a")]
    await turn()
    lost.append(rsm.submit(b"b"))
    await asyncio.sleep(2 * LATE)
    rsm.leadership_changed(False)
    replica.truncate(0)
    replica.term = Term(2)
    rsm.leadership_changed(True)

    taken = rsm.submit(b"c")
    await turn()
    replica.commit()

    assert await taken == b"c"
    for future in lost:
        with pytest.raises(OutcomeUnknown):
            await future


@in_loop
async def test_not_applied_is_said_once_another_terms_entry_is_applied_there(
    scene: Scene,
) -> None:
    """Scorecard B22: an answer belongs to an (index, term), not to an index."""
    rsm, replica = scene
    ours = rsm.submit(b"ours")
    await turn()
    replica.truncate(0)
    replica.term = Term(2)
    replica.append(EntryKind.COMMAND, encode_entry([b"theirs"]))
    await turn()
    assert not ours.done(), "what is only appended may be replaced again: figure 8"

    replica.commit()

    with pytest.raises(NotLeader):
        await ours
    assert replica.rows.get(b"row") == b"theirs"


@in_loop
async def test_a_new_leaders_empty_entry_takes_a_place_too(scene: Scene) -> None:
    rsm, replica = scene
    ours = rsm.submit(b"ours")
    await turn()
    replica.truncate(0)
    replica.term = Term(2)
    replica.append(EntryKind.EMPTY)

    replica.commit()

    with pytest.raises(NotLeader):
        await ours


@in_loop
async def test_lost_leadership_is_unknown_at_once_and_the_command_may_yet_be_applied(
    scene: Scene,
) -> None:
    rsm, replica = scene
    rsm.leadership_changed(True)
    ours = rsm.submit(b"ours")
    await turn()

    rsm.leadership_changed(False)

    with pytest.raises(OutcomeUnknown):
        await ours
    assert not rsm.leads
    replica.commit()
    assert replica.rows.get(b"row") == b"ours"


@in_loop
async def test_leadership_lost_and_won_within_a_turn_is_unknown(scene: Scene) -> None:
    rsm, replica = scene
    old = rsm.submit(b"old")
    await turn()
    replica.truncate(0)
    replica.term = Term(3)
    new = rsm.submit(b"new")
    await turn()

    replica.commit()

    with pytest.raises(OutcomeUnknown):
        await old
    assert await new == b"new"


@in_loop
async def test_a_snapshot_over_the_index_is_unknown_and_spares_later_ones(scene: Scene) -> None:
    rsm, replica = scene
    covered = rsm.submit(b"a")
    await turn()
    later = rsm.submit(b"b")
    await turn()

    rsm.snapshot_installed(Index(1))

    with pytest.raises(OutcomeUnknown):
        await covered
    assert not later.done()
    replica.commit()
    assert await later == b"ab"


@in_loop
async def test_a_stopped_replica_answers_everybody(scene: Scene) -> None:
    rsm, _ = scene
    proposed = rsm.submit(b"a")
    await turn()
    queued = rsm.submit(b"b")

    rsm.stopped()

    with pytest.raises(OutcomeUnknown):
        await proposed
    with pytest.raises(ReplicaStopped):
        await queued
    with pytest.raises(ReplicaStopped):
        await rsm.submit(b"c")


@in_loop
async def test_a_cancelled_caller_changes_nothing_for_the_others(scene: Scene) -> None:
    """Bad input: what was proposed runs its course."""
    rsm, replica = scene

    async def caller(command: bytes) -> object:
        return await rsm.submit(command)

    impatient, patient = asyncio.ensure_future(caller(b"a")), asyncio.ensure_future(caller(b"b"))
    await turn()
    await turn()
    impatient.cancel()
    await turn()

    replica.commit()

    assert await patient == b"ab"
    assert impatient.cancelled()


@in_loop
async def test_a_cancelled_frame_is_applied_all_the_same(scene: Scene) -> None:
    rsm, replica = scene
    frame = rsm.submit_frame([b"a", b"b"])
    await turn()
    frame.cancel()

    replica.commit()

    assert replica.rows.get(b"row") == b"ab"


@in_loop
async def test_entries_of_other_kinds_reach_no_machine(scene: Scene) -> None:
    rsm, replica = scene
    replica.append(EntryKind.EMPTY)
    replica.append(EntryKind.MEMBERSHIP, b"members")
    answer = rsm.submit(b"a")
    await turn()

    replica.commit()

    assert await answer == b"a"
    assert isinstance(rsm.machine, Appender)
    assert rsm.machine.indexes == [3]


@in_loop
async def test_a_follower_applies_without_anybody_waiting(scene: Scene) -> None:
    _, replica = scene
    replica.append(EntryKind.COMMAND, encode_entry([b"a", b"b"]))

    replica.commit()

    assert replica.rows.get(b"row") == b"ab"


@in_loop
async def test_a_format_or_command_of_a_newer_version_stops_the_replica(scene: Scene) -> None:
    rsm, replica = scene
    newer = replica.append(EntryKind.COMMAND, b"\x92\x02\x90")

    with pytest.raises(StopReplica, match="format"):
        rsm.apply([newer], replica.rows)
    with pytest.raises(StopReplica, match="version 2"):
        rsm.apply([newer._replace(data=encode_entry([b"newer"]))], replica.rows)


@in_loop
async def test_a_read_waits_for_the_replicas_word(scene: Scene) -> None:
    rsm, replica = scene
    await rsm.read()
    replica.leads = False

    with pytest.raises(NotLeader):
        await rsm.read()


@in_loop
async def test_a_read_of_a_replica_that_stops_in_the_turn_of_its_barrier_is_refused(
    scene: Scene,
) -> None:
    """Who reads goes on after the turn; what the machine keeps in memory may be half an entry's."""
    rsm, replica = scene
    barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    replica.read_barrier = lambda: barrier  # type: ignore[method-assign]
    reading = asyncio.ensure_future(rsm.read())
    await asyncio.sleep(0)

    barrier.set_result(None)
    rsm.stopped()

    with pytest.raises(ReplicaStopped):
        await reading


@in_loop
async def test_reload_reaches_the_machine(scene: Scene) -> None:
    rsm, replica = scene
    replica.append(EntryKind.COMMAND, encode_entry([b"a"]))
    replica.commit()

    rsm.reload(replica.rows)

    assert isinstance(rsm.machine, Appender)
    assert rsm.machine.indexes == []


@in_loop
async def test_each_outcome_is_its_command_s_however_frames_fall_into_entries(
    scene: Scene,
) -> None:
    rsm, replica = scene
    frames = [
        [b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee"],
        [b"f", b"g"],
        [b"h"],
        [b"iiiiiiiii", b"j"],
        [b"k"],
    ]
    one, two = rsm.submit_frame(frames[0]), rsm.submit_frame(frames[1])
    three, four, five = rsm.submit(b"h"), rsm.submit_frame(frames[3]), rsm.submit(b"k")
    await turn()

    replica.commit()

    outcomes = [*await one, *await two, await three, *await four, await five]
    assert outcomes == list(accumulate(chain.from_iterable(frames)))
    entries = [decode_entry(entry) for entry in replica.log]
    for entry, following in pairwise(entries):
        size = sum(map(len, entry))
        assert size <= 10 < size + len(following[0]), "full, and no fuller than it may be"


@in_loop
async def test_each_command_that_is_turned_away_counts_and_has_an_error_of_its_own(
    scene: Scene,
) -> None:
    rsm, replica = scene
    replica.overloaded = True
    counts: list[int] = []
    rsm.turned_away = counts.append  # type: ignore[method-assign]

    frame, single = rsm.submit_frame([b"a", b"b", b"c"]), rsm.submit(b"d")
    await turn()

    errors = [*await frame, single.exception()]
    assert all(isinstance(error, Overloaded) for error in errors)
    assert len({id(error) for error in errors}) == sum(counts) == 4


@in_loop
async def test_a_replica_that_stopped_does_not_lead(scene: Scene) -> None:
    rsm, _ = scene
    rsm.leadership_changed(True)

    rsm.stopped()

    assert not rsm.leads
