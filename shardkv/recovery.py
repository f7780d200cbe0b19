"""What is left of a group whose majority is lost, and what may be gone with the rest (pure).

Raft answers a client once a majority holds the write. So what is left tells for certain only this:

- Every entry that a survivor knows to be committed was, and is, in the log of the longest survivor.
- If every majority has a survivor among its members, every acknowledged write is in the log of the
  longest one: longest by (term, index), which is how a leader is chosen (Raft, section 5.4.1).
- Otherwise the lost replicas may have been a majority of their own, with entries behind the last
  one that is left; how many, nobody can say who has not seen their disks.

The new group keeps the whole log of its survivor and commits it. Entries behind the highest commit
known may never have been acknowledged: keeping them is right for those that were, and for the
others it is one of the outcomes that "unknown" allows. One that was refused, because another leader
had put its own in the place, and that leader and its entry are lost, is then done after all.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

LEFT: Final = "recover.left"
STANDS: Final = "recover.stands"
REBIRTH: Final = "recover.rebirth"
RETIRE: Final = "recover.retire"
SUPERSEDED: Final = "its gid means another group by now: this one was recovered or abandoned"
"""Why a replica fell silent that has lost nothing: another survivor was chosen."""


class AskLeft(NamedTuple):
    """What does this node hold of a group?"""

    gid: int


class Left(NamedTuple):
    """A replica that is left. From a directory: `boot` and `applied` are 0, and `commit` is where
    its log begins, which is all that is certain."""

    node: str
    boot: int  # of the process that said so
    gid: int
    uuid: bytes
    replica: int
    term: int  # the highest that it has seen
    last_index: int
    last_term: int
    commit: int  # as far as it knows
    applied: int
    leads: int  # 1: it leads, or believes so
    leader: str  # that it hears; "" if none
    stopped: str
    voters: tuple[str, ...]
    outgoing: tuple[str, ...]  # not empty: a change of voters was under way

    @property
    def reach(self) -> tuple[int, int]:
        """How far its log goes, as Raft compares logs."""
        return self.last_term, self.last_index

    @property
    def lives(self) -> bool:
        """Whether a process runs it."""
        return self.boot > 0 and self.stopped in ("", SUPERSEDED)


class AskStands(NamedTuple):
    """How do a group's shards stand at this node's replica of it?"""

    gid: int
    whole: int  # 1: as if its whole log were committed, which is what a recovery makes of it


class ShardStands(NamedTuple):
    """A shard's record (`shardkv.rows.ShardRecord`), as far as others are concerned."""

    shard: int
    phase: int
    number: int
    taken: int
    peer: int


class Stands(NamedTuple):
    """How a replica's shards stand; one that is not named is absent, and was never there."""

    node: str
    gid: int
    uuid: bytes
    config_number: int  # of the controller's group: of the newest in its state
    shards: tuple[ShardStands, ...]


class Rebirth(NamedTuple):
    """Be the first member of a new group, with all that this replica holds."""

    gid: int
    boot: int
    uuid: bytes  # that it has
    replica: int
    last_index: int  # as the plan saw it: refused if its log has changed since
    last_term: int
    new_uuid: bytes


class Reborn(NamedTuple):
    """It is, durably; under this replica id."""

    replica: int


class Retire(NamedTuple):
    """Delete a replica of a uuid that the gid means no more."""

    gid: int
    boot: int
    uuid: bytes
    replica: int


class Retired(NamedTuple):
    """It is gone, durably."""


class Assessment(NamedTuple):
    """What is left, judged."""

    gid: int
    left: tuple[Left, ...]  # the longest first
    silent: tuple[str, ...]  # nodes that did not answer, and voters of which nothing is left
    choice: Left | None  # the longest that a process runs; None: nothing is left to recover
    alive: bool  # a majority lives, or somebody leads: there is nothing to recover
    safe: bool  # every majority has a survivor, so no acknowledged write is gone with `choice`
    commit: int  # the highest that is known

    @property
    def longer(self) -> Left | None:
        """One that no process runs, and that holds more than the choice: start its node first."""
        best = self.left[0] if self.left else None
        if best is None or self.choice is None or best.reach == self.choice.reach:
            return None
        return best


