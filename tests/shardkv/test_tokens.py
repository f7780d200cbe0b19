"""Session tokens: what a mark promises, and what is refused."""

import pytest

from shardctrler.types import ShardId
from shardkv.errors import InvalidArgument
from shardkv.limits import SLOTS
from shardkv.tokens import NOTHING, Mark, ReadSession, seal, unseal

S1, S2 = ShardId(1), ShardId(2)
CLUSTER = b"c" * 16


@pytest.mark.parametrize(
    ("epoch", "applied", "covered"),
    [
        pytest.param(4, 100, True, id="the very state"),
        pytest.param(4, 101, True, id="further in the same log"),
        pytest.param(4, 99, False, id="not so far in the same log"),
        pytest.param(5, 1, True, id="taken over later: at least the install, whatever the index"),
        pytest.param(3, 10**6, False, id="an earlier owner, however long its log"),
        pytest.param(0, 10**6, False, id="a group that never had the shard"),
    ],
)
def test_what_covers_a_mark(epoch: int, applied: int, covered: bool) -> None:
    assert Mark(4, 100).is_covered_by(epoch, applied) is covered
    assert NOTHING.is_covered_by(epoch, applied), "who has seen nothing may be shown anything"


def test_a_session_never_goes_back() -> None:
    session = ReadSession(CLUSTER)
    session.note(S1, 4, 100)
    session.note(S1, 4, 90)
    session.note(S1, 3, 10**6)
    assert session.mark(S1) == Mark(4, 100)

    session.note(S1, 5, 7)

    assert (session.mark(S1), session.mark(S2)) == (Mark(5, 7), NOTHING)


def test_a_token_is_the_session_again() -> None:
    session = ReadSession(CLUSTER)
    session.note(S1, 4, 100)
    session.note(S2, 5, 2**62)

    again = ReadSession(CLUSTER, str(session))

    assert (again.mark(S1), again.mark(S2)) == (Mark(4, 100), Mark(5, 2**62))
    assert str(again) == str(session)
    assert ReadSession(CLUSTER, str(ReadSession(CLUSTER))).mark(S1) == NOTHING


def test_a_token_of_every_shard_is_taken() -> None:
    session = ReadSession(CLUSTER)
    for shard in range(SLOTS):
        session.note(ShardId(shard), 2**62, 2**62)

    assert ReadSession(CLUSTER, str(session)).mark(ShardId(SLOTS - 1)) == Mark(2**62, 2**62)


def test_every_change_of_one_character_is_seen() -> None:
    session = ReadSession(CLUSTER)
    session.note(S1, 4, 100)
    token = str(session)

    for at in range(len(token)):
        other = "A" if token[at] != "A" else "B"
        with pytest.raises(InvalidArgument, match="cut or edited"):
            ReadSession(CLUSTER, token[:at] + other + token[at + 1 :])
        with pytest.raises(InvalidArgument, match="cut or edited"):
            ReadSession(CLUSTER, token[:at])


@pytest.mark.parametrize(
    "token",
    ["", "x", "=", "AAAA", "\u0661", "a b", "../..", "A" * (1024 * 1024 + 1), None, 7, b"AAAA"],
    ids=lambda token: repr(token)[:12],
)
def test_what_is_no_token_is_refused(token: object) -> None:
    with pytest.raises(InvalidArgument):
        unseal(token, "session token")


def test_a_token_of_another_cluster_is_refused() -> None:
    token = str(ReadSession(b"d" * 16))

    with pytest.raises(InvalidArgument, match="another cluster"):
        ReadSession(CLUSTER, token)


@pytest.mark.parametrize(
    "body",
    [b"\xc0", b"\x93\x02\xc4\x00\x90", b"\x93\x01\xc4\x00\x91\x93\x01\xff\x01", b"\xc1", b"\x90"],
    ids=["no array", "another format", "a number below 0", "no msgpack", "no fields"],
)
def test_a_sealed_text_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="another version"):
        ReadSession(b"", seal(body))
