"""The judge is judged: by histories that are wrong in one way each, and by brute force."""

from itertools import permutations
from math import inf
from random import Random

import pytest

from tests.support.judge import (
    Operation,
    Undecided,
    Violation,
    _search,
    _step,
    judge,
    judge_register,
)

END = 1000.0


def append(client: int, element: str, call: float, ret: float, version: int = 0) -> Operation:
    outcome = "ok" if version else "unknown"
    value = f"{element};".encode()
    return Operation(client, "append", b"list", value, call, ret, outcome, None, version)


def read(
    text: str | None, call: float, ret: float, version: int, key: bytes = b"list"
) -> Operation:
    value = None if text is None else text.encode()
    return Operation(9, "get", key, None, call, ret, "ok", value, version)


def final(text: str) -> Operation:
    return read(text, END, END + 1, text.count(";"))


LISTS = {
    "good": (None, [append(1, "a", 1, 2, 1), append(2, "b", 1, 3, 2), final("a;b;")]),
    "an unknown append is there": (None, [append(1, "a", 1, inf), final("a;")]),
    "an unknown append is not there": (None, [append(1, "a", 1, inf), final("")]),
    "lost": ("acknowledged and lost", [append(1, "a", 1, 2, 1), final("")]),
    "doubled": ("2 times", [append(1, "a", 1, 2, 1), final("a;a;")]),
    "an unknown one doubled": ("2 times", [append(1, "a", 1, inf), final("a;a;")]),
    "invented": ("nobody appended", [append(1, "a", 1, 2, 1), final("a;x;")]),
    "torn": ("half an element", [append(1, "a", 1, 2, 1), read("a;b", END, END + 1, 1)]),
    "failed and there": (
        "definitely not done",
        [Operation(1, "append", b"list", b"a;", 1, 2, "failed"), final("a;")],
    ),
    "a client's order": (
        "client's order|written in the past",
        [append(1, "a", 1, 2, 2), append(1, "b", 3, 4, 1), final("b;a;")],
    ),
    "the clocks' order of two clients": (
        "written in the past",
        [append(1, "a", 1, 2, 2), append(2, "b", 3, 4, 1), final("b;a;")],
    ),
    "another version": ("another version", [append(1, "a", 1, 2, 2), final("a;")]),
    "a stale read": (
        "stale read",
        [append(1, "a", 1, 2, 1), append(1, "b", 3, 4, 2), read("a;", 5, 6, 1), final("a;b;")],
    ),
    "reads that go back": (
        "stale read",
        [append(1, "a", 1, 9, 1), read("a;", 2, 3, 1), read("", 4, 5, 0), final("a;")],
    ),
    "a read from another history": (
        "no beginning",
        [append(1, "a", 1, 3, 1), append(2, "b", 1, 3, 2), read("b;", 1, 3, 1), final("a;b;")],
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list(name: str) -> None:
    complaint, history = LISTS[name]
    if complaint is None:
        judge(history)
        return
    with pytest.raises(Violation, match=complaint):
        judge(history)


def put(value: str, call: float, ret: float, version: int = 0, outcome: str = "ok") -> Operation:
    return Operation(1, "put", b"r", value.encode(), call, ret, outcome, None, version)


def get(text: str | None, call: float, ret: float, version: int) -> Operation:
    return read(text, call, ret, version, b"r")


def cas(
    value: str, expected: int, call: float, ret: float, version: int, outcome: str
) -> Operation:
    return Operation(1, "cas", b"r", value.encode(), call, ret, outcome, None, version, expected)


REGISTERS = {
    "good": (None, [put("a", 1, 2, 1), put("b", 1, 3, 2), get("b", 4, 5, 2)]),
    "concurrent": (None, [put("a", 1, 5, 1), get(None, 2, 3, 0), get("a", 3, 4, 1)]),
    "an unknown put late": (
        None,
        [put("a", 1, inf, outcome="unknown"), get(None, 2, 3, 0), get("a", 4, 5, 1)],
    ),
    "a put that failed is read": (
        "definitely not done",
        [put("a", 1, 2, outcome="failed"), get("a", 3, 4, 1)],
    ),
    "invented": ("nobody wrote", [get("a", 3, 4, 1)]),
    "stale": ("stale read", [put("a", 1, 2, 1), put("b", 3, 4, 2), get("a", 5, 6, 1)]),
    "one version twice": ("two values", [put("a", 1, 2, 1), put("b", 1, 2, 1)]),
    "absent after a put": ("no legal order", [put("a", 1, 2, 1), get(None, 3, 4, 0)]),
    "read before it was written": ("written in the past", [get("a", 1, 2, 1), put("a", 3, 4, 1)]),
    "a lost conditional put": (
        "no legal order",
        [put("a", 1, 2, 1), cas("b", 1, 3, 4, 2, "ok"), cas("c", 1, 5, 6, 3, "ok")],
    ),
    "a refusal that lies": (
        "no legal order",
        [put("a", 1, 2, 1), put("b", 3, 4, 2), cas("c", 2, 5, 6, 1, "refused")],
    ),
    "an unknown conditional put": (
        None,
        [put("a", 1, 2, 1), cas("b", 1, 3, inf, 0, "unknown"), get("b", 5, 6, 2)],
    ),
    "delete": (
        None,
        [
            put("a", 1, 2, 1),
            Operation(1, "delete", b"r", None, 3, 4, "ok"),
            get(None, 5, 6, 0),
            put("b", 7, 8, 2),
        ],
    ),
    "a delete undone": (
        "no legal order",
        [
            put("a", 1, 2, 1),
            Operation(1, "delete", b"r", None, 3, 4, "ok"),
            get("a", 5, 6, 1),
        ],
    ),
}


@pytest.mark.parametrize("name", REGISTERS)
def test_a_register(name: str) -> None:
    complaint, history = REGISTERS[name]
    if complaint is None:
        judge(history)
        return
    with pytest.raises(Violation, match=complaint):
        judge(history)


def test_giving_up_is_no_verdict() -> None:
    history = [put(f"{n}", 0, 10, n + 1) for n in range(12)] + [get("x", 11, 12, 13)]
    history.append(put("x", 11, inf, outcome="unknown"))
    history.append(get(None, 13, 14, 0))
    with pytest.raises(Undecided):
        judge_register(history, steps_max=500)


def legal(history: list[Operation]) -> bool:
    """By trying every order of every choice of the unknown writes."""
    for order in permutations(range(len(history))):
        # Unknown ones that come after the last known one stand for "never".
        if any(
            history[order[j]].ret < history[order[i]].call
            for i in range(len(order))
            for j in range(i + 1, len(order))
        ):
            continue
        value = None
        left = [n for n in order if history[n].outcome == "ok"]
        for n in order:
            operation = history[n]
            if not left:
                break
            if operation.kind == "get" and operation.result != value:
                break
            if operation.kind != "get":
                value = operation.value
            if operation.outcome == "ok":
                left.remove(n)
        if not left:
            return True
    return False


def test_the_search_agrees_with_brute_force() -> None:
    """Without versions, which would give most of it away."""
    rng = Random(7)
    verdicts = {True: 0, False: 0}
    for _ in range(400):
        history = []
        for number in range(rng.randint(2, 6)):
            call = rng.uniform(0, 6)
            ret = call + rng.uniform(0, 3)
            draw = rng.random()
            if draw < 0.5:
                seen = rng.choice([None, *[f"{n}" for n in range(4)]])
                history.append(get(seen, call, ret, 100 + number if seen else 0))
            elif draw < 0.9:
                unknown = rng.random() < 0.3
                history.append(
                    put(
                        f"{number % 4}",
                        call,
                        inf if unknown else ret,
                        outcome="unknown" if unknown else "ok",
                    )
                )
            else:
                history.append(Operation(1, "delete", b"r", None, call, ret, "ok"))
        try:
            _search([step for o in history if (step := _step(o, {}))], 10**6)
            found = True
        except Violation:
            found = False
        assert found == legal(history), "\n".join(map(str, history))
        verdicts[found] += 1
    assert min(verdicts.values()) > 50
