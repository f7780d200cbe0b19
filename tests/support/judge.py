"""Judges what clients saw of a real cluster. Shares no line with the store or with its simulator.

A history is a list of `Operation`s, in no particular order. Linearizability is local, so each key
is judged by itself, as one of two kinds:

- *Lists*: keys that are only appended to and read; each element is unique. The final read is the
  order, and everything is decided against it: every acknowledged append exactly once, unknown ones
  at most once, failed ones never, each client's order kept, reads and answers in step with the
  clocks, and an append's version is its place in the list.
- *Registers*: keys that are put, conditionally put, deleted and read; each value is unique. Wing
  and Gong's search with Lowe's memory of configurations, and, on whatever length of history, what
  versions must fulfil: one value a version, never backwards in time.

A search that uses up its steps raises `Undecided`, which is no verdict of "fine".
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

STEPS_MAX = 2_000_000


class Violation(AssertionError):
    """What the clients saw cannot have happened in a correct store."""


class Undecided(AssertionError):
    """The search gave up: no verdict, which fails a run as much as a violation does."""


@dataclass(slots=True)
class Operation:
    """One operation of one client. Times in seconds of one clock; a client has one open at once."""

    client: int
    kind: str  # "get", "put", "cas", "append", "delete"
    key: bytes
    value: bytes | None  # written; None for gets and deletes
    call: float
    ret: float = inf
    outcome: str = "unknown"  # "ok", "failed" (definitely not done), "refused" (cas), "unknown"
    result: bytes | None = None  # read
    version: int = 0  # read, written, or met by a refused cas; 0: absent
    expected: int = 0  # of a cas

    def __str__(self) -> str:
        shown = self.result if self.kind == "get" else self.value
        text = "absent" if shown is None else repr(shown[-40:])
        end = "never" if self.ret == inf else f"{self.ret:.4f}"
        wants = f" if v{self.expected}" if self.kind == "cas" else ""
        return (
            f"client {self.client} {self.kind} {self.key!r} {text}{wants} -> {self.outcome}"
            f" v{self.version} [{self.call:.4f}, {end}]"
        )


def judge(history: Iterable[Operation], *, steps_max: int = STEPS_MAX) -> None:
    """Judge a whole history. Of each list, the last read must have begun after all else ended.

    Raises:
        Violation: with what contradicts what.
        Undecided: a register's search used up its steps.
    """
    keys: dict[bytes, list[Operation]] = {}
    for operation in history:
        keys.setdefault(operation.key, []).append(operation)
    for operations in keys.values():
        if any(operation.kind == "append" for operation in operations):
            judge_list(operations)
        else:
            judge_register(operations, steps_max=steps_max)


# Lists


def elements_of(value: bytes | None) -> list[bytes]:
    """The elements of a list, each of which ended in `;`."""
    elements = (value or b"").split(b";")
    if elements.pop():
        raise Violation(f"half an element at the end of {value!r}")
    return elements


def judge_list(operations: Sequence[Operation]) -> None:
    """Judge the appends (`element;`) and gets of one key."""
    reads = [o for o in operations if o.kind == "get" and o.outcome == "ok"]
    final = max(reads, key=lambda read: read.call)
    for operation in operations:
        assert operation is final or operation.ret == inf or operation.ret <= final.call, (
            f"the final read began before this ended: {operation}"
        )
    elements = elements_of(final.result)
    for element, times in Counter(elements).items():
        if times > 1:
            raise Violation(f"{element!r} was appended {times} times, in {final}")
    place = {element: number for number, element in enumerate(elements, 1)}
    appends = {(o.value or b"").removesuffix(b";"): o for o in operations if o.kind == "append"}
    for element in elements:
        if element not in appends:
            raise Violation(f"nobody appended {element!r}, which is in {final}")
        if appends[element].outcome == "failed":
            raise Violation(f"said to be definitely not done, and is there: {appends[element]}")
    last: dict[int, tuple[int, Operation]] = {}
    for element, append in sorted(appends.items(), key=lambda item: item[1].call):
        if append.outcome != "ok":
            continue
        if element not in place:
            raise Violation(f"acknowledged and lost: {append}")
        if append.version != place[element]:
            raise Violation(f"append number {place[element]} was told another version: {append}")
        before, earlier = last.get(append.client, (0, append))
        if before > place[element]:
            raise Violation(f"a client's order was not kept:\n  {earlier}\n  {append}")
        last[append.client] = (place[element], append)
    for read in reads:
        found = elements_of(read.result)
        if found != elements[: len(found)]:
            raise Violation(f"what was read is no beginning of the final list: {read}")
        if read.version != len(found):
            raise Violation(f"{len(found)} appends and another version: {read}")
    _in_step_with_the_clocks(
        [(read, len(elements_of(read.result)), False) for read in reads]
        + [(o, place[e], True) for e, o in appends.items() if e in place]
    )


def _in_step_with_the_clocks(places: list[tuple[Operation, int, bool]]) -> None:
    """Whatever ended before an operation began must not come after it in the order of versions.

    Args:
        places: Operation, the version that it wrote or saw, whether it wrote it.
    """
    by_end = sorted(places, key=lambda item: item[0].ret)
    highest, witness, at = 0, "", 0
    for operation, place, wrote in sorted(places, key=lambda item: item[0].call):
        while at < len(by_end) and by_end[at][0].ret < operation.call:
            if by_end[at][1] > highest:
                highest, witness = by_end[at][1], str(by_end[at][0])
            at += 1
        if place < highest or (wrote and place == highest):
            kind = "written in the past" if wrote else "a stale read"
            raise Violation(f"{kind}:\n  {witness}\n  then {operation}")


# Registers


def judge_register(operations: Sequence[Operation], *, steps_max: int = STEPS_MAX) -> None:
    """Judge the puts, conditional puts, deletes and gets of one key that was absent at first."""
    value_of = _values_of_versions(operations)
    _in_step_with_the_clocks(
        [
            (o, o.version, o.kind != "get")
            for o in operations
            if o.outcome == "ok" and o.version and o.kind != "delete"
        ]
    )
    written = {o.value for o in operations if o.kind in ("put", "cas") and o.outcome != "refused"}
    failed = {o.value: o for o in operations if o.outcome == "failed" and o.value is not None}
    for read in operations:
        if read.kind == "get" and read.outcome == "ok" and read.result is not None:
            if read.result not in written:
                raise Violation(f"read what nobody wrote: {read}")
            if read.result in failed:
                raise Violation(f"read what was definitely not done: {failed[read.result]}\n{read}")
    steps = [_step(o, value_of) for o in operations if o.outcome != "failed"]
    _search([step for step in steps if step is not None], steps_max)


def _values_of_versions(operations: Sequence[Operation]) -> dict[int, bytes | None]:
    """Each version's value, where anybody was told of both."""
    seen: dict[int, tuple[bytes | None, Operation]] = {0: (None, operations[0])}
    for operation in operations:
        if operation.outcome != "ok" or operation.kind == "delete":
            continue
        value = operation.result if operation.kind == "get" else operation.value
        known, before = seen.setdefault(operation.version, (value, operation))
        if known != value:
            raise Violation(f"one version, two values:\n  {before}\n  {operation}")
    return {version: value for version, (value, _) in seen.items()}


