"""A pair of keys that batches write together is one object: its judge sees what no key shows."""

from math import inf
from random import Random

import pytest

from labs.history import History, Kind, Operation
from labs.linearizability import NotLinearizable, judge_register
from labs.pairs import judge_pair

L, R = b"left", b"right"


class Story:
    """Operations by hand."""

    def __init__(self) -> None:
        self.history = History()

    def batch(
        self,
        began: float,
        ended: float,
        value: bytes | None,
        *,
        happened: bool | None = True,
        first: bytes | None = None,
    ) -> None:
        kind = Kind.DELETE if value is None else Kind.PUT
        writes = [(Kind.PUT, R, first)] if first is not None else []
        writes += [(kind, L, value), (kind, R, value)]
        for one in self.history.begin_batch(0, writes, began):
            one.happened, one.ended = happened, ended

    def get(self, key: bytes, began: float, ended: float, value: bytes | None) -> None:
        one = self.history.begin(1, Kind.GET, key, value, began)
        one.happened, one.ended = True, ended

    def judge(self) -> None:
        judge_pair(L, R, self.history.operations)


def test_both_halves_come_and_go_together() -> None:
    story = Story()
    story.get(L, 0, 1, None)
    story.batch(2, 3, b"1")
    story.get(L, 4, 5, b"1")
    story.get(R, 4, 5, b"1")
    story.batch(6, 9, b"2")
    story.get(R, 7, 8, b"2")
    story.get(L, 7, 8, b"1")  # at the same time: before the batch
    story.batch(10, 11, None)
    story.get(R, 12, 13, None)

    story.judge()


def test_half_a_batch_is_seen_although_each_key_is_right() -> None:
    """New on the left, and then old on the right, while the batch is on its way."""
    story = Story()
    story.batch(0, 1, b"1")
    story.batch(2, 9, b"2")
    story.get(L, 3, 4, b"2")
    story.get(R, 5, 6, b"1")

    for key in (L, R):
        judge_register(story.history.of(key))
    with pytest.raises(NotLinearizable, match="get half 1"):
        story.judge()


def test_what_a_batch_wrote_first_and_then_overwrote_is_never_seen() -> None:
    story = Story()
    story.batch(0, 9, b"1", first=b"1?")
    story.get(R, 3, 4, b"1?")

    with pytest.raises(NotLinearizable):
        story.judge()


@pytest.mark.parametrize("halves", [(b"2", b"2"), (b"1", b"1")])
def test_a_batch_of_unknown_outcome_is_done_whole_or_not(halves: tuple[bytes, bytes]) -> None:
    story = Story()
    story.batch(0, 1, b"1")
    story.batch(2, inf, b"2", happened=None)
    story.get(L, 10, 11, halves[0])
    story.get(R, 12, 13, halves[1])
    story.judge()

    story.get(R, 14, 15, b"2" if halves[1] == b"1" else b"1")
    if halves[1] == b"1":
        story.judge()  # it may be done late
    else:
        with pytest.raises(NotLinearizable):
            story.judge()


def test_what_was_told_not_to_be_done_is_left_out() -> None:
    story = Story()
    story.batch(0, 1, b"1")
    story.batch(2, 3, b"2", happened=False)
    story.get(L, 4, 5, b"1")
    story.judge()

    story.get(R, 6, 7, b"2")
    with pytest.raises(NotLinearizable):
        story.judge()


def test_a_half_that_is_written_alone_is_a_mistake_of_the_workload() -> None:
    lonely = Operation(0, Kind.PUT, L, b"1", 0.0, 1.0, happened=True)

    with pytest.raises(AssertionError, match="written alone"):
        judge_pair(L, R, [lonely])


@pytest.mark.parametrize("seed", range(30))
def test_random_histories_of_one_pair_are_judged_as_they_were_made(seed: int) -> None:
    """Each operation takes effect at an instant drawn within it; then one read is made a lie."""
    rng = Random(f"pairs {seed}")
    instants = sorted(rng.uniform(0, 30) for _ in range(40))
    story, value = Story(), b""
    state: bytes | None = None
    reads: list[Operation] = []
    for number, at in enumerate(instants):
        began, ended = at - rng.uniform(0, 2), at + rng.uniform(0, 2)
        if rng.random() < 0.4:
            value = b"%d" % number
            state = None if rng.random() < 0.2 else value
            unknown = rng.random() < 0.2
            story.batch(began, inf if unknown else ended, state, happened=None if unknown else True)
        else:
            story.get(rng.choice((L, R)), began, ended, state)
            reads.append(story.history.operations[-1])
    story.judge()

    rng.choice(reads).value = b"never written"
    with pytest.raises(NotLinearizable):
        story.judge()
