"""Which read to use: how new an answer must be, and who may give it.

=================  =========================================  ==================================
`consistency`      what an answer shows                       who answers
=================  =========================================  ==================================
`linearizable`     everything acknowledged before the call    the leader of the key's group
`spread`           the same                                   any replica, in turn; it asks its
                                                              leader how far it has to be
`stale`            everything acknowledged `max_age` seconds  any replica, in turn, by itself
                   before the call, perhaps more              while it is new enough
=================  =========================================  ==================================

`docs/reads.md` says which to choose; `raft/reads.py` and `raft/freshness.py` why they are right.
"""

from enum import Enum
from math import isfinite
from typing import Final, NamedTuple

from shardkv.errors import InvalidArgument

STALE_SECONDS: Final = 10.0
"""The bound of a stale read where its caller names none."""
STALE_SECONDS_MAX: Final = 86_400.0


class Consistency(Enum):
    """See the module's text."""

    LINEARIZABLE = "linearizable"
    SPREAD = "spread"
    STALE = "stale"


class Reading(NamedTuple):
    """A consistency and, of a stale read, its bound."""

    consistency: Consistency = Consistency.LINEARIZABLE
    age_ms_max: int = 0
    """In milliseconds; 0 for what is not stale."""

    @property
    def is_stale(self) -> bool:
        return self.consistency is Consistency.STALE


LINEARIZABLE: Final = Reading()


def reading(consistency: Consistency | str, max_age: float | None = None) -> Reading:
    """Check what a caller asks for.

    Raises:
        InvalidArgument: there is no such consistency, or the bound is out of range or means
            nothing.
    """
    if consistency == "linearizable" and max_age is None:  # most of them
        return LINEARIZABLE
    try:
        chosen = Consistency(consistency)
    except ValueError:
        names = ", ".join(one.value for one in Consistency)
        raise InvalidArgument(
            f"consistency must be one of {names}, not {consistency!r:.40}"
        ) from None
    if chosen is not Consistency.STALE:
        if max_age is not None:
            raise InvalidArgument("max_age bounds stale reads; this one is not stale")
        return Reading(chosen)
    seconds = STALE_SECONDS if max_age is None else max_age
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidArgument(f"max_age must be a number of seconds, not {max_age!r:.40}")
    if not isfinite(seconds) or not 0 <= seconds <= STALE_SECONDS_MAX:
        raise InvalidArgument(f"max_age must be 0 to {STALE_SECONDS_MAX:g} seconds, not {seconds}")
    return Reading(chosen, int(seconds * 1000))
