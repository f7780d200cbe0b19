"""Frames and replies: what goes in comes out, and nothing else is let in."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.tracing import TRACES_MAX
from raft.types import GroupId, NodeId
from shardctrler.types import ConfigNumber, ShardId
from shardkv import copies
from shardkv.commands import (
    Batch,
    BatchWrite,
    Chunk,
    Configure,
    Install,
    Mutation,
    Op,
    OpenSession,
    encode,
)
from shardkv.limits import FRAME_BYTES_MAX, FRAME_OPERATIONS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from shardkv.protocol import (
    FORMAT,
    BadFrame,
    Frame,
    Get,
    Leader,
    Proposal,
    Reply,
    Status,
    Trouble,
    decode_frame,
    decode_reply,
    encode_frame,
    encode_reply,
)
from shardkv.types import Answer, Code, CopyId, Row, SessionId, Version

PUT = Mutation(Op.PUT, ShardId(3), SessionId(1), 2, 1, b"key", b"value", Version(0))

TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def frame(*operations: object) -> bytes:
    packed = msgpack.packb([FORMAT, 1, 2, list(operations)])
    assert isinstance(packed, bytes)
    return packed


def test_a_frame_is_read_as_it_was_written() -> None:
    commands = [
        PUT,
        OpenSession(ShardId(0)),
        Mutation(Op.DELETE, ShardId(1), SessionId(9), 1, 1, b"k"),
        Batch(ShardId(1), SessionId(9), 1, 1, (BatchWrite(Op.PUT, b"k", b"v"),)),
    ]
    operations = [Get(b"\x00\xff"), *map(encode, commands)]

    read = decode_frame(encode_frame(GroupId(7), 12, operations))

    proposals = [Proposal(encode(command), command) for command in commands]
    assert read == Frame(GroupId(7), 12, (Get(b"\x00\xff"), *proposals))


@pytest.mark.parametrize("marks", [False, True])
def test_a_frame_with_traces_is_read_as_it_was_written(marks: bool) -> None:
    traces = ((0, TRACEPARENT), (1, TRACEPARENT))
    operations = [Get(b"a"), encode(PUT)]

    read = decode_frame(encode_frame(GroupId(7), 12, operations, marks=marks, traces=traces))

    assert read == Frame(GroupId(7), 12, (Get(b"a"), Proposal(encode(PUT), PUT)), marks, traces)
    plain = encode_frame(GroupId(7), 12, operations, marks=marks)
    assert decode_frame(plain) == read._replace(traces=())


@pytest.mark.parametrize(
    ("traces", "says"),
    [
        pytest.param("text", "at most 16 traces", id="no list"),
        pytest.param([[0, TRACEPARENT]] * (TRACES_MAX + 1), "at most 16 traces", id="17"),
        pytest.param([[0]], "a position and a traceparent", id="no traceparent"),
        pytest.param([[0, b"bytes"]], "a position and a traceparent", id="bytes"),
        pytest.param([[1, TRACEPARENT]], "position must be", id="past the operations"),
        pytest.param([[-1, TRACEPARENT]], "position must be", id="before them"),
        pytest.param([[True, TRACEPARENT]], "position must be", id="a flag"),
        pytest.param([[0, "x" * 65]], "at most 64 characters", id="a long one"),
    ],
)
def test_traces_of_another_shape_are_refused(traces: object, says: str) -> None:
    with pytest.raises(BadFrame, match=says):
        decode_frame(msgpack.packb([1, 1, 0, [[b"k"]], False, traces]))


def test_a_reply_is_read_as_it_was_written() -> None:
    reply = Reply(
        Status.ANSWERED,
        12,
        Leader(NodeId("n1"), "127.0.0.1:7400"),
        (
            Row(b"value", Version(3)),
            Answer(Code.OK, tuple(range(128))),
            Row(None, Version(0)),
            Row(b"", Version(1)),
            Answer(Code.OK, (4,)),
            Answer(Code.NOT_READY, (12, 2)),
            *Trouble,
        ),
    )

    assert decode_reply(encode_reply(reply)) == reply


@pytest.mark.parametrize("status", [*Status])
def test_a_reply_without_results_is_read(status: Status) -> None:
    assert decode_reply(encode_reply(Reply(status))) == Reply(status, 0, None, ())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "not msgpack", id="nothing"),
        pytest.param(b"\xc1", "not msgpack", id="a byte that msgpack never uses"),
        pytest.param(msgpack.packb({}), "not an array", id="a map"),
        pytest.param(
            msgpack.packb([2, 1, 0, []]), "format 2; this version speaks 1", id="format 2"
        ),
        pytest.param(msgpack.packb([1, 1, 0]), "2 fields where 3", id="a field too few"),
        pytest.param(msgpack.packb([1, -1, 0, [[b"k"]]]), "gid must be", id="a gid below 0"),
        pytest.param(msgpack.packb([1, True, 0, [[b"k"]]]), "gid must be", id="a gid that is true"),
        pytest.param(
            msgpack.packb([1, 1, 2**63, [[b"k"]]]), "config number", id="a number too big"
        ),
        pytest.param(frame(), "holds 1 to 1024", id="no operation"),
        pytest.param(
            frame(*[[b"k"]] * (FRAME_OPERATIONS_MAX + 1)), "holds 1 to 1024", id="1,025 operations"
        ),
        pytest.param(frame([b"k"], b"v" * FRAME_BYTES_MAX), "at most 2097152", id="too many bytes"),
        pytest.param(frame([b""]), "key must be 1 to 4096 bytes, not 0", id="an empty key"),
        pytest.param(
            frame([b"k" * (KEY_BYTES_MAX + 1)]),
            "key must be 1 to 4096 bytes, not 4097",
            id="a long key",
        ),
        pytest.param(
            frame(encode(PUT._replace(value=b"v" * (VALUE_BYTES_MAX + 1)))),
            "value must be at most 1048576 bytes",
            id="a long value",
        ),
        pytest.param(frame(["text"]), "an operation is", id="a key that is text"),
        pytest.param(frame(b"\x93\x02\x01\x01"), "format 2", id="a command of format 2"),
        pytest.param(
            frame(encode(Configure(b""))), "Configure is no command of a client", id="a Configure"
        ),
        pytest.param(
            frame(encode(Install(ShardId(1), ConfigNumber(1), CopyId(1), 0))),
            "Install is no command of a client",
            id="an Install",
        ),
    ],
)
def test_a_frame_that_breaks_a_rule_is_refused_by_its_name(body: bytes, says: str) -> None:
    with pytest.raises(BadFrame, match=says):
        decode_frame(body)


def test_the_largest_operation_fits_into_a_frame() -> None:
    largest = PUT._replace(key=b"k" * KEY_BYTES_MAX, value=b"v" * VALUE_BYTES_MAX)

    read = decode_frame(encode_frame(GroupId(1), 1, [encode(largest)]))

    assert read.operations == (Proposal(encode(largest), largest),)

    rows = [BatchWrite(Op.PUT, b"k%d" % at, b"v" * 8188, Version(2**63 - 1)) for at in range(128)]
    batch = Batch(ShardId(3), SessionId(1), 2, 1, tuple(rows))
    read = decode_frame(encode_frame(GroupId(1), 1, [encode(batch)]))
    assert read.operations == (Proposal(encode(batch), batch),)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for decode in (
        decode_frame,
        decode_reply,
        copies.decode_pull,
        copies.decode_pull_reply,
        copies.decode_settled,
        copies.decode_settled_reply,
    ):
        try:
            decode(body)
        except BadFrame as error:
            assert str(error)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=8)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(plain, max_size=6))
def test_any_fields_are_read_or_refused(fields: list[object]) -> None:
    test_any_bytes_are_read_or_refused.hypothesis.inner_test(msgpack.packb([FORMAT, *fields]))  # type: ignore[attr-defined]


def test_questions_about_copies_are_read_as_they_were_written() -> None:
    place = (GroupId(1), ShardId(2), ConfigNumber(3))
    pull = copies.PullRequest(*place, CopyId(4), b"cursor", 1000, True)
    settled = copies.SettledRequest(GroupId(1), ShardId(2), ConfigNumber(3))
    reply = copies.SettledReply(True, 4, "host:1")
    chunk = Chunk(ShardId(2), ConfigNumber(3), CopyId(4), b"", b"dk", ((b"da", b"v"),))
    given = copies.PullReply(chunk, encode(chunk), Code.OK, 5, 6, 7, "host:1")
    refused = copies.PullReply(code=Code.OUT_OF_STEP)

    assert copies.decode_pull(copies.encode_pull(pull)) == pull
    assert copies.decode_settled(copies.encode_settled(settled)) == settled
    assert copies.decode_settled_reply(copies.encode_settled_reply(reply)) == reply
    for one in (given, refused):
        assert copies.decode_pull_reply(copies.encode_pull_reply(one)) == one


def test_a_pull_is_answered_by_a_chunk_and_nothing_else() -> None:
    body = msgpack.packb([FORMAT, encode(OpenSession(ShardId(1))), 0, None, 0, 0, ""])

    with pytest.raises(BadFrame, match="OpenSession is no chunk"):
        copies.decode_pull_reply(body)
