"""Is there a legal order of what clients saw of a *pair*: two keys that only batches write, both at
once? Judged as one object, so that no reader ever sees half a batch: key by key each half may be
linearizable, and their order all the same impossible.

It knows nothing of how the answers came about; `labs/store_invariants.py` watches the same from
within (C10).
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final, NamedTuple, TypeAlias

from labs.history import Kind, Operation
from labs.linearizability import ILLEGAL, STEPS_MAX, judge

Halves: TypeAlias = tuple[bytes | None, bytes | None]


class Whole(NamedTuple):
    """A batch, which leaves `values`; or a read of half `at`, which showed `values[at]`."""

    began: float
    ended: float
    values: Halves
    at: int | None
    """None: of a batch."""
    client: int

    def __str__(self) -> str:
        end = f"{self.ended:.6f}" if self.ended < inf else "never"
        what = "batch" if self.at is None else f"get half {self.at}"
        return f"client {self.client} {what} {self.values!r:.120} [{self.began:.6f}, {end}]"


class Pair:
    """The model: a batch sets both halves whatever was there."""

    blind: Final = True
    start: Final[Halves] = (None, None)

    def step(self, state: Halves, operation: Whole) -> object:
        if operation.at is None:
            return operation.values
        return state if state[operation.at] == operation.values[operation.at] else ILLEGAL

    def is_read(self, operation: Whole) -> bool:
        return operation.at is not None


def judge_pair(
    left: bytes, right: bytes, operations: Iterable[Operation], *, steps_max: int = STEPS_MAX
) -> None:
    """Judge the gets and batches of a pair.

    Args:
        operations: Of any keys, in any order; those of other keys say nothing here. Whoever writes
            a half does it in a batch with the other one.

    Raises:
        NotLinearizable: no order is legal; the message shows the window where it fails.
        Undecided: the budget was used up.
    """
    judge(_wholes((left, right), operations), Pair(), steps_max=steps_max)


def _wholes(keys: tuple[bytes, bytes], operations: Iterable[Operation]) -> list[Whole]:
    batches: dict[int, list[Operation]] = {}
    found = []
    for one in operations:
        if one.key not in keys or one.happened is False:
            continue
        if one.writes:
            assert one.batch, f"a half is written alone: {one}"
            batches.setdefault(one.batch, []).append(one)
        elif one.happened:
            at = keys.index(one.key)
            shown = (one.value, None) if at == 0 else (None, one.value)
            found.append(Whole(one.began, one.ended, shown, at, one.client))
    return found + [_batch(keys, writes) for writes in batches.values()]


def _batch(keys: tuple[bytes, bytes], writes: Sequence[Operation]) -> Whole:
    """What a batch leaves: of each half the last thing that it writes there."""
    left: dict[bytes, bytes | None] = {}
    for one in writes:
        assert one.kind in (Kind.PUT, Kind.DELETE), one
        left[one.key] = one.value if one.kind is Kind.PUT else None
    first = writes[0]
    ended = first.ended if first.happened else inf
    return Whole(first.began, ended, (left[keys[0]], left[keys[1]]), None, first.client)
