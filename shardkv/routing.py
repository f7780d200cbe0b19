"""Key to shard: hash slots as in Redis Cluster, in contiguous ranges (pure).

A key's slot is `crc16(tag or key) % 16384`; shard `i` of `n` owns the slots
`[ceil(i * 16384 / n), ceil((i + 1) * 16384 / n))`. Keys with one `{tag}` share a shard.
Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

The store takes any `Routing`; the labs plug in their own. All parts of one cluster must agree.
"""

from binascii import crc_hqx
from collections.abc import Callable
from functools import lru_cache

from shardctrler.types import ShardId
from shardkv.limits import SLOTS

Routing = Callable[[bytes], ShardId]
"""Which shard a key belongs to. Pure, and the same on every node for ever."""


def hash_tag(key: bytes) -> bytes:
    """What of `key` is hashed: the bytes between the first `{` and the next `}`, else all.

    An empty tag (`{}`) does not count, as in Redis: the whole key is hashed.
    """
    start = key.find(b"{")
    if start < 0:
        return key
    end = key.find(b"}", start + 1)
    return key if end <= start + 1 else key[start + 1 : end]


def slot_of(key: bytes) -> int:
    """The key's hash slot, in [0, 16384)."""
    return crc_hqx(hash_tag(key), 0) % SLOTS  # crc_hqx is CRC16/XMODEM, Redis's polynomial


class SlotRouting:
    """The store's own routing, for a number of shards fixed when the cluster is created."""

    def __init__(self, nshards: int) -> None:
        """Args:
        nshards: In [1, 16384]; ValueError otherwise.
        """
        if not 1 <= nshards <= SLOTS:
            raise ValueError(f"shards must be 1 to {SLOTS}, not {nshards}")
        self.nshards = nshards
        self._shards = _shards_of_slots(nshards)

    def __call__(self, key: bytes) -> ShardId:
        if b"{" in key:
            key = hash_tag(key)
        return self._shards[crc_hqx(key, 0) % SLOTS]

    def slots(self, shard: ShardId) -> range:
        """The slots that `shard` owns, `[lo, hi)`."""
        if not 0 <= shard < self.nshards:
            raise ValueError(f"shard must be 0 to {self.nshards - 1}, not {shard}")
        return range(-(-shard * SLOTS // self.nshards), -(-(shard + 1) * SLOTS // self.nshards))


@lru_cache(maxsize=8)  # a simulated cluster has dozens of routings, all alike
def _shards_of_slots(nshards: int) -> tuple[ShardId, ...]:
    return tuple(ShardId(slot * nshards // SLOTS) for slot in range(SLOTS))
