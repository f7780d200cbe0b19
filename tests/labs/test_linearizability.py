"""The judges: what is legal passes, each kind of wrong is caught, and giving up is a failure."""

from itertools import permutations
from math import inf
from random import Random

import pytest

from labs.history import Kind, Operation
from labs.linearizability import NotLinearizable, Undecided, judge_list, judge_register

KEY = b"k"


def history(*lines: str) -> list[Operation]:
    """Operations from text: `client kind value began-ended`, an end of ? for unknown, ! for one
    that certainly did not happen; a value of - is absent."""
    operations = []
    for line in lines:
        client, kind, value, span = line.split()
        began, _, ended = span.partition("-")
        operations.append(
            Operation(
                int(client),
                Kind(kind),
                KEY,
                None if value == "-" else value.encode(),
                float(began),
                inf if ended == "?" else float(ended.rstrip("!")),
                happened=None if ended == "?" else not ended.endswith("!"),
            )
        )
    return operations


LEGAL = {
    "one client": ["0 get - 0-1", "0 put a 1-2", "0 get a 2-3", "0 delete - 3-4", "0 get - 4-5"],
    "a read beside a write may see either": ["0 put a 0-3", "1 get - 1-2", "2 get a 1-2"],
    "two writes at once, in either order": [
        "0 put a 0-2",
        "1 put b 0-2",
        "2 get b 3-4",
        "2 get b 5-6",
    ],
    "an unknown write seen later": ["0 put a 0-?", "1 get - 1-2", "1 get - 3-4", "1 get a 5-6"],
    "an unknown write never seen": ["0 put a 0-?", "1 get - 1-2", "1 get - 3-4"],
    "a write that failed is not there": ["0 put a 0-1!", "1 get - 2-3"],
    "an unknown write seen after another": [
        "0 put a 0-?",
        "1 put b 1-2",
        "1 get b 3-4",
        "1 get a 5-6",
    ],
    "an unknown delete": ["0 put a 0-1", "1 delete - 2-?", "0 get a 3-4", "0 get - 5-6"],
}

ILLEGAL = {
    "a lost write": ["0 put a 0-1", "1 get - 2-3"],
    "a stale read": ["0 put a 0-1", "0 put b 2-3", "1 get a 4-5"],
    "a value that nobody wrote": ["0 put a 0-1", "1 get z 2-3"],
    "back in time between two reads": ["0 put a 0-9", "1 get a 1-2", "2 get - 3-4"],
    "a write that failed is seen": ["0 put a 0-1!", "1 get a 2-3"],
    "an unknown write done twice": [
        "0 put a 0-?", "1 get a 1-2", "1 put b 3-4", "1 get b 5-6", "1 get a 7-8",
    ],
    "a read from the future": ["1 get a 0-1", "0 put a 2-3"],
    "an unknown write seen before it began": ["1 get a 0-1", "0 put a 2-?"],
    "writes at once, then two minds": [
        "0 put a 0-2", "1 put b 0-2", "2 get b 3-4", "3 get a 5-6",
    ],
}  # fmt: skip


@pytest.mark.parametrize("lines", LEGAL.values(), ids=LEGAL)
def test_a_legal_register_passes(lines: list[str]) -> None:
    for order in list(permutations(history(*lines)))[:24]:
        judge_register(order)


