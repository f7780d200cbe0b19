"""What is written where: the keys and record formats of the log database, and its hash chain.

    key                      record                             one
    i                        who this node is                   a node
    b                        how often it was opened            a node
    n                        the write number                   a node
    t <gid>                  tombstone: highest replica id      a group that was dropped here
    g <gid>                  grave: the end of its last log     a dropped log not swept yet
    r <gid>                  uuid, replica id, incarnation      a replica
    h <gid>                  term and vote                      a replica
    s <gid>                  where its log starts, the members  a replica
    l <gid>                  where its log ends                 a replica
    e <gid> <index>          an entry                           an entry

Numbers in keys are big-endian, so that key order is index order. Every record but an entry is
`crc32(key + body) body`, its body a format byte and a msgpack array: a record that is damaged, or
lies under another's key, is found when it is read. An entry carries a *chain value* instead, which
covers its index, term, kind, bytes and the chain value before it; the start record holds the first
value and the end record the last. So no entry can be altered, lost, exchanged or left over from
another log without breaking the chain (invariants R3 and R18).

Everything read is checked by type and range; what does not fit raises `DataUnusable`, which says
which record, what is wrong with it, and what to do.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack

from raft.codec import decode_membership, encode_membership
from raft.errors import BadMessage, DataUnusable
from raft.types import (
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    GroupUuid,
    HardState,
    Index,
    Membership,
    NodeId,
    ReplicaId,
    SnapshotMeta,
    Term,
)

FORMAT: Final = 1
"""The highest format of a record that this version reads, and the one it writes."""
CHAIN_BYTES: Final = 16
CLUSTER_BYTES: Final = 16
UUID_BYTES: Final = 16
NUMBER_MAX: Final = 2**63 - 1
KINDS: Final = tuple(EntryKind)

IDENTITY_KEY: Final = b"i"
BOOT_KEY: Final = b"b"
WRITE_NUMBER_KEY: Final = b"n"
REPLICA, TOMBSTONE, HARD_STATE, START, TAIL, ENTRY = b"r", b"t", b"h", b"s", b"l", b"e"
GRAVE: Final = b"g"

START_AGAIN: Final = (
    "This node may no longer vote for what it promised: remove its replicas from their groups and "
    "add the node again, empty, under a new id."
)
USE_NEWER: Final = "Start the newer version that wrote it."

_U64: Final = Struct(">Q")
_ENTRY_KEY: Final = Struct(">cQQ")
_ENTRY_HEAD: Final = Struct(f">BBQ{CHAIN_BYTES}s")  # format, kind, term, chain value
_ENTRY_HEAD_BYTES: Final = _ENTRY_HEAD.size
_TAIL: Final = Struct(f">BBQ{CHAIN_BYTES}sQ")  # format, 0, term, chain value, index
_LINK: Final = Struct(f">{CHAIN_BYTES}sQQB")  # previous chain value, index, term, kind
_START_LINK: Final = Struct(f">{UUID_BYTES}sQQ")
_HARD_STATE: Final = Struct(">BQQ")
_FORMAT_BYTE: Final = bytes([FORMAT])


class NodeIdentity(NamedTuple):
    """Whose directory this is."""

    cluster: bytes  # 16 random bytes, drawn at the cluster's birth
    node: NodeId


class ReplicaRecord(NamedTuple):
    """A replica that lives on this node. The incarnation is random, made with the replica."""

    gid: GroupId
    uuid: GroupUuid
    replica: ReplicaId
    incarnation: int


class Start(NamedTuple):
    """Where a log begins: the last entry before it, the members there, and the chain so far."""

    meta: SnapshotMeta
    chain: bytes


class Tail(NamedTuple):
    """Where a log ends."""

    last: EntryId
    chain: bytes


# Keys


def group_key(kind: bytes, gid: GroupId) -> bytes:
    return kind + _U64.pack(gid)


def group_of(key: bytes) -> GroupId:
    """The group in a key that `group_key` made."""
    return GroupId(_U64.unpack_from(key, 1)[0])


def entry_key(gid: GroupId, index: int) -> bytes:
    return _ENTRY_KEY.pack(ENTRY, gid, index)


def index_of(key: bytes) -> Index:
    """The index in an entry's key."""
    return Index(_U64.unpack_from(key, 9)[0])


