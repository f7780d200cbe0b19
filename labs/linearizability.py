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
from dataclasses import dataclass
from math import inf
from typing import Final

from labs.history import Kind, Operation

STEPS_MAX: Final = 2_000_000


class NotLinearizable(AssertionError):
    """No legal order explains what the clients of a key saw."""


class Undecided(AssertionError):
    """The search used up its steps."""


# Registers


@dataclass(slots=True)
class _Event:
    """A call or an answer in the doubly linked list of what is not linearized yet."""

    operation: int  # its number
    answer: "_Event | None"  # of a call
    before: "_Event | None" = None
    after: "_Event | None" = None


def judge_register(
    operations: Sequence[Operation], *, start: bytes | None = None, steps_max: int = STEPS_MAX
) -> None:
    """Judge the gets, puts and deletes of one key.

    Args:
        operations: In any order; those that certainly did not happen are left out here.
        start: The value before the first of them.
        steps_max: What the search may try, over all windows.

    Raises:
        NotLinearizable: no order is legal; the message shows the window where it fails.
        Undecided: the budget was used up.
    """
    known = sorted(
        (
            operation
            for operation in operations
            if operation.happened or (operation.happened is None and operation.writes)
        ),
        key=lambda operation: operation.began,
    )
    states: frozenset[tuple[bytes | None, frozenset[int]]] = frozenset({(start, frozenset())})
    steps = steps_max
    for window in _windows(known):
        # Writes of unknown outcome may take effect in this window or any later one: they are
        # carried on, as a set of those that have not, in each state that a window can end in.
        states, steps = _search(window, known, states, steps)
        if not states:
            shown = "\n".join(f"  {known[number]}" for number in window)
            raise NotLinearizable(f"no legal order of:\n{shown}")


def _windows(operations: Sequence[Operation]) -> list[list[int]]:
    """Numbers of operations, cut wherever no answered operation is in flight."""
    windows: list[list[int]] = []
    busy_until = -inf
    for number, operation in enumerate(operations):
        if not windows or operation.began > busy_until:
            windows.append([])
        windows[-1].append(number)
        if operation.ended < inf:
            busy_until = max(busy_until, operation.ended)
    return windows


_State = tuple[bytes | None, frozenset[int]]
"""The value, and the unknown writes that have not taken effect."""


def _search(
    window: Sequence[int],
    operations: Sequence[Operation],
    states: frozenset[_State],
    steps: int,
) -> tuple[frozenset[_State], int]:
    """Every state in which the window can end."""
    certain = [number for number in window if operations[number].ended < inf]
    unknown = frozenset(number for number in window if operations[number].ended == inf)
    ends: set[_State] = set()
    seen: set[tuple[frozenset[int], bytes | None, frozenset[int]]] = set()
    stack = [
        (frozenset(certain), value, open_ | unknown) for value, open_ in sorted(states, key=repr)
    ]
    while stack:
        configuration = stack.pop()
        if configuration in seen:
            continue
        seen.add(configuration)
        steps -= 1
        if steps < 0:
            raise Undecided(f"key {operations[window[0]].key!r}: gave up after all steps allowed")
        rest, value, open_ = configuration
        if not rest:
            ends.add((value, open_))
        # The next to take effect must have begun before anything that is left has ended.
        horizon = min((operations[number].ended for number in rest), default=inf)
        for number in rest:
            operation = operations[number]
            if operation.began <= horizon:
                if operation.kind is Kind.GET:
                    if operation.value == value:
                        stack.append((rest - {number}, value, open_))
                else:
                    stack.append((rest - {number}, operation.value, open_))
        if rest:  # an unknown write matters only if something after it can tell
            for number in open_:
                if operations[number].began <= horizon:
                    stack.append((rest, operations[number].value, open_ - {number}))
    return _bounded(ends, operations), steps


def _bounded(ends: set[_State], operations: Sequence[Operation]) -> frozenset[_State]:
    """Without what cannot matter: of equal values, one with more open writes can do all that one
    with fewer can."""
    kept: list[_State] = []
    for value, open_ in sorted(ends, key=lambda end: (-len(end[1]), repr(end[0]), sorted(end[1]))):
        if not any(value == other and open_ <= more for other, more in kept):
            kept.append((value, open_))
    return frozenset(kept)


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
