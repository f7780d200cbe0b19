"""Key to shard, as Redis Cluster does it."""

import pytest

from shardctrler.types import ShardId
from shardkv.routing import SlotRouting, hash_tag, slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        # Redis Cluster specification and CLUSTER KEYSLOT of redis-server 7.
        (b"123456789", 0x31C3),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"hello", 866),
        (b"{user1000}.following", 3443),
        (b"{user1000}.followers", 3443),
    ],
)
def test_slots_are_those_of_redis_cluster(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        (b"plain", b"plain"),
        (b"{user}.name", b"user"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{bar", b"foo{bar"),
        (b"foo}bar{", b"foo}bar{"),
        (b"", b""),
    ],
)
def test_the_first_tag_that_is_not_empty_is_hashed(key: bytes, tag: bytes) -> None:
    """Redis Cluster specification, "Hash tags"."""
    assert hash_tag(key) == tag


@pytest.mark.parametrize("nshards", [1, 2, 10, 12, 64, 1000, 16384])
def test_shards_own_contiguous_ranges_that_cover_all_slots_evenly(nshards: int) -> None:
    routing = SlotRouting(nshards)

    ranges = [routing.slots(ShardId(shard)) for shard in range(nshards)]

    assert [slot for slots in ranges for slot in slots] == list(range(16384))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    for i in range(2000):
        key = b"key-%d{tag-%d}" % (i, i % 7) if i % 3 else b"key-%d" % i
        assert slot_of(key) in routing.slots(routing(key))


@pytest.mark.parametrize("nshards", [-1, 0, 16385])
def test_impossible_numbers_of_shards_are_refused(nshards: int) -> None:
    with pytest.raises(ValueError, match=f"not {nshards}"):
        SlotRouting(nshards)


@pytest.mark.parametrize("shard", [-1, 64])
def test_a_shard_that_does_not_exist_has_no_slots(shard: int) -> None:
    with pytest.raises(ValueError, match="0 to 63"):
        SlotRouting(64).slots(ShardId(shard))
