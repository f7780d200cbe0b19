"""The search against one that tries every order, the story of a violation, and the labs' models.

The judges of registers and lists: `test_linearizability.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import inf
from random import Random

import pytest

from labs.harness.edition import Edition
from labs.harness.kv_history import Asked, Call, judge_calls
from labs.history import Kind, Operation
from labs.kv import Err
from labs.linearizability import (
    ILLEGAL,
    NotLinearizable,
    Register,
    judge,
    judge_register,
)

# Registers: an operation is written as what it did, and from when to when


def put(value: bytes, began: float, ended: float = inf) -> Operation:
    """Without an end nobody knows whether it was done."""
    return operation(Kind.PUT, value, began, ended)


def get(value: bytes | None, began: float, ended: float) -> Operation:
    return operation(Kind.GET, value, began, ended)


def operation(kind: Kind, value: bytes | None, began: float, ended: float) -> Operation:
    known = True if ended < inf else None
    return Operation(0, kind, b"key", value, began, ended, happened=known)


def test_the_smallest_window_is_shown() -> None:
    """The story ends at the first answer that cannot be, and leaves out what has no part in it."""
    before = [put(b"old %d" % number, number, number + 0.5) for number in range(50)]
    bad = [put(b"new", 100, 110), get(b"new", 101, 102), get(b"old 49", 103, 104)]
    idle = [get(b"old 49", 100, 109), get(b"new", 101, 108)]
    after = [put(b"later %d" % number, 105 + number, 105.5 + number) for number in range(50)]

    with pytest.raises(NotLinearizable) as violation:
        judge_register([*before, *bad, *idle, *after])

    story = str(violation.value).splitlines()[1:]
    assert len(story) == 3, story
    assert "b'new'" in story[0] and "still open then" in story[0]
    assert "get" in story[1] and "b'new'" in story[1]
    assert "get" in story[2] and "b'old 49'" in story[2]


def test_what_was_overwritten_is_told_by_the_write_that_ended_first() -> None:
    """Without a search: of the writes that began after the one that was read, any will do."""
    with pytest.raises(NotLinearizable, match="had been overwritten") as violation:
        judge_register([put(b"a", 0, 1), put(b"slow", 2, 10), put(b"quick", 3, 4), get(b"a", 5, 6)])

    assert "b'quick'" in str(violation.value) and "b'slow'" not in str(violation.value)


# Against every order there is


@dataclass(frozen=True)
class Step:
    """An operation on a counter that wraps at 3: a read says what it saw, an add what was there
    before it."""

    kind: str
    saw: int
    began: int
    ended: float


class Counter:
    start = 0
    blind = False

    def step(self, state: int, step: Step) -> object:
        if step.kind == "read":
            return state if step.saw == state else ILLEGAL
        if step.kind == "set":
            return step.saw
        legal = step.ended == inf or step.saw == state
        return (state + 1) % 3 if legal else ILLEGAL

    def is_read(self, step: Step) -> bool:
        return step.kind == "read"


@pytest.mark.parametrize("first", ["set", "add"])
def test_a_window_may_end_alike_by_different_writes(first: str) -> None:
    """Of two that nobody knows of either may have made the 1; only if the other is left is there a
    2 later."""
    unknown = {"set": Step("set", 1, 1, inf), "add": Step("add", 0, 1, inf)}
    history = [replace(unknown.pop(first), began=0), *unknown.values()]

    judge([*history, Step("read", 1, 2, 3), Step("read", 2, 4, 5)], Counter())


def try_every_order(history: Sequence[Step]) -> bool:
    """Whether some order of all that was answered, and of some that was not, is legal."""
    certain = [step for step in history if step.ended < inf]
    unknown = [step for step in history if step.ended == inf and step.kind != "read"]
    for chosen in range(2 ** len(unknown)):
        some = [step for at, step in enumerate(unknown) if chosen >> at & 1]
        if any(is_legal(order) for order in permutations([*certain, *some])):
            return True
    return False


def is_legal(order: Sequence[Step]) -> bool:
    state: object = 0
    latest = -inf
    for step in order:
        if step.ended < latest:
            return False  # it ended before one that stands ahead of it began
        latest = max(latest, step.began)
        assert isinstance(state, int)
        state = Counter().step(state, step)
        if state is ILLEGAL:
            return False
    return True


def test_the_search_agrees_with_trying_every_order() -> None:
    rng = Random(4711)
    verdicts = {True: 0, False: 0}
    for _ in range(1_500):
        history = []
        for _ in range(rng.randint(2, 6)):
            began = rng.randrange(10)
            ended = inf if rng.random() < 0.2 else began + 1 + rng.randrange(6)
            kind = rng.choice(("read", "add", "add", "set"))
            history.append(Step(kind, rng.randrange(3), began, ended))
        expected = try_every_order(history)
        try:
            judge(history, Counter())
            found = True
        except NotLinearizable:
            found = False
        assert found is expected, history
        verdicts[expected] += 1
    assert min(verdicts.values()) > 300, verdicts


def test_blind_writes_are_judged_as_any_others() -> None:
    """What a register's search leaves out makes no difference to what it finds."""
    rng = Random(4712)

    class Careful(Register):
        blind = False  # type: ignore[misc]

    verdicts = {True: 0, False: 0}
    for _ in range(1_500):
        history = []
        for _ in range(rng.randint(3, 9)):
            began = rng.randrange(14)
            ended = inf if rng.random() < 0.3 else began + 1 + rng.randrange(6)
            kind = rng.choice((Kind.GET, Kind.PUT, Kind.DELETE))
            value = None if kind is Kind.DELETE else rng.choice((None, b"a", b"b"))
            if kind is Kind.PUT and value is None:
                value = b"c"
            history.append(operation(kind, value, began, ended))
        expected = is_judged_legal(history, Careful())
        assert is_judged_legal(history, Register()) is expected, history
        verdicts[expected] += 1
    assert min(verdicts.values()) > 300, verdicts


