"""The nouns of the store: keys and rows, and what a group answers.

A configuration's nouns (`ShardId`, `ConfigNumber`, `ShardConfig`) are the controller's.
"""

from enum import IntEnum
from typing import Final, NamedTuple, NewType

Version = NewType("Version", int)
"""How often a key was written: 0 is absent, +1 for each Put or Append. No version comes twice:
a key made anew starts above the highest version that the shard ever deleted."""
SessionId = NewType("SessionId", int)
"""A number from a counter kept in the shard, from 1; given by `OpenSession`, never twice."""
Generation = NewType("Generation", int)
"""The index of the entry that began a copy of a shard here: never the same for two copies."""
CopyId = NewType("CopyId", int)
"""The index of the source's entry from which a copy starts: every change of the shard since then
has a change row. A copy that begins again has another one."""

NO_GENERATION: Final = Generation(0)
NO_COPY: Final = CopyId(0)


class Row(NamedTuple):
    """A key's value and version; `ABSENT` (None at version 0) where there is none."""

    value: bytes | None
    version: Version


ABSENT: Final = Row(None, Version(0))


class Code(IntEnum):
    """What kind of answer. Recorded in sessions and sent to clients: a number keeps its meaning.

    What an answer's `facts` hold stands beside each code.
    """

    OK = 0  # (the key's version) | (one version an operation of a batch; 0 of a delete)
    #         | (the session opened) | (): done, now or before
    # Refusals that are final, and recorded in the session like any other answer.
    # Of a batch the first two have a second fact: which operation it was, from 0.
    VERSION_MISMATCH = 1  # (current version): `if_version` asked for another one
    VALUE_TOO_LONG = 2  # (bytes it would have): the append was not done
    NAME_REUSED = 3  # (): another request had the name that the client gave this one
    # The session knows better. Never recorded.
    SESSION_EXPIRED = 10  # (): the shard forgot the session, for ever
    SEQUENCE_STALE = 11  # (): acknowledged by the client before; its answer is gone
    SEQUENCE_OVER_WINDOW = 12  # (window): too many requests in flight in one session
    SEQUENCE_REUSED = 13  # (): another command had this sequence
    SESSIONS_FULL = 14  # (limit): no session is opened until some expire
    NAMES_FULL = 15  # (limit): the shard knows its fill of named requests; this one was not done
    # Not here. Nothing was touched: the same request may go to another group, or come again.
    WRONG_GROUP = 20  # (config number): the group of that configuration owns the shard
    NOT_READY = 21  # (config number, source group): it is on its way from there
    # Steps of configurations and copies.
    OLD = 30  # (config number known): a later configuration has decided about the shard
    NOT_NEXT = 31  # (config number known): configurations are taken one by one
    UNSETTLED = 32  # (config number known): shards of it are still on their way here, or away
    OUT_OF_STEP = 33  # (): another copy, cursor or phase than the staged one
    BAD_COMMAND = 40  # (): not a command that a leader should have let in


class Answer(NamedTuple):
    """What a group says to one command: a code and a few whole numbers, small enough to record."""

    code: Code
    facts: tuple[int, ...] = ()


DONE: Final = Answer(Code.OK)
