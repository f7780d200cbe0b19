"""What clients' commands do to a shard that is served: rows, versions, sessions, refusals."""

import msgpack
import pytest

from raft.errors import StopReplica
from raft.types import GroupId
from shardctrler.codec import encode_config
from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import (
    Command,
    Configure,
    Drop,
    ExpireSessions,
    Freeze,
    Install,
    Mutation,
    Op,
    OpenSession,
)
from shardkv.machine import StoreMachine
from shardkv.rows import RowDamaged, record_key
from shardkv.types import ABSENT, DONE, Answer, Code, CopyId, SessionId
from tests.support.stores import (
    S0,
    S1,
    S3,
    A,
    B,
    Group,
    append,
    configures,
    delete,
    ok,
    put,
    row,
)

MIB = 2**20


@pytest.fixture
def group() -> Group:
    """Group A serves shards 0, 1 and 2; session 1 of shard 0 is open. Shard 3 is B's."""
    group = Group(A)
    assert group.apply(configures([A, A, A, B])[0]) == DONE
    assert group.open(S0) == 1
    return group


# Rows and versions


def test_a_put_is_read_with_its_version(group: Group) -> None:
    assert group.get(b"k") == ABSENT

    assert group.apply(put(1, 1, b"k", b"one")) == ok(1)
    assert group.apply(put(1, 2, b"k", b"two")) == ok(2)

    assert group.get(b"k") == row(b"two", 2)


def test_an_append_makes_the_key_or_adds_to_it(group: Group) -> None:
    assert group.apply(append(1, 1, b"k", b"x")) == ok(1)
    assert group.apply(append(1, 2, b"k", b"y")) == ok(2)

    assert group.get(b"k") == row(b"xy", 2)


def test_two_appends_of_one_key_in_one_entry_see_each_other(group: Group) -> None:
    """Safeguard H07."""
    answers = group.entry(
        append(1, 1, b"k", b"x"), append(1, 2, b"k", b"y"), append(1, 1, b"k", b"x")
    )

    assert answers == [ok(1), ok(2), ok(1)]
    assert group.get(b"k") == row(b"xy", 2)


def test_an_empty_value_is_a_value(group: Group) -> None:
    assert group.apply(put(1, 1, b"k", b"")) == ok(1)

    assert group.get(b"k") == row(b"", 1)


def test_a_deleted_key_is_absent_and_deleting_it_again_is_done(group: Group) -> None:
    group.apply(put(1, 1, b"k", b"v"))

    assert group.apply(delete(1, 2, b"k")) == ok(0)
    assert group.get(b"k") == ABSENT
    assert group.apply(delete(1, 3, b"k")) == ok(0)
    assert group.apply(delete(1, 4, b"never")) == ok(0)


@pytest.mark.parametrize("restart", [False, True], ids=["in one life", "over a restart"])
def test_a_key_made_anew_starts_above_all_deleted_versions(group: Group, restart: bool) -> None:
    """Safeguard H08: or `if_version` would take another value for the one that was read."""
    for seq in (1, 2, 3):
        group.apply(put(1, seq, b"k", b"v"))
    group.apply(delete(1, 4, b"k"))
    group.apply(put(1, 5, b"low", b"v"))  # also above: one figure a shard
    group.apply(delete(1, 6, b"low"))
    if restart:
        group.restart()

    assert group.apply(put(1, 7, b"k", b"again", if_version=3)) == Answer(
        Code.VERSION_MISMATCH, (0,)
    )
    assert group.apply(put(1, 8, b"k", b"again", if_version=0)) == ok(5)
    assert group.apply(append(1, 9, b"other", b"x")) == ok(5)


def test_deleting_a_lower_version_does_not_lower_the_figure(group: Group) -> None:
    group.entry(put(1, 1, b"a", b""), put(1, 2, b"a", b""), put(1, 3, b"b", b""))

    group.entry(delete(1, 4, b"a"), delete(1, 5, b"b"))

    assert group.apply(put(1, 6, b"b", b"")) == ok(3)