def is_judged_legal(history: list[Operation], model: Register) -> bool:
    try:
        judge(history, model)
    except NotLinearizable:
        return False
    return True


def simulated(clients: int, operations: int, seed: int) -> list[Operation]:
    """What clients of a right register saw: each operation takes effect within its interval."""
    rng = Random(seed)
    free = [0.0] * clients
    moments = []
    for number in range(operations):
        client = min(range(clients), key=free.__getitem__)
        began = free[client]
        ended = began + rng.expovariate(1.0)
        free[client] = ended + rng.expovariate(2.0)
        moments.append((rng.uniform(began, ended), number, began, ended))
    value = None
    history = []
    for _, number, began, ended in sorted(moments):
        if rng.random() < 0.4:
            value = b"%d" % number
            history.append(put(value, began, ended if rng.random() < 0.97 else inf))
        else:
            history.append(get(value, began, ended))
    return history


@pytest.mark.parametrize("clients", [1, 4, 8])
def test_long_histories_are_decided(clients: int) -> None:
    history = simulated(clients, 1_000, seed=clients)
    judge_register(history)

    read = max((one for one in history if one.kind is Kind.GET), key=lambda one: one.began)
    read.value = next(one.value for one in history if one.kind is Kind.PUT)  # the first of all
    with pytest.raises(NotLinearizable):
        judge_register(history)


# The labs' own models


def asked(
    kind: Asked,
    value: str = "",
    *,
    at: tuple[int, float],
    version: int = 0,
    saw: str | None = None,
    saw_version: int = 0,
    err: Err = Err.OK,
) -> Call:
    began, ended = at
    return Call(0, kind, "k", value, version, began, began, ended, ended, saw, saw_version, err)


GET, PUT, APPEND = Asked.GET, Asked.PUT, Asked.APPEND


