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
===============================  ===================================================

*When* is the clock of the node that took the request, in milliseconds, and travels in the command:
so every replica forgets alike. A name is forgotten by requests that come a day later; a node whose
clock is a day ahead makes a shard forget early.

Why once (C3): the look-up, the write and the record are one command of one shard's log, and a
command whose shard is not served touches none of them. Two requests of one name are applied one
after the other, and the second finds what the first recorded, a final refusal too.
"""

from struct import Struct
from typing import Final, NamedTuple

from raft.ports import Rows

TOKEN_BYTES: Final = 16
KEEP_MS: Final = 24 * 3600 * 1000

_TOKENS: Final = b"i"
_AGES: Final = b"j"
_FORMAT: Final = 1
_FORMAT_BYTE: Final = bytes([_FORMAT])
_HEAD: Final = Struct(">BQ8s")
_WHEN: Final = Struct(">Q")
_SWEEPS_BELOW: Final = 16
"""One request in sixteen looks for what is old, by its token's first byte, and forgets at most
`_SWEPT_MAX`: more than came meanwhile."""
_SWEPT_MAX: Final = 64


class Once(NamedTuple):
    """What names a request: a digest of the client's name for it, and when it was taken."""

    token: bytes  # TOKEN_BYTES
    at_ms: int


class OnceRowDamaged(Exception):
    """A row does not read as this version writes it: the replica must stop."""


class Reused(NamedTuple):
    """The name belongs to another request."""


def recall(rows: Rows, prefix: bytes, once: Once, digest: bytes) -> bytes | Reused | None:
    """What the request of this name was answered; None: it is new, or older than a day.

    Args:
        prefix: Of the shard's copy.
        digest: Of the request, 8 bytes.
    """
    row = rows.get(prefix + _TOKENS + once.token)
    if row is None:
        return None
    when, known, answer = _decoded(row)
    if when + KEEP_MS <= once.at_ms:
        return None
    return answer if known == digest else Reused()


def remember(rows: Rows, prefix: bytes, once: Once, digest: bytes, answer: bytes) -> None:
    """Remember what the request of this name was answered."""
    key = prefix + _TOKENS + once.token
    before = rows.get(key)
    if before is not None:
        rows.delete(_age_key(prefix, _decoded(before)[0], once.token))
    rows.put(key, _HEAD.pack(_FORMAT, once.at_ms, digest) + answer)
    rows.put(_age_key(prefix, once.at_ms, once.token), _FORMAT_BYTE)


def forget_old(rows: Rows, prefix: bytes, once: Once) -> None:
    """Now and then: forget some of what is older than a day by this request's clock."""
    if once.token[0] >= _SWEEPS_BELOW or once.at_ms <= KEEP_MS:
        return
    lo, hi = prefix + _AGES, prefix + _AGES + _WHEN.pack(once.at_ms - KEEP_MS)
    old: list[bytes] = []
    for key, _ in rows.range(lo, hi):
        old.append(key)
        if len(old) == _SWEPT_MAX:
            break
    for key in old:
        rows.delete(key)
        rows.delete(prefix + _TOKENS + key[-TOKEN_BYTES:])


def _age_key(prefix: bytes, when: int, token: bytes) -> bytes:
    return prefix + _AGES + _WHEN.pack(when) + token


def _decoded(row: bytes) -> tuple[int, bytes, bytes]:
    if len(row) < _HEAD.size or row[0] != _FORMAT:
        raise OnceRowDamaged(f"row of {len(row)} bytes begins {row[:16].hex()}")
    _, when, digest = _HEAD.unpack_from(row)
    return when, digest, row[_HEAD.size :]
