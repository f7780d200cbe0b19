"""Is there a legal order? Judges what clients saw of a key, knowing nothing of how it came about.

Linearizable: every operation takes effect at one instant between its call and its answer. The
property is local (Herlihy and Wing, 1990), so each key is judged by itself.

- *Any model* (`judge`): Wing and Gong's search with Lowe's memory of configurations seen (Lowe,
  "Testing for linearizability", 2017), over windows cut where nothing is in flight.
- *Registers* (`judge_register`: get, put, delete): the same, after conditions that are necessary
  and cheap to check, which most violations break already.
- *Append lists* (`judge_list`) are decided outright: each appended element is unique, so the final
  list is the order, and what remains is to compare it with the clocks.

A write whose outcome nobody knows may take effect at any time after its call, or never: it stays
open to the end. The search has a budget of steps. One that is used up is `Undecided`, which counts
as a failure of the run: a check that may give up silently checks nothing.

A violation is told by its smallest window: cut at the first answer that no order explains, without
the reads that play no part in it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

from labs.history import Kind, Operation

STEPS_MAX: Final = 2_000_000
SHRINK_STEPS_MAX: Final = 20_000
"""Of each try to show a violation in fewer operations."""
SHRINK_OPERATIONS_MAX: Final = 300
"""A window of more is only cut, not thinned out."""


class NotLinearizable(AssertionError):
    """No legal order explains what the clients of a key saw."""


class Undecided(AssertionError):
    """The search used up its steps."""


class _Illegal:
    def __repr__(self) -> str:
        return "ILLEGAL"


ILLEGAL: Final = _Illegal()
"""What a model says of an answer that the state does not allow."""


class Timed(Protocol):
    """An operation, as far as the search looks at it."""

    @property
    def began(self) -> float: ...

    @property
    def ended(self) -> float:
        """Infinity if no answer came."""
        ...


Op = TypeVar("Op", bound=Timed)
Op_contra = TypeVar("Op_contra", bound=Timed, contravariant=True)


class Model(Protocol[Op_contra]):
    """What one key does, one operation at a time."""

    @property
    def start(self) -> Any:
        """The state before any operation. States are hashable values."""
        ...

    @property
    def blind(self) -> bool:
        """Whether a write's effect is the same whatever was there. Then one of unknown outcome
        matters only where a read sees it at once: anywhere else it may as well not have been."""
        ...

    def step(self, state: Any, operation: Op_contra) -> Any:
        """The state after `operation`, or `ILLEGAL` if it cannot have been answered so there."""
        ...

    def is_read(self, operation: Op_contra) -> bool:
        """Whether it leaves every state as it is, so that a history without it is legal if one
        with it is."""
        ...


def judge(operations: Iterable[Op], model: Model[Op], *, steps_max: int = STEPS_MAX) -> None:
    """Judge the operations of one key.

    Args:
        operations: In any order, without those that certainly did not happen. One whose `ended`
            is infinite may have happened; a read among them says nothing and is passed over.
        steps_max: What the search may try, over all windows.

    Raises:
        NotLinearizable: no order is legal; the message shows the smallest window of it.
        Undecided: the budget was used up.
    """
    known = sorted(
        (one for one in operations if one.ended < inf or not model.is_read(one)),
        key=lambda one: one.began,
    )
    states: tuple[_State, ...] = ((model.start, frozenset()),)
    steps = steps_max
    for window in _windows(known):
        # Writes of unknown outcome may take effect in this window or any later one: they are
        # carried on, as a set of those that have not, in each state that a window can end in.
        search = _Search(known, model, window, steps)
        ends = search.run(states)
        steps = search.steps
        if not ends:
            shown = _smallest(known, model, window, states)
            text = "\n".join(f"  {operation}" for operation in shown)
            raise NotLinearizable(f"no legal order of:\n{text}")
        states = ends


def _windows(operations: Sequence[Timed]) -> list[list[int]]:
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


_State = tuple[Any, frozenset[int]]
"""The model's state, and the unknown writes that have not taken effect."""