@pytest.mark.parametrize(
    ("if_version", "answer", "value"),
    [
        pytest.param(0, Answer(Code.VERSION_MISMATCH, (2,)), b"old", id="absent, but it is there"),
        pytest.param(1, Answer(Code.VERSION_MISMATCH, (2,)), b"old", id="an old version"),
        pytest.param(2, ok(3), b"new", id="the version it has"),
        pytest.param(3, Answer(Code.VERSION_MISMATCH, (2,)), b"old", id="a version to come"),
        pytest.param(2**63 - 1, Answer(Code.VERSION_MISMATCH, (2,)), b"old", id="the highest"),
    ],
)
def test_a_conditional_put(group: Group, if_version: int, answer: Answer, value: bytes) -> None:
    group.entry(put(1, 1, b"k", b"old"), put(1, 2, b"k", b"old"))

    assert group.apply(put(1, 3, b"k", b"new", if_version=if_version)) == answer

    assert group.get(b"k") == row(value, 3 if value == b"new" else 2)


@pytest.mark.parametrize("op", [Op.APPEND, Op.DELETE])
def test_the_condition_holds_for_appends_and_deletes_too(group: Group, op: Op) -> None:
    group.apply(put(1, 1, b"k", b"v"))
    command = put(1, 2, b"k", b"", if_version=7)._replace(op=op)

    assert group.apply(command) == Answer(Code.VERSION_MISMATCH, (1,))
    assert group.get(b"k") == row(b"v", 1)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_an_append_up_to_the_limit_is_done_and_past_it_refused(group: Group, more: int) -> None:
    """Bad input: refused where it is applied, alike on all replicas, and the old value is kept."""
    group.apply(put(1, 1, b"k", b"v" * (MIB - 10)))

    answer = group.apply(append(1, 2, b"k", b"x" * (10 + more)))

    kept = group.get(b"k")
    assert not isinstance(kept, Answer) and kept.value is not None
    if more <= 0:
        assert answer == ok(2)
        assert len(kept.value) == MIB + more
    else:
        assert answer == Answer(Code.VALUE_TOO_LONG, (MIB + 1,))
        assert kept == row(b"v" * (MIB - 10), 1)


def test_the_second_of_two_appends_in_one_entry_meets_the_limit(group: Group) -> None:
    group.apply(put(1, 1, b"k", b"v" * (MIB - 1)))

    answers = group.entry(append(1, 2, b"k", b"x"), append(1, 3, b"k", b"y"))

    assert answers == [ok(2), Answer(Code.VALUE_TOO_LONG, (MIB + 1,))]


@pytest.mark.parametrize(
    "key", [b"\x00", b"\xff" * 10, b"..", b"/", b"%2e", b"\n", b"c", b"r\x00\x00", b"s", b"h", b"t"]
)
def test_keys_are_kept_exactly_and_reach_no_row_of_ours(group: Group, key: bytes) -> None:
    """Bad input: keys that look like internal ones live among the users' keys."""
    before = dict(group.rows.map)

    group.apply(put(1, 1, key, b"v"))

    assert group.get(key) == row(b"v", 1)
    assert group.get(key + b"\x00") == ABSENT
    sessions = [k for k in before if group.rows.map[k] != before[k]]
    assert len(sessions) == 1 and len(group.rows.map) == len(before) + 1
    group.apply(delete(1, 2, key))
    group.restart()


def test_shards_do_not_share_keys(group: Group) -> None:
    group.open(S1)
    group.entry(put(1, 1, b"k", b"zero"), put(1, 1, b"k", b"one", shard=S1))

    assert group.get(b"k", S0) == row(b"zero", 1)
    assert group.get(b"k", S1) == row(b"one", 1)


# Sessions


