"""Errors carry facts and policy; each answer stands for one."""

import pytest

from raft.types import GroupId
from shardctrler.types import ShardId
from shardkv import errors
from shardkv.errors import ShardKVError, error_of
from shardkv.types import Answer, Code

SHARD, GROUP = ShardId(5), GroupId(2)


@pytest.mark.parametrize(
    ("answer", "kind", "text", "retriable", "config_is_stale"),
    [
        (Answer(Code.VERSION_MISMATCH, (3,)), errors.VersionMismatch, "version 3", False, False),
        (Answer(Code.VERSION_MISMATCH, (0,)), errors.VersionMismatch, "absent", False, False),
        (Answer(Code.VALUE_TOO_LONG, (1048577,)), errors.ValueTooLong, "1048577", False, False),
        (Answer(Code.SESSION_EXPIRED), errors.SessionExpired, "expired", False, False),
        (Answer(Code.SEQUENCE_STALE), errors.SequenceStale, "acknowledged", False, False),
        (Answer(Code.SEQUENCE_OVER_WINDOW, (64,)), errors.WindowFull, "at most 64", True, False),
        (Answer(Code.SEQUENCE_REUSED), errors.SequenceReused, "request id reused", False, False),
        (Answer(Code.SESSIONS_FULL, (9,)), errors.Overloaded, "9 sessions", True, False),
        (Answer(Code.WRONG_GROUP, (7,)), errors.WrongGroup, "shard 5 in config 7", True, True),
        (Answer(Code.NOT_READY, (7, 1)), errors.ShardNotReady, "from group 1 to", True, False),
        (Answer(Code.OLD, (7,)), errors.StepRefused, r"OLD \(7,\)", False, False),
        (Answer(Code.NOT_NEXT, (7,)), errors.StepRefused, "NOT_NEXT", False, False),
        (Answer(Code.UNSETTLED, (7,)), errors.StepRefused, "UNSETTLED", False, False),
        (Answer(Code.OUT_OF_STEP), errors.StepRefused, "OUT_OF_STEP", False, False),
        (Answer(Code.BAD_COMMAND), errors.BadCommand, "group 2", False, False),
    ],
)
def test_each_refusal_is_an_error_with_its_facts(
    answer: Answer, kind: type[ShardKVError], text: str, retriable: bool, config_is_stale: bool
) -> None:
    error = error_of(answer, shard=SHARD, group=GROUP)

    assert type(error) is kind
    assert (error.retriable, error.config_is_stale) == (retriable, config_is_stale)
    with pytest.raises(kind, match=text):
        raise error


def test_ok_is_no_error() -> None:
    assert error_of(Answer(Code.OK, (1,)), shard=SHARD, group=GROUP) is None


def test_no_refusal_is_without_its_error() -> None:
    facts = (1, 2, 3)

    mapped = [error_of(Answer(code, facts), shard=SHARD, group=GROUP) for code in Code]

    assert mapped.count(None) == 1


def test_an_unknown_outcome_is_told_apart_from_everything_else() -> None:
    """Repeating it under a new number might do it twice: it is never retriable."""
    assert not errors.OutcomeUnknown.retriable
    assert errors.OutcomeUnknown.__bases__ == (ShardKVError,)
    assert errors.Unavailable.retriable


def test_codes_keep_their_numbers() -> None:
    """They lie in sessions on disk and travel to clients: numbers are only ever added."""
    assert {code.name: code.value for code in Code} == {
        "OK": 0,
        "VERSION_MISMATCH": 1,
        "VALUE_TOO_LONG": 2,
        "NAME_REUSED": 3,
        "SESSION_EXPIRED": 10,
        "SEQUENCE_STALE": 11,
        "SEQUENCE_OVER_WINDOW": 12,
        "SEQUENCE_REUSED": 13,
        "SESSIONS_FULL": 14,
        "NAMES_FULL": 15,
        "WRONG_GROUP": 20,
        "NOT_READY": 21,
        "OLD": 30,
        "NOT_NEXT": 31,
        "UNSETTLED": 32,
        "OUT_OF_STEP": 33,
        "BAD_COMMAND": 40,
    }
