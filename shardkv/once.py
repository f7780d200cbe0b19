"""Exactly once by a name that the client gives its request, whoever carries it (pure).

A clerk's numbers make a write that *it* repeats once; a client behind HTTP that lost its answer may
come again through another node, and so another clerk. It names the request instead
(`Idempotency-Key`); the shard remembers, for a day, which request had that name and what it was
answered. The rows lie under the shard's prefix and so move with it, like its sessions:

===============================  ===================================================
key below the copy's prefix      value
===============================  ===================================================
`i` token                        format, u64 when, digest of the request, its answer
`j` u64 when, token              format: the same in the order of age
`k`                              format, u64 the shard's age, u64 how many names there are
===============================  ===================================================

*When* is the shard's own *age*, in milliseconds: how long leaders have served it, as they measured
it and said through the log (`PassTime`). So no node's wall clock has a say: every replica forgets
alike, a clock that is wrong forgets nothing early, and a shard whose group is down, or which lies
in a backup, does not age. What passes between a leader's last word and its successor does not
count, and the age lags by some minutes: a name may be known for longer than a day, never for less.

Why once (C3): the look-up, the write and the record are one command of one shard's log, and a
command whose shard is not served touches none of them. Two requests of one name are applied one
after the other, and the second finds what the first recorded, a final refusal too. A shard that has
its fill of names refuses new ones, before anything is done, rather than forget one too early.
"""

from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from raft.ports import Reader, Rows

TOKEN_BYTES: Final = 16
NAME_BYTES_MAX: Final = 255
"""Of a request's name as a client says it."""
PASS_SECONDS: Final = 600.0
"""How often a leader says how much time has passed, of shards that know names."""
PASS_MS_MAX: Final = 900 * 1000
"""At most so much passes by one command, however long its leader slept."""
KEEP_MS: Final = 24 * 3600 * 1000 + PASS_MS_MAX
"""A name may be given just before time passes: so a day, and what passes at a time."""
NAMES_MAX: Final = 100_000
"""Of one shard: 12 MB, of single writes. 64 shards take 74 named requests a second all day."""

NAMES: Final = b"k"
"""Where a shard's age and count of names stand, below its prefix."""
_TOKENS: Final = b"i"
_AGES: Final = b"j"
_FORMAT: Final = 1
_FORMAT_BYTE: Final = bytes([_FORMAT])
_HEAD: Final = Struct(">BQ8s")
_WHEN: Final = Struct(">Q")
_LIFE: Final = Struct(">BQQ")
_FORGOTTEN_BY_A_NAME: Final = 2
"""A new name makes room: what is old goes faster than names come."""
FORGOTTEN_BY_TIME: Final = 1024
"""And so many go when time passes; the leader says it again while there are more."""


class Once(NamedTuple):
    """What names a request: a digest of the client's name for it."""

    token: bytes  # TOKEN_BYTES

    @classmethod
    def named(cls, name: bytes) -> "Once":
        """By the name that the client gave its request, whatever bytes it is."""
        return cls(blake2b(name, digest_size=TOKEN_BYTES).digest())

    def for_key(self, key: bytes) -> "Once":
        """The name as a request to one key has it: with another key it is another request, and a
        shard that holds both must not take the one for the other."""
        return Once(blake2b(key, digest_size=TOKEN_BYTES, key=self.token).digest())


class OnceRowDamaged(Exception):
    """A row does not read as this version writes it: the replica must stop."""


class Reused(NamedTuple):
    """The name belongs to another request."""


class Names:
    """The names that one shard knows, for the length of one command.

    Args:
        prefix: Of the shard's copy.
        names_max: Past so many a new one is refused.
    """

    def __init__(self, rows: Rows, prefix: bytes, names_max: int = NAMES_MAX) -> None:
        self._rows = rows
        self._prefix = prefix
        self._age, self._count = life(rows, prefix)
        self._names_max = names_max

    def recall(self, once: Once, digest: bytes) -> bytes | Reused | None:
        """What the request of this name was answered; None: it is new, or older than a day.

        Args:
            digest: Of the request, 8 bytes.
        """
        row = self._rows.get(self._prefix + _TOKENS + once.token)
        if row is None:
            return None
        when, known, answer = _decoded(row)
        if when + KEEP_MS <= self._age:
            return None
        return answer if known == digest else Reused()

    def make_room(self) -> bool:
        """Forget a little of what is old; whether there is room for one name more."""
        self._forget(_FORGOTTEN_BY_A_NAME)
        self._save()
        return self._count < self._names_max

    def remember(self, once: Once, digest: bytes, answer: bytes) -> None:
        """Remember what the request of this name was answered."""
        key = self._prefix + _TOKENS + once.token
        before = self._rows.get(key)
        if before is not None:  # too old to count, and not forgotten yet
            self._rows.delete(self._age_key(_decoded(before)[0], once.token))
            self._count -= 1
        self._rows.put(key, _HEAD.pack(_FORMAT, self._age, digest) + answer)
        self._rows.put(self._age_key(self._age, once.token), _FORMAT_BYTE)
        self._count += 1
        self._save()

    def pass_time(self, ms: int) -> None:
        """The shard is so much older; forget some of what is old now."""
        self._age += ms
        self._forget(FORGOTTEN_BY_TIME)
        self._save()

    def _forget(self, most: int) -> None:
        old: list[bytes] = []
        for key in old_names(self._rows, self._prefix, self._age):
            old.append(key)
            if len(old) == most:
                break
        for key in old:
            self._rows.delete(key)
            self._rows.delete(self._prefix + _TOKENS + key[-TOKEN_BYTES:])
        self._count -= len(old)

    def _save(self) -> None:
        self._rows.put(self._prefix + NAMES, _LIFE.pack(_FORMAT, self._age, self._count))

    def _age_key(self, when: int, token: bytes) -> bytes:
        return self._prefix + _AGES + _WHEN.pack(when) + token


class Life(NamedTuple):
    """A shard's age in milliseconds, and how many names it knows."""

    age: int
    names: int


def life(rows: Reader, prefix: bytes) -> Life:
    """Of the shard whose copy has this prefix."""
    row = rows.get(prefix + NAMES)
    if row is None:
        return Life(0, 0)
    if len(row) != _LIFE.size or row[0] != _FORMAT:
        raise OnceRowDamaged(f"row of {len(row)} bytes begins {row[:16].hex()}")
    _, age, names = _LIFE.unpack(row)
    return Life(age, names)


def old_names(rows: Reader, prefix: bytes, age: int) -> Iterator[bytes]:
    """Keys of the names, by their age, that a shard so old may forget; the oldest first."""
    if age >= KEEP_MS:
        lo = prefix + _AGES
        for key, _ in rows.range(lo, lo + _WHEN.pack(age - KEEP_MS + 1)):
            yield key


def _decoded(row: bytes) -> tuple[int, bytes, bytes]:
    if len(row) < _HEAD.size or row[0] != _FORMAT:
        raise OnceRowDamaged(f"row of {len(row)} bytes begins {row[:16].hex()}")
    _, when, digest = _HEAD.unpack_from(row)
    return when, digest, row[_HEAD.size :]