# Sealed records


def seal(key: bytes, body: bytes) -> bytes:
    """Put a checksum of key and body before the body (which begins with its format byte)."""
    return crc32(body, crc32(key)).to_bytes(4, "big") + body


def unseal(what: str, key: bytes, raw: bytes | None) -> bytes:
    """The body of a sealed record, its format known.

    Raises:
        DataUnusable: it is missing, damaged, another key's, or of a newer format.
    """
    if raw is None:
        raise damaged(what, "the record is missing")
    body = raw[4:]
    if len(raw) < 5 or crc32(body, crc32(key)) != int.from_bytes(raw[:4], "big"):
        raise damaged(what, "its checksum does not match")
    if body[0] != FORMAT:
        raise DataUnusable(
            f"{what}: it has format {body[0]}, this version reads format {FORMAT}. {USE_NEWER}"
        )
    return body


def damaged(what: str, why: str) -> DataUnusable:
    return DataUnusable(f"{what}: {why}. {START_AGAIN}")


def seal_fields(key: bytes, fields: Sequence[object]) -> bytes:
    return seal(key, _FORMAT_BYTE + msgpack.packb(fields))


def unseal_fields(what: str, key: bytes, raw: bytes | None, types: Sequence[type]) -> list[Any]:
    """The fields of a sealed msgpack record, each of the type given, numbers in [0, 2**63)."""
    body = unseal(what, key, raw)
    try:
        fields = msgpack.unpackb(body[1:], use_list=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise damaged(what, f"it is not msgpack ({type(error).__name__})") from error
    if not isinstance(fields, list) or [type(field) for field in fields] != list(types):
        raise damaged(what, "its fields have other types")
    if any(type(field) is int and not 0 <= field <= NUMBER_MAX for field in fields):
        raise damaged(what, "a number is out of range")
    return fields


# The node's records


def encode_identity(identity: NodeIdentity) -> bytes:
    assert len(identity.cluster) == CLUSTER_BYTES and identity.node, f"{identity} names nobody"
    return seal_fields(IDENTITY_KEY, identity)


def decode_identity(raw: bytes | None) -> NodeIdentity:
    what = "log database, the node's identity"
    cluster, node = unseal_fields(what, IDENTITY_KEY, raw, (bytes, str))
    if len(cluster) != CLUSTER_BYTES or not node:
        raise damaged(what, "the cluster id is not 16 bytes, or the node has no name")
    return NodeIdentity(cluster, NodeId(node))


def encode_number(key: bytes, number: int) -> bytes:
    return seal(key, _FORMAT_BYTE + _U64.pack(number))


def decode_number(what: str, key: bytes, raw: bytes | None) -> int:
    body = unseal(what, key, raw)
    if len(body) != 9:
        raise damaged(what, "it is not one number")
    number: int = _U64.unpack_from(body, 1)[0]
    if number > NUMBER_MAX:
        raise damaged(what, "the number is out of range")
    return number


# A replica's records


def encode_replica(record: ReplicaRecord) -> bytes:
    assert len(record.uuid) == UUID_BYTES and record.replica > 0, f"{record} is no replica"
    return seal_fields(group_key(REPLICA, record.gid), record)


def decode_replica(key: bytes, raw: bytes) -> ReplicaRecord:
    what = f"log database, replica record {key.hex()}"
    gid, uuid, replica, incarnation = unseal_fields(what, key, raw, (int, bytes, int, int))
    if group_key(REPLICA, gid) != key or len(uuid) != UUID_BYTES or replica == 0:
        raise damaged(what, "the group, its uuid or the replica id do not fit")
    return ReplicaRecord(GroupId(gid), GroupUuid(uuid), ReplicaId(replica), incarnation)


def encode_hard_state(gid: GroupId, state: HardState) -> bytes:
    return seal(group_key(HARD_STATE, gid), _HARD_STATE.pack(FORMAT, *state))


def decode_hard_state(gid: GroupId, raw: bytes | None) -> HardState:
    what = f"log database, group {gid}, term and vote"
    body = unseal(what, group_key(HARD_STATE, gid), raw)
    if len(body) != _HARD_STATE.size:
        raise damaged(what, "it is not a term and a vote")
    _, term, vote = _HARD_STATE.unpack(body)
    if term > NUMBER_MAX or vote > NUMBER_MAX:
        raise damaged(what, "the term or the vote is out of range")
    return HardState(Term(term), ReplicaId(vote))


def encode_start(gid: GroupId, start: Start) -> bytes:
    index, term = start.meta.last
    return seal_fields(
        group_key(START, gid), (index, term, encode_membership(start.meta.membership), start.chain)
    )


def decode_start(gid: GroupId, raw: bytes | None) -> Start:
    what = f"log database, group {gid}, start of the log"
    index, term, members, chain = unseal_fields(
        what, group_key(START, gid), raw, (int, int, bytes, bytes)
    )
    if len(chain) != CHAIN_BYTES:
        raise damaged(what, "its chain value has another length")
    meta = SnapshotMeta(EntryId(Index(index), Term(term)), stored_membership(what, members))
    return Start(meta, chain)


def encode_tail(gid: GroupId, tail: Tail) -> bytes:
    (index, term), chain = tail
    return seal(group_key(TAIL, gid), _TAIL.pack(FORMAT, 0, term, chain, index))


def decode_tail(gid: GroupId, raw: bytes | None) -> Tail:
    what = f"log database, group {gid}, end of the log"
    body = unseal(what, group_key(TAIL, gid), raw)
    if len(body) != _TAIL.size:
        raise damaged(what, "it has another length")
    _, _, term, chain, index = _TAIL.unpack(body)
    if term > NUMBER_MAX or index > NUMBER_MAX:
        raise damaged(what, "the index or the term is out of range")
    return Tail(EntryId(index, term), chain)


@lru_cache(maxsize=64)  # the same few are stored with every applied index
def stored_membership(what: str, encoded: bytes) -> Membership:
    try:
        return decode_membership(encoded)
    except BadMessage as error:
        raise damaged(what, f"the membership does not decode ({error})") from error


# Entries and their chain


def first_link(uuid: GroupUuid, start: EntryId) -> bytes:
    """The chain value of a log that begins after `start`, in the group `uuid`."""
    return blake2b(_START_LINK.pack(uuid, *start), digest_size=CHAIN_BYTES).digest()


def link(previous: bytes, entry: Entry) -> bytes:
    """The chain value of an entry that follows one with the value `previous`."""
    index, term, kind, data = entry
    chain = blake2b(_LINK.pack(previous, index, term, kind), digest_size=CHAIN_BYTES)
    chain.update(data)
    return chain.digest()


def encode_entry(entry: Entry, chain: bytes) -> bytes:
    return _ENTRY_HEAD.pack(FORMAT, entry[2], entry[1], chain) + entry[3]


def entry_link(gid: GroupId, index: int, raw: bytes | None) -> tuple[Term, bytes]:
    """The term and chain value that a stored entry states; `decode_entry` proves them."""
    if raw is None:
        raise damaged(f"log database, group {gid}, entry {index}", "the record is missing")
    if len(raw) < _ENTRY_HEAD_BYTES:
        raise damaged(f"log database, group {gid}, entry {index}", "the record is too short")
    _, _, term, chain = _ENTRY_HEAD.unpack_from(raw)
    return term, chain


def decode_entry(
    gid: GroupId, index: Index, raw: bytes | None, previous: bytes
) -> tuple[Entry, bytes]:
    """A stored entry and its chain value, checked against the value before it.

    Raises:
        DataUnusable: it is missing, damaged, not the successor of `previous`, or of a newer format.
    """
    term, chain = entry_link(gid, index, raw)
    assert raw is not None
    form, kind = raw[0], raw[1]
    if form > FORMAT:
        raise DataUnusable(
            f"log database, group {gid}, entry {index}: it has format {form} (or is damaged), this "
            f"version reads format {FORMAT}. {USE_NEWER} Otherwise: {START_AGAIN}"
        )
    if form != FORMAT or kind >= len(KINDS) or term > NUMBER_MAX:
        what = f"log database, group {gid}, entry {index}"
        raise damaged(what, "its format, kind or term is out of range")
    entry = Entry(index, term, KINDS[kind], raw[_ENTRY_HEAD_BYTES:])
    if link(previous, entry) != chain:
        raise damaged(f"log database, group {gid}, entry {index}", "the hash chain breaks here")
    return entry, chain
