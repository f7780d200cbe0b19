"""What operators' tools and nodes say to each other is read as it was written, or refused."""

from contextlib import suppress
from random import Random

import msgpack
import pytest

from shardkv import admin
from shardkv.admin import BadAdmin, MemberStatus, NodeStatus, ReplicaStatus, ShardStatus

STATUS = NodeStatus(
    node="n1", cluster=b"c" * 16, version="0.1.0", pid=7, boot=2**60, uptime_ms=5, client="h:1",
    peer="h:2", http="h:3", nshards=64, state="running",
    config_number=2, known=(("n1", "h:1"), ("n2", "h:4")),
    replicas=(
        ReplicaStatus(
            gid=1, uuid=b"u" * 16, replica=3, role="leader", stopped="", term=4, leader="n1",
            commit=9, applied=8, last=9, log_bytes=100, voters=(MemberStatus(3, "n1", "h:2"),),
            outgoing=(), learners=(), config_number=2,
            shards=(ShardStatus(0, "serving", 0, ""), ShardStatus(5, "arriving", 2, "copying")),
        ),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        STATUS,
        admin.Nothing(),
        admin.Done(),
        admin.CreateGroup(0, 5),
        admin.GroupCreated(b"u" * 16),
        admin.CreateReplica(1, b"u" * 16, 2, 5),
        admin.ChangeMembers(1, b"u" * 16, (("n2", "h:2"), ("n3", "h:3")), (4,)),
        admin.MembersChanging((2, 3)),
        admin.Transfer(1, b"u" * 16, 2),
        admin.AskStanding(1, b"u" * 16, 2),
        admin.Standing("removed"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_was_written_is_read(message: tuple[object, ...]) -> None:
    assert admin.decode(type(message), admin.encode(message)) == message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([-1, 5], "CreateGroup.gid must be a whole number"),
        ([2**63, 5], "CreateGroup.gid must be a whole number"),
        (["1", 5], "CreateGroup.gid must be a whole number"),
        ([True, 5], "CreateGroup.gid must be a whole number"),
        ([1.0, 5], "CreateGroup.gid must be a whole number"),
        ([1], "CreateGroup must have 2 fields"),
        ({"gid": 1}, "CreateGroup must be an array"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields: object, said: str) -> None:
    with pytest.raises(BadAdmin, match=said):
        admin.decode(admin.CreateGroup, msgpack.packb([1, fields]))


def test_another_format_is_refused() -> None:
    with pytest.raises(BadAdmin, match="not of format 1"):
        admin.decode(admin.Nothing, msgpack.packb([2, []]))


def test_no_damage_gets_past_as_anything_but_an_error() -> None:
    """Any byte changed or cut: `BadAdmin`, or another well-formed status."""
    good, rng = admin.encode(STATUS), Random(7)
    for _ in range(2000):
        damaged = bytearray(good[: rng.randrange(1, len(good) + 1)])
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(BadAdmin):
            assert isinstance(admin.decode(NodeStatus, bytes(damaged)), NodeStatus)