def assess(gid: int, left: Sequence[Left], silent: Sequence[str]) -> Assessment:
    """Judge what is left of a group.

    Args:
        left: Of one uuid; of live nodes, and of directories that were read. A node once.
        silent: Nodes that did not answer.
    """
    ranked = tuple(sorted(left, key=lambda one: (one.reach, one.lives, one.node), reverse=True))
    living = [one for one in ranked if one.lives]
    choice = living[0] if living else None
    commit = max((one.commit for one in ranked), default=0)
    if not ranked:
        return Assessment(gid, (), tuple(silent), None, False, False, 0)
    electorates = [names for names in (ranked[0].voters, ranked[0].outgoing) if names]
    here = {one.node for one in ranked}
    alive = {one.node for one in living if not one.stopped}
    majority_lives = all(
        len([name for name in names if name in alive]) >= _quorum(names) for names in electorates
    )
    meets_all = all(
        len([name for name in names if name not in here]) < _quorum(names) for names in electorates
    )
    missing = [name for names in electorates for name in names if name not in here]
    return Assessment(
        gid,
        ranked,
        tuple(dict.fromkeys((*silent, *missing))),
        choice,
        majority_lives or any(one.leads for one in living),
        meets_all and choice is not None and choice.reach == ranked[0].reach,
        commit,
    )


def _quorum(names: Sequence[str]) -> int:
    return len(names) // 2 + 1


def explained(found: Assessment) -> list[str]:
    """The assessment in words, a line each. What may be gone is said as it is."""
    gid = found.gid
    if not found.left:
        asked = f"; no answer from {', '.join(found.silent)}" if found.silent else ""
        return [
            f"group {gid}: nothing is left of it on the nodes that answer{asked}",
            f"if it is gone for good: shardkv ctl abandon {gid} --cluster ID",
        ]
    lines = [_line(one) for one in found.left]
    lines += [f"{node}: no answer, or nothing there" for node in found.silent]
    if found.alive:
        return [*lines, f"group {gid}: a majority lives, or a leader does: nothing to recover"]
    choice = found.choice
    if choice is None:
        return [*lines, f"group {gid}: no running node holds it: start one of these nodes"]
    longer = found.longer
    if longer is not None:
        lines.append(
            f"{longer.node} holds more, up to entry {longer.last_index} of term "
            f"{longer.last_term}: start that node first, or those entries are lost"
        )
    lines.append(f"certain: entries up to {found.commit} were committed, and are kept")
    if choice.last_index > found.commit:
        lines.append(
            f"kept: entries {found.commit + 1} to {choice.last_index} of {choice.node}; they may "
            "never have been acknowledged, or have been refused"
        )
    if found.safe:
        lines.append("may be gone: nothing; every majority has one of these replicas")
    else:
        until = f"{longer.last_index}, and more" if longer is not None else "an end unknown"
        lines.append(
            f"MAY BE GONE: acknowledged writes in entries {choice.last_index + 1} to {until}: the "
            "lost replicas may have held them, and nobody who is left can tell"
        )
    if gid:
        lines.append(_versions(found, choice))
    lines.append(f"to go on from {choice.node}: shardkv ctl recover apply {gid} --cluster ID")
    return lines


def _versions(found: Assessment, choice: Left) -> str:
    """What becomes of versions that clients remember (`held.py`)."""
    text = (
        "versions: every write from then on gets one above all that were given before, so none "
        "that was read comes again for another value"
    )
    if choice.last_index > found.commit:
        text += "; but those of the kept entries may: read such keys again before you rely on one"
    return text


def _line(one: Left) -> str:
    where = "runs" if one.lives else (f"stopped: {one.stopped}" if one.stopped else "directory")
    known = f"commit {one.commit}" if one.boot else "commit unknown"
    return (
        f"{one.node}: replica {one.replica} of {one.uuid.hex()[:8]}, entry {one.last_index} of "
        f"term {one.last_term}, {known}; {where}"
    )