def test_a_repetition_gets_the_first_answer_and_does_nothing(group: Group) -> None:
    """C3, C5: whatever came in between, also when the first answer was a refusal."""
    put_once, refused = put(1, 1, b"k", b"a"), put(1, 2, b"k", b"b", if_version=7)
    first = group.entry(put_once, refused)
    group.apply(put(1, 3, b"k", b"c"))
    group.restart()

    assert group.entry(put_once, refused) == first == [ok(1), Answer(Code.VERSION_MISMATCH, (1,))]
    assert group.get(b"k") == row(b"c", 2)


def test_a_repeated_append_past_the_limit_stays_refused_when_there_is_room(group: Group) -> None:
    """Safeguard H06: a refusal is an answer; were it forgotten, the late copy would be done."""
    group.apply(put(1, 1, b"k", b"v" * MIB))
    late = append(1, 2, b"k", b"x")
    refused = group.apply(late)
    group.apply(put(1, 3, b"k", b""))

    assert group.apply(late) == refused == Answer(Code.VALUE_TOO_LONG, (MIB + 1,))
    assert group.get(b"k") == row(b"", 2)


def test_what_the_client_acknowledged_is_stale_and_the_floor_never_falls(group: Group) -> None:
    group.entry(append(1, 1, b"k", b"a"), append(1, 2, b"k", b"b", floor=2))

    assert group.apply(append(1, 1, b"k", b"a", floor=1)) == Answer(Code.SEQUENCE_STALE)
    assert group.get(b"k") == row(b"ab", 2)


def test_a_repetition_may_raise_the_floor(group: Group) -> None:
    group.entry(append(1, 1, b"k", b"a"), append(1, 2, b"k", b"b"))

    assert group.apply(append(1, 2, b"k", b"b", floor=2)) == ok(2)

    assert group.apply(append(1, 1, b"k", b"a")) == Answer(Code.SEQUENCE_STALE)


def test_a_number_used_for_another_command_is_refused(group: Group) -> None:
    """Bad input: request id reused, not applied."""
    group.apply(put(1, 1, b"k", b"a"))

    assert group.apply(put(1, 1, b"k", b"b")) == Answer(Code.SEQUENCE_REUSED)
    assert group.get(b"k") == row(b"a", 1)


def test_a_sequence_past_the_window_is_refused_and_may_come_again(group: Group) -> None:
    beyond = put(1, 65, b"k", b"v")

    assert group.apply(beyond) == Answer(Code.SEQUENCE_OVER_WINDOW, (64,))
    assert group.apply(put(1, 64, b"k", b"v")) == ok(1)
    assert group.apply(beyond._replace(floor=2)) == ok(2)


def test_a_session_that_was_never_opened_is_expired(group: Group) -> None:
    assert group.apply(put(2, 1, b"k", b"v")) == Answer(Code.SESSION_EXPIRED)
    assert group.get(b"k") == ABSENT


def test_an_idle_session_expires_for_ever_and_a_busy_one_stays(group: Group) -> None:
    assert group.open() == 2
    group.apply(put(1, 1, b"k", b"v"))
    seen = tuple(
        (SessionId(session), last) for session, last in group.machine.survey(group.rows, S0)
    )
    group.apply(put(1, 2, b"k", b"v"))

    assert group.apply(ExpireSessions(S0, seen)) == ok(1)

    assert group.apply(put(2, 1, b"k", b"v")) == Answer(Code.SESSION_EXPIRED)
    assert group.apply(put(1, 3, b"k", b"v")) == ok(3)
    assert group.open() == 3  # never 2 again


def test_a_full_session_table_opens_none_and_touches_nothing() -> None:
    group = Group(A, sessions_max=2)
    group.apply(configures([A, A, A, A])[0])
    group.open(), group.open()
    before = dict(group.rows.map)

    assert group.apply(OpenSession(S0)) == Answer(Code.SESSIONS_FULL, (2,))

    assert group.rows.map == before
    assert group.open(S1) == 1


# Not here


