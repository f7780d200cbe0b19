"""What a configuration, and each step of a hand-over, makes of a shard's record (pure).

Each step is fenced by the configuration's number, and by the copy id: one that is late, repeated
or of another copy is answered as done, as old or as out of step, and changes nothing (S7). The
state machine writes the rows that go with a step and takes the record; nothing here does.
"""

from typing import Final

from raft.types import GroupId, Index
from shardctrler.types import NO_GROUP, ConfigNumber
from shardkv.commands import Chunk, Drop, Freeze, Install, Renew, Restart, Step
from shardkv.limits import RESTARTS_MAX
from shardkv.phases import Event, Phase, advance
from shardkv.rows import ShardRecord, changes_cursor
from shardkv.types import DONE, NO_COPY, Answer, Code, CopyId, Generation

RECOVERED_BEGINS: Final = 2**40
"""Times the configuration's number: where the copy ids of a recovered group begin, the versions of
what it writes, and the session numbers and versions of a shard that is made anew. More than any
index, and than were ever given, also over `SESSIONS_SKIPPED`; below 2^63 for 8 million
configurations."""
OUT_OF_STEP: Final = Answer(Code.OUT_OF_STEP)

Outcome = ShardRecord | Answer


def assign(
    record: ShardRecord,
    gid: GroupId,
    owner: GroupId,
    previous: GroupId,
    number: ConfigNumber,
    index: Index,
) -> ShardRecord:
    """What configuration `number`, in the entry at `index`, means for one shard of group `gid`.

    The shard is settled before: ABSENT, SERVING or PARKED. O(1) whatever it holds.

    Args:
        owner: By the configuration; 0 for nobody.
        previous: Its last owner other than nobody, before this configuration.
    """
    if record.phase is Phase.ABSENT:
        if owner != gid:
            return record
        created = previous == NO_GROUP
        return ShardRecord(
            advance(record.phase, Event.CREATED if created else Event.ASSIGNED),
            number=number,
            taken=number if created else record.taken,
            generation=Generation(index),
            peer=previous,
        )
    if owner == gid:
        if record.phase is Phase.SERVING:
            return record
        # Parked here, and nobody had it since: what lies here is the shard as it was frozen.
        phase = advance(record.phase, Event.RETURNED)
        return record._replace(phase=phase, number=number, taken=number)
    if owner == NO_GROUP:
        if record.phase is Phase.PARKED:
            return record
        phase = advance(record.phase, Event.UNASSIGNED)
        return record._replace(phase=phase, number=number)
    phase = advance(record.phase, Event.REASSIGNED)
    return record._replace(phase=phase, number=number, peer=owner, copy_id=CopyId(index))


def fence(record: ShardRecord, step: Step) -> Answer | None:
    """Why a step of another configuration changes nothing; None: it is of this one."""
    if step.number < record.number:
        return Answer(Code.OLD, (record.number,))
    return None if step.number == record.number else OUT_OF_STEP


def stage(record: ShardRecord, chunk: Chunk, index: Index) -> Outcome:
    """The destination takes the very next piece of the very copy that it stages (S3).

    A copy with a higher id is the same source's next attempt: the one before will never be frozen.
    It is staged from its beginning, under a generation of its own, so that nothing of the former
    one is left among its rows. No two begin at one entry.
    """
    if _took_over(record):
        return DONE  # repeated after the install
    if record.phase is not Phase.ARRIVING:
        return OUT_OF_STEP
    if record.copy_id in (NO_COPY, chunk.copy_id):
        if chunk.cursor < record.cursor:
            return DONE  # repeated: this is staged
        if chunk.cursor != record.cursor:
            return OUT_OF_STEP
        return record._replace(copy_id=chunk.copy_id, cursor=chunk.next_cursor)
    if chunk.copy_id > record.copy_id and not chunk.cursor and int(record.generation) != index:
        return record._replace(
            generation=Generation(index), copy_id=chunk.copy_id, cursor=chunk.next_cursor
        )
    return OUT_OF_STEP


def install(record: ShardRecord, step: Install) -> Outcome:
    """The destination serves what is staged: the whole of the copy, to the end that its freeze
    left. Its generation becomes the live one, O(1)."""
    if _took_over(record):
        return DONE
    if record.phase is not Phase.ARRIVING:
        return OUT_OF_STEP
    if record.copy_id != step.copy_id or record.cursor != changes_cursor(step.end):
        return OUT_OF_STEP
    return ShardRecord(
        advance(record.phase, Event.INSTALLED),
        number=record.number,
        taken=record.number,
        generation=record.generation,
    )


