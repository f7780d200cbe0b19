"""One value of each kind that is stored or sent, for `test_formats.py`.

What is added here is added to `bytes-1.txt` by `python -m tests.formats.make`; what is there stays
for ever.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raft.disk import promise, records
from raft.frames import FrameCodec
from raft.messages import (
    AnyMessage,
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    ReadReply,
    ReadRequest,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from raft.parcel import Parcel
from raft.rsm import decode_entry, encode_entry
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.types import (
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    GroupUuid,
    HardState,
    Index,
    Member,
    Membership,
    NodeId,
    ReplicaId,
    SnapshotMeta,
    Term,
)
from shardctrler import codec
from shardctrler import commands as controller
from shardctrler.types import (
    ConfigNumber,
    Directory,
    GroupInfo,
    GroupMember,
    GroupRecord,
    NodeAddresses,
    ShardConfig,
    ShardId,
    View,
)
from shardkv import commands as store
from shardkv import last_view, protocol, rows
from shardkv.once import TOKEN_BYTES, Once
from shardkv.phases import Phase
from shardkv.rows import ROWS_DONE, changes_cursor
from shardkv.types import Row

Sample = tuple[bytes, Callable[[bytes], Any], Any]
"""What a value is written as, what reads it, and the value."""

CLUSTER = bytes(range(16))
UUID = GroupUuid(bytes(range(16, 32)))
OTHER_UUID = GroupUuid(bytes(range(48, 64)))
G1 = GroupId(1)
R1, R2 = ReplicaId(1), ReplicaId(2)
LAST = EntryId(Index(9), Term(4))
MEMBERS = Membership(
    voters=(Member(R1, NodeId("n1"), "127.0.0.1:7401"), Member(R2, NodeId("n2"), "127.0.0.1:7411")),
    learners=(Member(ReplicaId(5), NodeId("n5"), "127.0.0.1:7441"),),
    promote=(ReplicaId(5),),
    leaving=(R1,),
    next_id=ReplicaId(6),
)
META = SnapshotMeta(LAST, MEMBERS)
ENTRY = Entry(Index(10), Term(5), EntryKind.COMMAND, b"a command")
CHAIN = bytes(range(32, 48))
CONFIG = ShardConfig(
    ConfigNumber(3),
    (G1, G1, GroupId(0), GroupId(2)),
    {gid: GroupInfo(UUID, (GroupMember(NodeId("n1"), "a:1"),)) for gid in (G1, GroupId(2))},
    (G1, GroupId(2), GroupId(2), GroupId(2)),
)
ADDRESSES = NodeAddresses("127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402")
REGISTERED = GroupRecord(UUID, 2, (GroupMember(NodeId("n1"), "a:1"),))
VIEW = View(CONFIG, Directory(5, {G1: REGISTERED}, {NodeId("n1"): ADDRESSES}))
GIVEN_UP = replace(CONFIG, number=ConfigNumber(4), abandoned=(GroupId(3),), lost=(ShardId(2),))

MESSAGES: tuple[AnyMessage | SnapshotChunk | ChunkReply, ...] = (
    RequestVote(R1, R2, Term(5), LAST, pre=True, transfer=False),
    VoteReply(R1, R2, Term(5), granted=True, pre=False),
    AppendEntries(R1, R2, Term(5), LAST, (ENTRY,), Index(9)),
    AppendReply(R1, R2, Term(5), match=Index(10)),
    AppendReply(R1, R2, Term(5), rejected=Index(9), hint=LAST),
    Heartbeat(R1, R2, Term(5), Index(9), 17, asks=True),
    HeartbeatReply(R1, R2, Term(5), 17, Index(9), asked=True),
    InstallSnapshot(R1, R2, Term(5), META),
    TimeoutNow(R1, R2, Term(5)),
    ReadRequest(R1, R2, Term(5), b"context"),
    Heartbeat(R1, R2, Term(5), Index(9), 17, told=b"question", told_at=Index(8)),
    ReadReply(R1, R2, Term(5), b"context", Index(9)),
    SnapshotChunk(R1, R2, Term(5), 77, 3, META, b"rows", True),
    ChunkReply(R1, R2, 77, 4),
    HeartbeatReply(R1, R2, Term(5), 17, Index(9), question=b"question"),
)
STORE: tuple[store.Command, ...] = (
    store.Mutation(store.Op.PUT, ShardId(3), 7, 2, 1, b"key", b"value", 4),
    store.Mutation(store.Op.APPEND, ShardId(3), 7, 2, 1, b"key", b"value"),
    store.Mutation(store.Op.DELETE, ShardId(3), 7, 2, 1, b"key"),
    store.OpenSession(ShardId(3)),
    store.ExpireSessions(ShardId(3), ((7, 2),)),
    store.Configure(codec.encode_config(CONFIG)),
    store.Chunk(ShardId(3), ConfigNumber(3), 12, b"a", b"c", ((b"a", b"row"), (b"b", b""))),
    store.Chunk(ShardId(3), ConfigNumber(3), 12, ROWS_DONE, changes_cursor(2), ((b"a", None),)),
    store.Batch(ShardId(3), 7, 2, 1, (store.BatchWrite(store.Op.PUT, b"key", b"value", 4),)),
    store.Mutation(store.Op.PUT, ShardId(3), 7, 2, 1, b"key", once=Once(bytes(TOKEN_BYTES))),
    store.Install(ShardId(3), ConfigNumber(3), 12, 5),
    store.Freeze(ShardId(3), ConfigNumber(3), 12),
    store.Restart(ShardId(3), ConfigNumber(3), 12),
    store.Drop(ShardId(3), ConfigNumber(3)),
    store.Abandoned(codec.encode_config(CONFIG), True),
    store.PassTime(ShardId(3), 600_000),
    store.Renew(ShardId(3), ConfigNumber(3), ConfigNumber(4), arriving=True),
)  # type: ignore[arg-type]
GROUP = controller.JoiningGroup(G1, UUID, (GroupMember(NodeId("n1"), "a:1"),), 2)
CONTROLLER: tuple[controller.Command, ...] = (
    controller.Request(1, 2, 1, controller.Join((GROUP,)), ConfigNumber(3)),
    controller.Request(1, 2, 1, controller.Leave((G1,))),
    controller.Request(1, 2, 1, controller.Move(ShardId(3), G1)),
    controller.Request(1, 2, 1, controller.UpdateMembers(G1, 3, GROUP.members, UUID)),
    controller.Request(1, 2, 1, controller.RegisterNode(NodeId("n1"), ADDRESSES)),
    controller.OpenSession(),
    controller.CloseSession(1),
    controller.ExpireSessions(((1, 2),)),
    controller.Request(1, 2, 1, controller.Recover(G1, UUID, OTHER_UUID, GROUP.members[0])),
    controller.Request(
        1, 2, 1, controller.Abandon(G1, UUID, ((ShardId(3), GroupId(2)),), (ShardId(1),))
    ),
    controller.Request(1, 2, 1, controller.ForgetNode(NodeId("n1"))),
    controller.Request(1, 2, 1, controller.Adopt(VIEW), ConfigNumber(2)),
)


def samples() -> dict[str, Sample]:
    """By what they are."""
    found: dict[str, Sample] = {}
    frames = FrameCodec(CLUSTER, NodeId("n1"), "127.0.0.1:7401")
    for number, message in enumerate(MESSAGES, 1):
        parcel = Parcel(G1, UUID, message)
        found[f"wire: frame {number} {type(message).__name__}"] = (
            frames.pack([parcel]), lambda raw: frames.unpack(raw).parcels, [parcel],
        )  # fmt: skip
    put = store.encode(STORE[0])
    asked = [protocol.Get(b"key"), put]
    found["wire: client frame"] = (
        protocol.encode_frame(G1, 3, asked),
        lambda raw: len(protocol.decode_frame(raw).operations),
        2,
    )
    answered = protocol.Reply(protocol.Status.ANSWERED, 3, None, (Row(b"value", 7),))
    found["wire: reply"] = (protocol.encode_reply(answered), protocol.decode_reply, answered)
    found["log: entry of commands"] = (
        encode_entry([b"a", b"b"]),
        lambda raw: decode_entry(ENTRY._replace(data=raw)),
        [b"a", b"b"],
    )
    for number, command in enumerate(STORE, 1):
        name = f"log: store's command {number} {type(command).__name__}"
        found[name] = (store.encode(command), store.decode, command)
    for number, order in enumerate(CONTROLLER, 1):
        name = f"log: controller's command {number} {type(order).__name__}"
        found[name] = (controller.encode_command(order), controller.decode_command, order)
    return found | _on_disk()


def _on_disk() -> dict[str, Sample]:
    state = HardState(Term(5), R1)
    record = records.ReplicaRecord(G1, UUID, R1, 99)
    identity = records.NodeIdentity(CLUSTER, NodeId("n1"))
    link = records.link(CHAIN, ENTRY)
    start, tail = records.Start(META, CHAIN), records.Tail(LAST, CHAIN)
    key = records.group_key(records.REPLICA, G1)
    vow = promise.Vow(G1, R1, state)
    whole = promise.Promise(8, identity, 42, (vow,))
    shard = rows.ShardRecord(
        Phase.ARRIVING, ConfigNumber(3), ConfigNumber(2), 4, GroupId(2), 12, b"cursor", 0
    )  # type: ignore[arg-type]
    at = rows.record_key(ShardId(3))
    return {
        "disk: identity": (
            records.encode_identity(identity), records.decode_identity, identity
        ),
        "disk: write number": (
            records.encode_number(records.WRITE_NUMBER_KEY, 42),
            lambda raw: records.decode_number("", records.WRITE_NUMBER_KEY, raw), 42,
        ),
        "disk: replica": (
            records.encode_replica(record), lambda raw: records.decode_replica(key, raw), record
        ),
        "disk: term and vote": (
            records.encode_hard_state(G1, state),
            lambda raw: records.decode_hard_state(G1, raw), state,
        ),
        "disk: start of a log": (
            records.encode_start(G1, start), lambda raw: records.decode_start(G1, raw), start
        ),
        "disk: end of a log": (
            records.encode_tail(G1, tail), lambda raw: records.decode_tail(G1, raw), tail
        ),
        "disk: entry": (
            records.encode_entry(ENTRY, link),
            lambda raw: records.decode_entry(G1, Index(10), raw, CHAIN), (ENTRY, link),
        ),
        "disk: promise": (
            promise.encode_promise(8, identity, 42, [promise.encode_vow(*vow)]),
            promise.decode_promise, whole,
        ),
        "disk: shard's record": (
            rows.encode_record(shard), lambda raw: rows.decode_record(at, raw), shard
        ),
        "disk: row": (
            rows.encode_row(7, b"value"), lambda raw: rows.decode_row(b"", raw), Row(b"value", 7)
        ),
        "disk: configuration": (
            codec.encode_config(CONFIG), codec.decode_config, CONFIG
        ),
        "disk: group": (codec.encode_group(REGISTERED), codec.decode_group, REGISTERED),
        "disk: addresses": (
            codec.encode_addresses(ADDRESSES), codec.decode_addresses, ADDRESSES
        ),
        "wire: view": (codec.encode_view(VIEW), codec.decode_view, VIEW),
        "disk: configuration that gives a group up": (
            codec.encode_config(GIVEN_UP), codec.decode_config, GIVEN_UP
        ),
        "wire: page": (
            last_view.encode_page(last_view.Page(7, CONFIG)), last_view.decode_page,
            last_view.Page(7, CONFIG),
        ),
    }  # fmt: skip