@pytest.mark.parametrize(
    ("legal", "calls"),
    [
        pytest.param(True, [asked(GET, at=(1, 2), saw="")], id="empty at first"),
        pytest.param(
            True,
            [
                asked(APPEND, "a", at=(1, 6)),
                asked(APPEND, "b", at=(2, 5)),
                asked(GET, at=(7, 8), saw="ba"),
            ],
            id="appends side by side",
        ),
        pytest.param(
            False,
            [
                asked(APPEND, "a", at=(1, 2)),
                asked(APPEND, "b", at=(3, 4)),
                asked(GET, at=(5, 6), saw="ba"),
            ],
            id="appends against the clocks",
        ),
        pytest.param(
            False,
            [asked(APPEND, "a", at=(1, 2)), asked(GET, at=(3, 4), saw="aa")],
            id="an append done twice",
        ),
        pytest.param(
            True,
            [
                asked(APPEND, "a", at=(1, inf)),
                asked(GET, at=(3, 4), saw=""),
                asked(GET, at=(5, 6), saw="a"),
            ],
            id="an append without an answer is done late",
        ),
        pytest.param(
            False,
            [asked(PUT, "p", at=(1, 2)), asked(APPEND, "a", at=(3, 4), saw="")],
            id="an append that names another old value",
        ),
        pytest.param(
            True,
            [
                asked(APPEND, "a", at=(1, 9)),
                asked(PUT, "p", at=(2, 8)),
                asked(GET, at=(10, 11), saw="p"),
                asked(APPEND, "b", at=(12, 13), saw="p"),
            ],
            id="a put buries an append",
        ),
    ],
)
def test_strings(legal: bool, calls: list[Call]) -> None:
    judge_as(Edition.E2024, legal, calls)


@pytest.mark.parametrize(
    ("legal", "calls"),
    [
        pytest.param(
            True,
            [
                asked(GET, at=(1, 2), err=Err.NO_KEY, saw=""),
                asked(PUT, "a", at=(3, 4)),
                asked(GET, at=(5, 6), saw="a", saw_version=1),
            ],
            id="created",
        ),
        pytest.param(
            False,
            [asked(PUT, "a", at=(1, 2)), asked(GET, at=(3, 4), saw="a", saw_version=2)],
            id="done twice, by its version",
        ),
        pytest.param(
            False,
            [asked(PUT, "a", at=(1, 2)), asked(PUT, "b", at=(3, 4))],
            id="two puts that replaced one version",
        ),
        pytest.param(
            True,
            [asked(PUT, "a", at=(1, 2)), asked(PUT, "b", at=(3, 4), err=Err.VERSION)],
            id="refused for its version",
        ),
        pytest.param(
            False,
            [asked(PUT, "a", at=(1, 2), err=Err.VERSION)],
            id="refused although the version was right",
        ),
        pytest.param(
            True,
            [
                asked(PUT, "a", at=(1, 2), err=Err.MAYBE),
                asked(GET, at=(3, 4), saw="a", saw_version=1),
            ],
            id="maybe, and done",
        ),
        pytest.param(
            True,
            [
                asked(PUT, "b", at=(1, 2)),
                asked(PUT, "a", at=(3, 4), err=Err.MAYBE),
                asked(GET, at=(5, 6), saw="b", saw_version=1),
            ],
            id="maybe, and the version had moved on",
        ),
        pytest.param(
            False,
            [
                asked(PUT, "a", at=(1, 2), err=Err.MAYBE),
                asked(GET, at=(3, 4), saw="", err=Err.NO_KEY),
            ],
            id="maybe for having given up",
        ),
        pytest.param(
            True,
            [asked(PUT, "a", at=(1, 2), version=1, err=Err.NO_KEY)],
            id="no such key at that version",
        ),
        pytest.param(
            False,
            [asked(PUT, "a", at=(1, 2)), asked(PUT, "b", at=(3, 4), version=5, err=Err.NO_KEY)],
            id="no such key, which was there",
        ),
    ],
)
def test_versioned(legal: bool, calls: list[Call]) -> None:
    judge_as(Edition.E2025, legal, calls)


def judge_as(edition: Edition, legal: bool, calls: list[Call]) -> None:
    if legal:
        judge_calls(calls, edition)
    else:
        with pytest.raises(NotLinearizable, match="no legal order"):
            judge_calls(calls, edition)


def test_many_appends_side_by_side_are_decided() -> None:
    """Fifty appends and one read of them all: orders that lead elsewhere are not walked."""
    calls = [
        asked(APPEND, f"<{client}.{number}>", at=(number * 20 + client, number * 20 + client + 18))
        for number in range(10)
        for client in range(5)
    ]
    rng = Random(1)
    order = sorted(calls, key=lambda call: rng.uniform(call.began, call.ended))
    read = asked(GET, at=(1_000, 1_001), saw="".join(call.value for call in order))

    judge_calls([*calls, read], Edition.E2024)
