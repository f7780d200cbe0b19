"""Is there a legal order? Judges what clients saw of a key, knowing nothing of how it came about.

Linearizable: every operation takes effect at one instant between its call and its answer. The
property is local (Herlihy and Wing, 1990), so each key is judged by itself.

- *Registers* (get, put, delete): Wing and Gong's search with Lowe's memory of configurations seen
  (Lowe, "Testing for linearizability", 2017), over windows cut where nothing is in flight.
- *Append lists* are decided outright: each appended element is unique, so the final list is the
  order, and what remains is to compare it with the clocks (`judge_list`).

The search has a budget of steps. One that is used up is `Undecided`, which counts as a failure of
the run: a check that may give up silently checks nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final

from labs.history import Kind, Operation

STEPS_MAX: Final = 2_000_000


class NotLinearizable(AssertionError):
    """No legal order explains what the clients of a key saw."""


class Undecided(AssertionError):
    """The search used up its steps."""


# Registers


def judge_register(
    operations: Sequence[Operation], *, start: bytes | None = None, steps_max: int = STEPS_MAX
) -> None:
    """Judge the gets, puts and deletes of one key, whose put values are unique.

    Args:
        operations: In any order; those that certainly did not happen are left out here.
        start: The value before the first of them.
        steps_max: What the search may try, over all windows.

    Raises:
        NotLinearizable: no order is legal; the message shows the window where it fails.
        Undecided: the budget was used up.
    """
    known = _narrowed(operations)
    states: list[_State] = [(start, frozenset())]
    budget = steps_max
    for window in _windows(known):
        search = _Search(window, budget)
        states = search.ends(states)
        budget = search.budget
        if not states:
            shown = "\n".join(f"  {operation}" for operation in window)
            raise NotLinearizable(f"no legal order of:\n{shown}")


_Open = frozenset[tuple[float, int]]
"""Unknown deletes that have not taken effect: when each began, and whose it is."""
_State = tuple[bytes | None, _Open]
"""The value, and the deletes that may still come."""


def _narrowed(operations: Sequence[Operation]) -> list[Operation]:
    """What may have happened, by its beginning.

    A put of unknown outcome that nobody read may be taken not to have happened. One that was read
    took effect before the first such read ended: that is its end. (etcd's robustness tests narrow
    in the same way.) Only deletes stay unknown, because absence does not say whose it is.
    """
    first_read: dict[bytes, float] = {}
    values: dict[bytes, None] = {}
    for operation in operations:
        if operation.kind is Kind.GET and operation.happened and operation.value is not None:
            before = first_read.get(operation.value, inf)
            first_read[operation.value] = min(before, operation.ended)
        elif operation.kind is Kind.PUT:
            assert operation.value is not None and operation.value not in values, operation
            values[operation.value] = None
    known = []
    for operation in operations:
        if operation.happened or (operation.happened is None and operation.kind is Kind.DELETE):
            known.append(operation)
        elif operation.happened is None and operation.value in first_read and operation.writes:
            known.append(replace(operation, ended=first_read[operation.value]))
    return sorted(known, key=lambda operation: operation.began)


def _windows(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Cut wherever no operation that has an end is in flight."""
    windows: list[list[Operation]] = []
    busy_until = -inf
    for operation in operations:
        if not windows or operation.began > busy_until:
            windows.append([])
        windows[-1].append(operation)
        if operation.ended < inf:
            busy_until = max(busy_until, operation.ended)
    return windows