@pytest.mark.parametrize("lines", ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_register_is_caught(lines: list[str]) -> None:
    with pytest.raises(NotLinearizable):
        judge_register(history(*lines))


def test_a_read_before_its_write_is_told_without_a_search() -> None:
    with pytest.raises(NotLinearizable, match="read before it was written"):
        judge_register(history("0 get a 0-1", "0 put a 2-3"))


def test_a_write_of_what_was_there_at_the_start_may_be_an_unknown_one() -> None:
    """The value was read before that write was even asked for."""
    judge_register(
        history("0 get a 0-1", "0 put b 2-3", "1 put a 4-?", "0 get b 5-6", "0 get a 7-8"),
        start=b"a",
    )


def test_giving_up_is_not_passing() -> None:
    operations = history(
        *[f"{n} put {n} 0-100" for n in range(12)], "12 get 3 101-102", "12 get 4 103-104"
    )

    with pytest.raises(Undecided):
        judge_register(operations, steps_max=1000)


def test_two_unknown_deletes_of_one_moment_may_both_take_effect() -> None:
    judge_register(
        history(
            "0 put a 0-1",
            "1 delete - 2-?",
            "2 delete - 2-?",
            "0 get - 3-4",
            "0 put b 5-6",
            "0 get - 7-8",
        )
    )


def simulated(rng: Random, clients: int, count: int) -> list[Operation]:
    """What clients of a correct register see: each operation takes effect at a drawn instant."""
    operations: list[tuple[float, Operation]] = []
    for client in range(clients):
        now = 0.0
        for number in range(count):
            began = now + rng.random()
            instant = began + rng.random()
            now = instant + rng.random()
            kind = rng.choice([Kind.GET, Kind.PUT, Kind.PUT, Kind.DELETE])
            value = b"%d.%d" % (client, number) if kind is Kind.PUT else None
            unknown = kind is not Kind.GET and rng.random() < 0.05
            if unknown and rng.random() < 0.5:
                instant = inf  # never done
            operation = Operation(client, kind, KEY, value, began, inf if unknown else now)
            operation.happened = None if unknown else True
            operations.append((instant, operation))
    value = None
    for instant, operation in sorted(operations, key=lambda pair: pair[0]):
        if instant < inf:
            if operation.kind is Kind.GET:
                operation.value = value
            else:
                value = operation.value
    return [operation for _, operation in operations]


@pytest.mark.parametrize("seed", range(10))
def test_a_correct_register_passes_and_one_forged_read_is_caught(seed: int) -> None:
    rng = Random(seed)
    operations = simulated(rng, clients=6, count=60)

    judge_register(operations)

    last = max(operations, key=lambda operation: operation.began)
    old = next(
        operation.value for operation in operations if operation.value and operation.happened
    )
    overwritten = Operation(0, Kind.GET, KEY, old, last.began + 1e6, last.began + 2e6)
    overwritten.happened = True
    blind = Operation(0, Kind.PUT, KEY, b"new", last.began + 1e5, last.began + 2e5, happened=True)
    with pytest.raises(NotLinearizable):
        judge_register([*operations, blind, overwritten])


# Append lists

GOOD = ["0 append a, 0-1", "1 append b, 0-5", "0 get a, 2-3", "0 append c, 6-7", "1 append d, 6-?"]


@pytest.mark.parametrize("final", ["a,b,c,", "a,b,c,d,", "a,b,d,c,"])
def test_a_legal_list_passes(final: str) -> None:
    judge_list(history(*GOOD), final.encode(), b",")


def test_what_begins_in_the_moment_in_which_another_ends_is_beside_it() -> None:
    judge_list(history("0 append a, 0-5", "1 append b, 5-6"), b"b,a,", b",")


@pytest.mark.parametrize(
    ("lines", "final", "says"),
    [
        pytest.param(GOOD, "a,b,", "acknowledged, and lost", id="a lost append"),
        pytest.param(GOOD, "a,b,c,b,", "appended twice", id="a doubled append"),
        pytest.param(GOOD, "a,b,c,z,", "nobody appended it", id="an element from nowhere"),
        pytest.param(GOOD, "b,a,c,", "no beginning of the final list", id="a read of another list"),
        pytest.param(
            ["0 append a, 0-1", "1 append b, 2-3"], "b,a,", "against the clocks", id="order of time"
        ),
        pytest.param(
            ["0 append a, 0-1", "1 get - 2-3"], "a,", "against the clocks", id="a stale read"
        ),
        pytest.param(
            ["0 get a, 0-1", "1 append a, 2-3"],
            "a,",
            "against the clocks",
            id="read before written",
        ),
        pytest.param(
            ["0 append a, 0-1", "1 append b, 0-1", "2 get c,b, 2-3"],
            "a,b,",
            "no beginning of the final list",
            id="a read that ends as the list does and begins otherwise",
        ),
        pytest.param(
            ["0 append b, 0-2", "1 append a, 0-1", "2 append c, 3-4"],
            "b,c,a,",
            "against the clocks",
            id="before one that ended, though not before the last that did",
        ),
        pytest.param(
            ["0 append a, 0-1!"], "a,", "said not to be done", id="a definite error that lied"
        ),
    ],
)
def test_an_illegal_list_is_caught(lines: list[str], final: str, says: str) -> None:
    with pytest.raises(NotLinearizable, match=says):
        judge_list(history(*lines), final.encode(), b",")