class _Search(Generic[Op]):
    """Every state in which a window can end. Configurations are (done, state, open): a bit for
    each answered operation of the window, what they led to, and the unknown ones still to come."""

    def __init__(
        self, operations: Sequence[Op], model: Model[Op], window: Sequence[int], steps: int
    ) -> None:
        self.steps = steps
        self._operations, self._model = operations, model
        self._answered = [number for number in window if operations[number].ended < inf]
        self._unknown = frozenset(number for number in window if operations[number].ended == inf)

    def run(self, states: Sequence[_State]) -> tuple[_State, ...]:
        """Raises Undecided."""
        operations, step, is_read = self._operations, self._model.step, self._model.is_read
        numbers = self._answered
        answered = [operations[number] for number in numbers]
        began = [operation.began for operation in answered]
        ended = [operation.ended for operation in answered]
        count = len(answered)
        complete = (1 << count) - 1
        ends: dict[_State, None] = {}
        stack: list[tuple[int, int, Any, frozenset[int]]] = [
            (0, 0, state, open_ | self._unknown) for state, open_ in states
        ]
        seen = {(done, state, open_) for done, _, state, open_ in stack}
        while stack:
            self.steps -= 1
            if self.steps < 0:
                raise Undecided(f"gave up after all steps allowed, near {answered[:1]}")
            done, low, state, open_ = stack.pop()
            if done == complete:
                ends[state, open_] = None
                continue
            while done >> low & 1:
                low += 1
            # The next to take effect must have begun before anything that is left has ended.
            horizon = inf
            candidates = []
            for at in range(low, count):
                if began[at] > horizon:
                    break
                if not done >> at & 1:
                    candidates.append(at)
                    if ended[at] < horizon:
                        horizon = ended[at]
            found = []
            # (None of them began after the horizon: what lowered it began no earlier.)
            for at in candidates:
                after = step(state, answered[at])
                if after is ILLEGAL:
                    continue
                found.append((done | 1 << at, low, after, open_))
                if is_read(answered[at]):
                    # A read that fits may go first: it changes nothing, and nothing of what is
                    # left has to precede it. So no other order need be tried.
                    found = found[-1:]
                    break
            else:
                reads = [at for at in candidates if is_read(answered[at])]
                found += self._unknown_next((done, low, state, open_), horizon, answered, reads)
            for one in reversed(found):
                key = (one[0], one[2], one[3])
                if key not in seen:
                    seen.add(key)
                    stack.append(one)
        return _bounded(ends)

    def _unknown_next(
        self,
        configuration: tuple[int, int, Any, frozenset[int]],
        horizon: float,
        answered: Sequence[Op],
        reads: Sequence[int],
    ) -> list[tuple[int, int, Any, frozenset[int]]]:
        """Each unknown write that may take effect now. It matters only if something after it can
        tell, so not at the end; a blind one only with a read that sees it, one of `reads`."""
        done, low, state, open_ = configuration
        step, blind = self._model.step, self._model.blind
        found: dict[tuple[int, int, Any, frozenset[int]], None] = {}
        effects: set[Any] = set()
        for number in sorted(open_):
            operation = self._operations[number]
            if operation.began > horizon:
                continue
            after = step(state, operation)
            if after is ILLEGAL:
                continue
            if not blind:
                found[done, low, after, open_ - {number}] = None
            elif after not in effects:  # of several alike one is as good as the other
                effects.add(after)
                for at in reads:
                    if step(after, answered[at]) is not ILLEGAL:
                        found[done | 1 << at, low, after, open_ - {number}] = None
                        break  # others that fit follow at once
        return list(found)


def _bounded(ends: Iterable[_State]) -> tuple[_State, ...]:
    """Without what cannot matter: of equal states, one with more open writes can do all that one
    with fewer can."""
    kept: dict[Any, list[frozenset[int]]] = {}
    for state, open_ in sorted(ends, key=lambda end: -len(end[1])):
        others = kept.setdefault(state, [])
        if not any(open_ <= more for more in others):
            others.append(open_)
    return tuple((state, open_) for state, opens in kept.items() for open_ in opens)


# The smallest window


@dataclass(frozen=True, slots=True)
class _Cut(Generic[Op]):
    """An operation as it stood at a moment before its answer."""

    inner: Op
    began: float
    ended: float

    def __str__(self) -> str:
        return f"{self.inner}{' (still open then)' if self.ended == inf else ''}"


class _CutModel(Generic[Op]):
    """A model of cut operations. Of one that is open only a write counts, and its answer, which is
    yet to come, is not looked at: it may have taken effect wherever the model lets it."""

    def __init__(self, model: Model[Op]) -> None:
        self._model = model
        self.start, self.blind = model.start, model.blind

    def step(self, state: Any, cut: _Cut[Op]) -> Any:
        return self._model.step(state, cut.inner)

    def is_read(self, cut: _Cut[Op]) -> bool:
        return self._model.is_read(cut.inner)