class _Search:
    """Wing and Gong's search over one window, with Lowe's memory of configurations seen.

    A configuration is the set of operations that have taken effect (the first ones as a count,
    the others as bits), the value, and the unknown deletes that have not.
    """

    def __init__(self, window: Sequence[Operation], budget: int) -> None:
        self.budget = budget
        self._operations = [operation for operation in window if operation.ended < inf]
        self._deletes = [
            (operation.began, operation.client) for operation in window if operation.ended == inf
        ]
        self._key = window[0].key
        self._stack: list[tuple[int, int, bytes | None, _Open]] = []
        self._seen: set[tuple[int, int, bytes | None, _Open]] = set()

    def ends(self, starts: Sequence[_State]) -> list[_State]:
        """Every state in which the window can end, of those that matter."""
        ends: dict[_State, None] = {}
        for value, open_ in starts:
            self._push(0, 0, value, open_.union(self._deletes))
        while self._stack:
            done, bits, value, open_ = self._stack.pop()
            self.budget -= 1
            if self.budget < 0:
                raise Undecided(f"key {self._key!r}: gave up after all the steps allowed")
            if done == len(self._operations):
                ends[value, open_] = None
                continue
            self._step(done, bits, value, open_)
        return _without_needless(list(ends))

    def _step(self, done: int, bits: int, value: bytes | None, open_: _Open) -> None:
        """Try each operation that may be the next: it began before anything left has ended."""
        operations = self._operations
        horizon = inf
        candidates: list[int] = []
        for at in range(done, len(operations)):
            if bits >> (at - done) & 1:
                continue
            operation = operations[at]
            if operation.began > horizon:
                break
            horizon = min(horizon, operation.ended)
            candidates.append(at)
        for at in candidates:
            operation = operations[at]
            if (
                operation.kind is Kind.GET
                and operation.value == value
                and operation.began <= horizon
            ):
                # A read that fits may go first: it changes nothing, and nothing has to precede it.
                self._push(*_with(done, bits, at), value, open_)
                return
        for at in candidates:
            operation = operations[at]
            if operation.writes and operation.began <= horizon:
                self._push(*_with(done, bits, at), operation.value, open_)
        if value is not None:
            for delete in sorted(open_)[:1]:  # which of those that have begun makes no difference
                if delete[0] <= horizon:
                    self._push(done, bits, None, open_ - {delete})

    def _push(self, done: int, bits: int, value: bytes | None, open_: _Open) -> None:
        configuration = (done, bits, value, open_)
        if configuration not in self._seen:
            self._seen.add(configuration)
            self._stack.append(configuration)


def _with(done: int, bits: int, at: int) -> tuple[int, int]:
    """The set of what has taken effect, and operation `at`."""
    bits |= 1 << (at - done)
    while bits & 1:
        done, bits = done + 1, bits >> 1
    return done, bits


def _without_needless(ends: list[_State]) -> list[_State]:
    """Of equal values, one with more open deletes can do all that one with fewer can."""
    kept: list[_State] = []
    for value, open_ in sorted(ends, key=lambda end: -len(end[1])):
        if not any(value == other and open_ <= more for other, more in kept):
            kept.append((value, open_))
    return kept


# Append lists


def judge_list(
    operations: Sequence[Operation], final: bytes | None, separator: bytes = b" "
) -> None:
    """Judge the appends and gets of one key, whose elements are unique and end in `separator`.

    Args:
        final: The key's value after everything.

    Raises:
        NotLinearizable: an acknowledged element is missing, one is there twice or was never
            written or was certainly not done, a read is no prefix of the final list, or an order
            contradicts the clocks.
    """
    elements = (final or b"").split(separator)[:-1]
    at = {element: number for number, element in enumerate(elements)}
    if len(at) != len(elements):
        twice = sorted({element for element in elements if elements.count(element) > 1})
        raise NotLinearizable(f"appended twice: {twice[:5]!r}")
    appends = {
        (operation.value or b"").removesuffix(separator): operation
        for operation in operations
        if operation.kind is Kind.APPEND
    }
    for element in elements:
        operation = appends.get(element)
        if operation is None:
            raise NotLinearizable(f"{element!r} is there and nobody appended it")
        if operation.happened is False:
            raise NotLinearizable(f"said not to be done, and is there: {operation}")
    for element, operation in appends.items():
        if operation.happened and element not in at:
            raise NotLinearizable(f"acknowledged, and lost: {operation}")
    _against_the_clocks(operations, elements, at, separator)


def _against_the_clocks(
    operations: Sequence[Operation],
    elements: Sequence[bytes],
    at: dict[bytes, int],
    separator: bytes,
) -> None:
    """An append takes effect at its place in the list, a read after what it saw. If one operation
    ended before another began, the first one's place must not be after the other's."""
    places: list[tuple[Operation, float]] = []  # an append at its place, a read half a place after
    for operation in operations:
        if operation.kind is Kind.APPEND:
            place = at.get((operation.value or b"").removesuffix(separator))
            if place is not None:
                places.append((operation, float(place)))
        elif operation.happened:
            read = (operation.value or b"").split(separator)[:-1]
            if read != list(elements[: len(read)]):
                raise NotLinearizable(f"read what is no beginning of the final list: {operation}")
            places.append((operation, len(read) - 0.5))
    # Sweep by time: the highest place of what has ended is a floor for what begins later.
    moments = sorted(
        [(operation.began, 1, place, operation) for operation, place in places]
        + [(operation.ended, 0, place, operation) for operation, place in places],
        key=lambda moment: (moment[0], -moment[1]),
    )
    floor, highest = -1.0, ""
    for _, begins, position, moment in moments:
        if begins:
            if position < floor:
                raise NotLinearizable(f"an order against the clocks:\n  {highest}\n  {moment}")
        elif position > floor:
            floor, highest = position, str(moment)