def test_a_shard_of_another_group_is_refused_and_nothing_is_touched(group: Group) -> None:
    """S9 at apply: the door may have let it in before the configuration was known."""
    before = dict(group.rows.map)
    wrong = Answer(Code.WRONG_GROUP, (1,))

    assert (
        group.entry(
            put(1, 1, b"k", b"v", shard=S3),
            append(1, 1, b"k", b"v", shard=S3),
            delete(1, 1, b"k", shard=S3),
            OpenSession(S3),
            ExpireSessions(S3, ((SessionId(1), 0),)),
        )
        == [wrong] * 5
    )

    assert group.get(b"k", S3) == wrong
    assert list(group.machine.survey(group.rows, S3)) == []
    assert group.rows.map == before


def test_before_the_first_configuration_nothing_is_served() -> None:
    assert Group(A).get(b"k") == Answer(Code.WRONG_GROUP, (0,))


# What no leader of this version lets in


NO_SHARD = ShardId(4)


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 99]),
        put(1, 1, b"k", b"v", shard=NO_SHARD),
        OpenSession(NO_SHARD),
        Install(NO_SHARD, ConfigNumber(1), CopyId(1), 0),
        Freeze(NO_SHARD, ConfigNumber(1), CopyId(1)),
        Drop(NO_SHARD, ConfigNumber(1)),
        Mutation(Op.PUT, S0, SessionId(1), 1, 1, b""),
        put(1, 1, b"k", b"v" * (MIB + 1)),
        configures([A] * 5, [A] * 5)[1],
    ],
)
def test_what_cannot_be_meant_is_refused_by_all_alike(
    group: Group, command: Command | bytes
) -> None:
    before = dict(group.rows.map)

    assert group.apply(command) == Answer(Code.BAD_COMMAND)

    assert group.rows.map == before


@pytest.mark.parametrize(
    "command",
    [msgpack.packb([2, 1, 0]), Configure(b"\x01"), Configure(msgpack.packb([2, 1]))],
    ids=["a newer command", "no configuration", "a newer configuration"],
)
def test_what_cannot_be_judged_stops_the_replica(group: Group, command: Command | bytes) -> None:
    with pytest.raises(StopReplica):
        group.apply(command)


def test_damaged_rows_stop_the_replica(group: Group) -> None:
    group.apply(put(1, 1, b"k", b"v"))
    key = next(key for key in group.rows.map if key.endswith(b"dk"))
    good = group.rows.map[key]
    for bad in (b"", b"\x02" + good[1:], good[:8]):
        group.rows.put(key, bad)
        with pytest.raises(RowDamaged):
            group.get(b"k")
        with pytest.raises(RowDamaged):
            group.apply(put(1, 2, b"k", b"v"))


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 2, 1, 1, 1, 0, 0, b"", False]),
        msgpack.packb([3, 2, 1, 1, 1, 0, 0, b"", 0]),
        msgpack.packb([2, 6, 1, 1, 1, 0, 0, b"", 0]),
        msgpack.packb([2, 2, -1, 1, 1, 0, 0, b"", 0]),
        msgpack.packb([2, 2, 1, 1, 1, 0, 0, "", 0]),
        msgpack.packb([2, 2, 1, 1, 1, 0, 0, b"", False]),
    ],
)
def test_damaged_records_stop_the_load(group: Group, record: bytes) -> None:
    group.rows.put(record_key(S0), record)

    with pytest.raises(RowDamaged):
        StoreMachine(A, 4).reload(group.rows)


@pytest.mark.parametrize(
    ("gid", "nshards", "why"),
    [(0, 4, "controller"), (1, 0, "not 0"), (1, 16385, "not 16385")],
)
def test_impossible_machines_are_not_made(gid: int, nshards: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        StoreMachine(GroupId(gid), nshards)


def test_a_configuration_of_another_history_is_refused(group: Group) -> None:
    """It says that nobody ever had a shard that lies here: a second group would make it anew."""
    (_, stranger) = configures([B, B, B, B], [B, B, B, B])

    assert group.apply(stranger) == Answer(Code.BAD_COMMAND)
    assert group.machine.number == 1
    assert group.machine.config is not None
    assert encode_config(group.machine.config) == configures([A, A, A, B])[0].config