def freeze(record: ShardRecord, step: Freeze) -> Outcome:
    """The source answers nobody from here on."""
    if record.copy_id != step.copy_id:
        return OUT_OF_STEP
    if record.phase is Phase.LEAVING:
        return DONE
    if record.phase is not Phase.MOVING:
        return OUT_OF_STEP
    return record._replace(phase=advance(record.phase, Event.FROZEN))


def restart(record: ShardRecord, step: Restart, index: Index) -> Outcome:
    """The source lets the copy begin again, a bounded number of times. A copy id is an index, and
    none is used twice: not two of one entry either."""
    if record.phase is not Phase.MOVING or record.copy_id != step.copy_id:
        return OUT_OF_STEP
    if int(record.copy_id) == index or record.restarts >= RESTARTS_MAX:
        return OUT_OF_STEP
    return record._replace(
        phase=advance(record.phase, Event.RESTARTED),
        copy_id=CopyId(index),
        restarts=record.restarts + 1,
    )


def renew(record: ShardRecord, step: Renew, index: Index) -> Outcome:
    """What becomes of a shard on its way at a group that was recovered, and may have forgotten what
    it did with it. It lets no client in before `step.named` (`StoreMachine.is_named`).

    - *From here.* The target may have staged what is forgotten, and even have taken the shard over.
      So it is frozen, and its copy begins anew under an id above every one that the lost entries
      can have given: the target stages it from the beginning, unless it has the shard in; then it
      says so, and the shard is dropped as ever. Indexes are given again after a loss, so they are
      no such ids; each recovery has a configuration of its own, with a higher number.
      A frozen copy that was renewed already is what it was: its entry brought all before it.
    - *To here*, and the source has it no longer: it was in here, or further on, by an entry that is
      lost. It begins anew, empty. Whoever has it by a later configuration says so when this group
      comes there.
    """
    if step.arriving:
        if record.phase is not Phase.ARRIVING:
            return OUT_OF_STEP
        return ShardRecord(
            advance(record.phase, Event.ABANDONED),
            number=record.number,
            taken=record.number,
            generation=Generation(index),
        )
    if record.phase not in (Phase.MOVING, Phase.LEAVING):
        return OUT_OF_STEP
    if record.copy_id >= RECOVERED_BEGINS:
        return DONE
    event = Event.FROZEN if record.phase is Phase.MOVING else Event.RENEWED
    return record._replace(
        phase=advance(record.phase, event),
        copy_id=CopyId(step.named * RECOVERED_BEGINS + index),
        restarts=0,
    )


def drop(record: ShardRecord, step: Drop) -> Outcome:
    """The source forgets the frozen copy, O(1): its rows become garbage. Its proposer has asked
    (S8)."""
    if record.phase is Phase.ABSENT:
        return DONE
    if record.phase is not Phase.LEAVING:
        return OUT_OF_STEP
    return ShardRecord(
        advance(record.phase, Event.CONFIRMED), number=record.number, taken=record.taken
    )


def abandon(
    record: ShardRecord,
    gid: GroupId,
    previous: GroupId,
    lost: bool,
    number: ConfigNumber,
    index: Index,
) -> ShardRecord:
    """What becomes of a shard on its way when the group at its other end is given up for lost.

    - *To it*, and by that configuration this group is the last that has it: it stays. The lost one
      cannot have served it unless it was LEAVING here, and then the operator was told that what was
      written there is lost. What is frozen stays frozen (PARKED) until that configuration itself
      gives it out again, from here. The shard is as that configuration has it from here on: those
      before it, by which it was the lost group's, change nothing any more (`StoreMachine`).
    - *To it*, and the history gave it on from there: it is dropped; whoever owns it begins anew.
    - *From it*: it begins anew here, empty, under a generation of its own. Asked for only once
      nobody further back serves it (`giving_up.py`), which is what the install would have shown
      (S1).

    Args:
        previous: The last group to have it, by the configuration that gave the other one up.
        lost: Whether that configuration counts it among the lost.
        number: Of that configuration.
    """
    if record.phase is Phase.ARRIVING:
        return ShardRecord(
            advance(record.phase, Event.ABANDONED),
            number=record.number,
            taken=record.number,
            generation=Generation(index),
        )
    if previous == gid and not lost:
        phase = advance(record.phase, Event.ABANDONED)
        return record._replace(
            phase=phase, number=number, peer=NO_GROUP, copy_id=NO_COPY, restarts=0
        )
    return ShardRecord(advance(record.phase, Event.LOST), number=record.number, taken=record.taken)


def _took_over(record: ShardRecord) -> bool:
    return record.phase is Phase.SERVING and record.taken == record.number