@dataclass(slots=True)
class _Step:
    """An operation as the search sees it: what it needs, what it leaves."""

    operation: Operation
    needs: bytes | None  # the value that it must find, if `checks`
    checks: bool
    leaves: bytes | None  # the value after it, if `changes`
    changes: bool


def _step(operation: Operation, value_of: dict[int, bytes | None]) -> _Step | None:
    match operation.kind, operation.outcome:
        case "get", "ok":
            return _Step(operation, operation.result, True, None, False)
        case "put" | "delete", _:
            return _Step(operation, None, False, operation.value, True)
        case "cas", "refused":
            known = operation.version in value_of
            return _Step(operation, value_of.get(operation.version), known, None, False)
        case "cas", _:
            known = operation.expected in value_of
            return _Step(operation, value_of.get(operation.expected), known, operation.value, True)
    return None  # a get of which nothing is known


class _Event:
    """A call or return in the list of what has no place yet; calls know their return."""

    __slots__ = ("after", "before", "number", "ret", "step")

    def __init__(self, step: _Step | None, number: int, ret: "_Event | None") -> None:
        self.step, self.number, self.ret = step, number, ret
        self.before: _Event | None = None
        self.after: _Event | None = None

    def lift(self) -> None:
        """Take the call and its return out of the list."""
        for event in (self, self.ret):
            if event is not None:
                assert event.before is not None
                event.before.after = event.after
                if event.after is not None:
                    event.after.before = event.before

    def unlift(self) -> None:
        for event in (self.ret, self):
            if event is not None:
                assert event.before is not None
                event.before.after = event
                if event.after is not None:
                    event.after.before = event


def _search(steps: list[_Step], steps_max: int) -> None:
    """Wing and Gong's search, as Lowe has it: call by call, undoing, remembering where it was.

    An operation without a return may take effect anywhere after its call, or never: the search is
    over when everything that returned has its place.
    """
    moments: list[tuple[float, int, _Event]] = []
    for number, step in enumerate(steps):
        ret = _Event(None, number, None) if step.operation.ret < inf else None
        moments.append((step.operation.call, 0, _Event(step, number, ret)))
        if ret is not None:
            moments.append((step.operation.ret, 1, ret))
    moments.sort(key=lambda moment: moment[:2])
    head = _Event(None, -1, None)
    tail = head
    for _, _, event in moments:
        tail.after, event.before, tail = event, tail, event
    unplaced = sum(1 for step in steps if step.operation.ret < inf)

    value: bytes | None = None
    placed = 0
    seen: set[tuple[int, bytes | None]] = set()
    trail: list[tuple[_Event, bytes | None]] = []
    farthest, deepest = 0, ""
    event = head.after
    while unplaced:
        steps_max -= 1
        if steps_max < 0:
            raise Undecided(f"gave up on key {steps[0].operation.key!r} of {len(steps)} operations")
        if event is not None and event.step is not None:  # a call: can it be the next?
            step = event.step
            fits = not step.checks or step.needs == value
            after = step.leaves if step.changes else value
            mark = (placed | 1 << event.number, after)
            if fits and mark not in seen:
                seen.add(mark)
                trail.append((event, value))
                placed, value = mark
                event.lift()
                unplaced -= event.ret is not None
                event = head.after
            else:
                event = event.after
            continue
        # A return (or the end) was reached: nothing that is open here can come next; step back.
        if len(trail) >= farthest and event is not None:
            farthest, deepest = len(trail), _around(event.number, steps, value)
        if not trail:
            raise Violation(f"no legal order; the search got furthest at\n{deepest}")
        event, value = trail.pop()
        placed &= ~(1 << event.number)
        event.unlift()
        unplaced += event.ret is not None
        event = event.after


def _around(number: int, steps: list[_Step], value: bytes | None) -> str:
    stuck = steps[number].operation
    near = [
        f"  {step.operation}"
        for step in sorted(steps, key=lambda step: step.operation.call)
        if step.operation.call <= stuck.ret and step.operation.ret >= stuck.call
    ]
    return f"  (value {value!r}) {stuck}\n  beside it:\n" + "\n".join(near[-12:])