def _smallest(
    operations: Sequence[Op], model: Model[Op], window: Sequence[int], states: Sequence[_State]
) -> list[object]:
    """The window, cut at the first answer that no order explains, and without idle reads.

    Cutting is sound: were the whole legal, then so would be every beginning of it, with the
    answers that are yet to come left out. So is dropping a read.
    """
    earlier = sorted({number for _, open_ in states for number in open_})
    cut_model = _CutModel(model)

    def illegal(numbers: Sequence[int], until: float) -> bool:
        cuts: list[_Cut[Op]] = []
        for number in [*earlier, *numbers]:
            operation = operations[number]
            ended = operation.ended if operation.ended <= until else inf
            if operation.began <= until and (ended < inf or not model.is_read(operation)):
                cuts.append(_Cut(operation, operation.began, ended))
        place = {number: at for at, number in enumerate(earlier)}
        begin = [(state, frozenset(place[number] for number in open_)) for state, open_ in states]
        rest = range(len(earlier), len(cuts))
        try:
            return not _Search(cuts, cut_model, rest, SHRINK_STEPS_MAX).run(begin)
        except Undecided:
            return False

    answers = sorted(operations[n].ended for n in window if operations[n].ended < inf)
    lo, hi = 0, len(answers) - 1
    while lo < hi:  # the first answer with which it is illegal
        middle = (lo + hi) // 2
        lo, hi = (lo, middle) if illegal(window, answers[middle]) else (middle + 1, hi)
    until = answers[lo]
    kept = [number for number in window if operations[number].began <= until]
    if len(kept) <= SHRINK_OPERATIONS_MAX:
        for number in list(kept):
            fewer = [other for other in kept if other != number]
            if model.is_read(operations[number]) and illegal(fewer, until):
                kept = fewer
    return [
        operations[number]
        if operations[number].ended <= until
        else _Cut(operations[number], operations[number].began, inf)
        for number in kept
    ]


# Registers


class Register:
    """A value that is put, deleted and read.

    Args:
        start: The value before the first operation; None: absent.
    """

    blind: Final = True

    def __init__(self, start: bytes | None = None) -> None:
        self.start = start

    def step(self, state: bytes | None, operation: Operation) -> object:
        if operation.kind is Kind.GET:
            return state if operation.value == state else ILLEGAL
        return operation.value

    def is_read(self, operation: Operation) -> bool:
        return operation.kind is Kind.GET


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
    possible = [operation for operation in operations if operation.happened is not False]
    known = [
        operation if operation.happened else replace(operation, ended=inf)
        for operation in possible
        if operation.happened or operation.writes
    ]
    if _check_reads(known, start):
        known = _narrowed(known)
    judge(known, Register(start), steps_max=steps_max)


def _narrowed(operations: Sequence[Operation]) -> list[Operation]:
    """Fewer unknowns, where each written value is unique: an unknown put that nobody read may be
    taken not to have happened; one that was read took effect before the first such read ended, and
    that is its end. (etcd's robustness tests narrow alike.) Only deletes stay unknown, because
    absence does not say whose it is.
    """
    first_read: dict[bytes | None, float] = {}
    for operation in operations:
        if operation.kind is Kind.GET and operation.value is not None:
            before = first_read.get(operation.value, inf)
            first_read[operation.value] = min(before, operation.ended)
    known = []
    for operation in operations:
        if operation.ended < inf or operation.kind is Kind.DELETE:
            known.append(operation)
        elif operation.value in first_read:
            known.append(replace(operation, ended=first_read[operation.value]))
    return known


def _check_reads(operations: Sequence[Operation], start: bytes | None) -> bool:
    """What every read must satisfy, in O(n log n), where each written value is unique: its value
    was written, not after the read, and not overwritten for sure before it.

    Returns:
        Whether each written value is unique.

    Raises:
        NotLinearizable: with the two or three operations that contradict each other.
    """
    puts: dict[bytes | None, Operation] = {}
    for operation in operations:
        if operation.kind is Kind.PUT:
            if operation.value in puts or operation.value == start:
                return False  # the search decides
            puts[operation.value] = operation
    writes = sorted(
        (operation for operation in operations if operation.writes), key=lambda one: one.began
    )
    begins = [write.began for write in writes]
    # first_done[i]: of the writes from the i-th on, the one that ended first.
    first_done: list[Operation] = []
    for write in reversed(writes):
        last = first_done[-1] if first_done else write
        first_done.append(write if write.ended < last.ended else last)
    first_done.reverse()
    for read in operations:
        if read.kind is not Kind.GET or read.value is None or read.value == start:
            continue
        put = puts.get(read.value)
        if put is None:
            raise NotLinearizable(f"read what nobody wrote:\n  {read}")
        if put.began > read.ended:
            raise NotLinearizable(f"read before it was written:\n  {read}\n  {put}")
        after = bisect_right(begins, put.ended)
        if after < len(writes) and first_done[after].ended < read.began:
            overwrote = first_done[after]
            raise NotLinearizable(
                f"read what had been overwritten:\n  {put}\n  {overwrote}\n  {read}"
            )
    return True


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
