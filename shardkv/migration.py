"""What a group's leader has to do next about configurations and shards (pure).

`todo` looks at what the state machine knows and lists the steps that are due; whoever leads the
group carries them out, as many at a time as it likes and in any order, and asks again. It keeps
no memory of its own: a new leader finds in the applied state where the last one stopped, and what
two leaders both do is done once, because the log takes a step only where it fits (`machine.py`).

======================  ===========================================================================
a shard here is         the step
======================  ===========================================================================
ARRIVING                `Pull`: ask any replica of the source for what follows, propose it; among
                        the change rows ask the source's leader to freeze the shard if little is
                        left. The answer that it is frozen, and where it ends: propose `Install`
MOVING                  none, until its change rows are too many: propose `Restart`; or `Freeze`, if
                        that has been done often enough
LEAVING                 `Ask` the owners since n whether (shard, >= n) is in; then propose `Drop`
LEAVING, MOVING, and    `Renew` first: what this group did with the shard may be forgotten here
the group is recovered  and known elsewhere (`steps.renew`)
no shard of these       `Advance`: find the next configuration, propose `Configure`
======================  ===========================================================================

No step waits for another (invariant L12): a group answers pulls and questions from applied state,
whatever its own copies do; so two groups that swap shards each give while they take. And the whole
goes on: of all groups, take one whose configuration n is the lowest. Each source of its arriving
shards has come to n, and gives them out; each target of its leaving ones can come to n, or has
passed it. So nothing that it waits for waits for a group further behind. A copy ends however fast
its shard is written: change rows are bounded, beginnings are, and then the shard is frozen.

A source that has not heard of n yet answers OUT_OF_STEP; asking again is right, and so is the
source's looking for news when it is asked about a number that it does not know.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardConfig, ShardId
from shardkv.commands import Chunk, Freeze, Install, Renew, Restart
from shardkv.limits import CHANGE_ROWS_MAX, RESTARTS_MAX
from shardkv.phases import Phase
from shardkv.rows import ShardRecord, changes_cursor
from shardkv.steps import RECOVERED_BEGINS
from shardkv.types import NO_COPY, CopyId


class Pull(NamedTuple):
    """Ask group `source` for the chunk of `shard` at `cursor`, and propose what it gives."""

    shard: ShardId
    number: ConfigNumber
    source: GroupId
    copy_id: CopyId  # NO_COPY before the first chunk: whichever the source names
    cursor: bytes


class Ask(NamedTuple):
    """Ask the owners of `shard` since configuration `number` whether one of them has taken it.

    `owners_since` lists them, `owner` first: a group may have had the shard, handed it on and been
    switched off since, so the later ones are asked too. A yes makes `Drop(shard, number)` due.
    """

    shard: ShardId
    number: ConfigNumber
    owner: GroupId


class Advance(NamedTuple):
    """Take configuration `number`, the next one, as soon as there is such."""

    number: ConfigNumber


class GiveUp(NamedTuple):
    """Wait no more for groups that a later configuration gives up for lost (`giving_up.py`)."""

    number: ConfigNumber  # of the group's own configuration


Step: TypeAlias = Pull | Freeze | Restart | Renew | Ask | Advance | GiveUp


def todo(
    number: ConfigNumber,
    unsettled: Sequence[tuple[ShardId, ShardRecord]],
    changes: Callable[[ShardId], int],
    changes_max: int = CHANGE_ROWS_MAX,
    recovered: ConfigNumber | None = None,
) -> tuple[Step, ...]:
    """The steps that are due, by shard; none depends on another.

    Args:
        number: Of the group's configuration (`StoreMachine.number`).
        unsettled: What is on its way here or away (`StoreMachine.unsettled`).
        changes: How many change rows a shard has (`StoreMachine.changes`).
        changes_max: With more of them a copy begins again.
        recovered: This group was recovered, and has not come to the configuration that names it:
            the number of that one, or of a later one that names it so. None for any other group.
    """
    if not unsettled:
        return (Advance(ConfigNumber(number + 1)),)
    steps = [_step(shard, record, changes, changes_max, recovered) for shard, record in unsettled]
    return tuple([step for step in steps if step is not None])


def _step(
    shard: ShardId,
    record: ShardRecord,
    changes: Callable[[ShardId], int],
    changes_max: int,
    recovered: ConfigNumber | None,
) -> Step | None:
    if (
        recovered is not None
        and record.phase is not Phase.ARRIVING
        and record.copy_id < RECOVERED_BEGINS
    ):
        return Renew(shard, record.number, recovered, arriving=False)
    match record.phase:
        case Phase.ARRIVING:
            return Pull(shard, record.number, record.peer, record.copy_id, record.cursor)
        case Phase.LEAVING:
            return Ask(shard, record.number, record.peer)
        case Phase.MOVING:
            if changes(shard) <= changes_max:
                return None
            step = Restart if record.restarts < RESTARTS_MAX else Freeze
            return step(shard, record.number, record.copy_id)
    raise AssertionError((shard, record))


def answers(pull: Pull, chunk: Chunk) -> bool:
    """Whether `chunk` is what `pull` asked for, or the beginning of a newer copy: if not, it is
    late or another's, and is dropped.

    Only a saving of log space: the machine checks it again when it is applied.
    """
    if (chunk.shard, chunk.number) != (pull.shard, pull.number):
        return False
    if pull.copy_id in (NO_COPY, chunk.copy_id):
        return chunk.cursor == pull.cursor
    return chunk.copy_id > pull.copy_id and not chunk.cursor


def install(pull: Pull, chunk: Chunk | None, end: int | None) -> Install | None:
    """The install that is due once `chunk` is staged; None: something is still missing.

    Args:
        chunk: What `pull` was given, if anything.
        end: Where the source has said that the frozen copy ends; None: it is not frozen.
    """
    staged = (pull.copy_id, pull.cursor)
    copy_id, cursor = staged if chunk is None else (chunk.copy_id, chunk.next_cursor)
    if end is None or cursor != changes_cursor(end):
        return None
    return Install(pull.shard, pull.number, copy_id, end)


def owners_since(
    shard: ShardId, number: ConfigNumber, configs: Iterable[ShardConfig]
) -> tuple[GroupId, ...]:
    """The groups that own `shard` in configuration `number` or a later one, in that order.

    Args:
        configs: The history as far as it is known, ascending; those before `number` are skipped.

    Returns:
        Each group once; never 0, which owns nothing.
    """
    owners = dict.fromkeys(config.shards[shard] for config in configs if config.number >= number)
    owners.pop(GroupId(0), None)
    return tuple(owners)
