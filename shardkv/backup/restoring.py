"""Makes a new cluster from a backup: each group born anew with one voter, on the rows it had.

What is new: the cluster's id, every group's uuid, every replica and its incarnation; terms start
above the highest that was seen. So no member and no client of the old cluster is ever taken for
one of the new, nor the other way round: connections carry the cluster's id, messages the uuid.

What stays: rows with their versions, the history of configurations, each group's index (so a
generation number is never used twice), and the sessions. An old client that comes back with a
request whose effect is in the backup gets the answer recorded there, and it is not done twice (C3).

What was given after the backup is not given again: session numbers go on `SESSIONS_SKIPPED` higher,
so whoever opened a session meanwhile is told that it expired, and never meets a stranger's under
the same number; and every write gets a version above all that the old cluster can have given
(`held.py`), so a version that was read there is never another value's. The epoch that this takes
is that of a configuration which is added to the history, and in which nothing moves.

It is made aside and renamed; a backup that does not verify is refused before anything is written.
The groups grow to all their voters through their own logs, by `shardkv up`.
"""

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from raft.disk.data_store import ReplicaData
from raft.disk.log_store import LogStore, ReplicaRecord
from raft.disk.records import NodeIdentity
from raft.errors import DataInUse
from raft.ports import Disk, Rows
from raft.sessions import SessionTable
from raft.types import (
    EntryId,
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
from shardctrler.codec import encode_config
from shardctrler.machine import SESSIONS_SKIPPED, rehome
from shardctrler.types import GroupInfo, GroupMember, NodeAddresses, ShardConfig
from shardkv import clusterfile, nodedir
from shardkv.backup import files
from shardkv.backup.files import check_target
from shardkv.backup.manifest import GroupFile, Manifest
from shardkv.backup.taking import BackupFailed
from shardkv.clusterfile import ClusterFile
from shardkv.held import EPOCH
from shardkv.launcher import Plan, founding, make_node
from shardkv.phases import Phase
from shardkv.rows import (
    CONFIG_KEY,
    HIGHEST_DELETED,
    RECORDS,
    SESSIONS,
    decode_record,
    encode_config_row,
    encode_version,
    prefix_of,
    record_shard,
)
from shardkv.steps import RECOVERED_BEGINS
from shardkv.text import quoted

RESTORING: Final = "restoring.lock"
FOUNDER: Final = ReplicaId(1)
CONTROLLER: Final = GroupId(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What was asked for; None where no flag was given."""

    nodes: int | None = None
    replicas: int | None = None
    base_port: int | None = None


@dataclass(frozen=True, slots=True)
class Birth:
    """A group as it begins: who it is, and where its first voter lives."""

    record: ReplicaRecord
    founder: Member

    @property
    def membership(self) -> Membership:
        return Membership(voters=(self.founder,), next_id=ReplicaId(self.founder.id + 1))


def restore_to(
    directory: Path, data: Path, shape: Shape, progress: Callable[[str], None]
) -> ClusterFile:
    """Make `data` from the backup in `directory`, wholly or not at all; returns what it holds.

    Raises:
        BackupDamaged: nothing was written.
        ConfigError, BackupFailed: the place, or what was asked for, does not do; nothing was
            written.
        DataInUse: another process restores there.
    """
    check_target(data)
    manifest, _ = files.verify(directory, progress)
    file = _planned(manifest, data, shape)
    aside = data.with_name(data.name + files.PARTIAL)
    lock = _made_aside(aside)
    try:
        _fill(directory, manifest, file, aside, progress)
        (aside / clusterfile.GROWING).touch()
        file.write(aside)
        check_target(data)
        (aside / RESTORING).unlink()
        aside.rename(data)
        clusterfile.sync_directory(data.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    return file


def _planned(manifest: Manifest, data: Path, shape: Shape) -> ClusterFile:
    gids = [group.gid for group in manifest.groups if group.gid]
    there = len({node for group in manifest.groups for node in group.nodes})
    plan = Plan(
        data=data,
        nodes=shape.nodes if shape.nodes is not None else max(there, 1),
        groups=len(gids),
        replicas=shape.replicas,
        shards=manifest.nshards,
        base_port=shape.base_port,
    )
    file = founding(plan, secrets.token_hex(16))
    return replace(file, groups=dict(zip(gids, file.groups.values(), strict=True)))


def _made_aside(aside: Path) -> int:
    """The directory to fill, emptied, and its lock."""
    if aside.is_symlink() or (aside.exists() and not (aside / RESTORING).exists()):
        raise BackupFailed(f"{quoted(str(aside))} is in the way: remove it")
    aside.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(aside / RESTORING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise
        raise DataInUse(f"{aside}: another process restores there") from error
    for path in aside.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != RESTORING:
            path.unlink()
    return lock


def _fill(
    directory: Path,
    manifest: Manifest,
    file: ClusterFile,
    aside: Path,
    progress: Callable[[str], None],
) -> None:
    for name, place in file.nodes.items():
        make_node(aside / name, name, place, file)
    births = {
        GroupId(gid): _birth(GroupId(gid), nodes[0], file)
        for gid, nodes in ((0, file.controller), *file.groups.items())
    }
    infos = {
        gid: GroupInfo(birth.record.uuid, (_founder_as_member(birth, file),))
        for gid, birth in births.items()
        if gid != CONTROLLER
    }
    nodes = {
        NodeId(name): NodeAddresses(place.client, place.peer, place.http)
        for name, place in file.nodes.items()
    }
    # The controller comes first: its newest configuration goes into every group's rows.
    newest: ShardConfig | None = None
    for group in manifest.groups:
        birth = births[GroupId(group.gid)]
        identity = NodeIdentity(bytes.fromhex(file.cluster), birth.founder.node)

        def rewrite(rows: Rows, gid: int = group.gid) -> None:
            nonlocal newest
            if gid == CONTROLLER:
                newest = rehome(rows, infos, nodes)
            else:
                assert newest is not None, "a cut with groups has a configuration"
                rewrite_group(rows, newest)

        asyncio.run(
            _plant_in(
                aside / birth.founder.node,
                identity,
                birth,
                group,
                files.chunks(directory, group),
                rewrite,
            )
        )
        progress(f"group {group.gid}: {group.rows} rows on {birth.founder.node}")


def _birth(gid: GroupId, node: str, file: ClusterFile) -> Birth:
    record = ReplicaRecord(gid, GroupUuid(secrets.token_bytes(16)), FOUNDER, secrets.randbits(63))
    return Birth(record, Member(FOUNDER, NodeId(node), file.nodes[node].peer))


def _founder_as_member(birth: Birth, file: ClusterFile) -> GroupMember:
    return GroupMember(birth.founder.node, file.nodes[birth.founder.node].client)


async def _plant_in(
    directory: Path,
    identity: NodeIdentity,
    birth: Birth,
    group: GroupFile,
    chunks: Iterable[bytes],
    rewrite: Callable[[Rows], None],
) -> None:
    databases = await nodedir.open_databases(directory, identity)
    try:
        last = EntryId(Index(group.index), Term(group.term))
        term = Term(max(group.newest_term, group.term) + 1)
        await plant(databases.log_store, databases.data_disk, birth, last, term, chunks, rewrite)
    finally:
        await databases.close()


async def plant(
    log_store: LogStore,
    data_disk: Disk,
    birth: Birth,
    last: EntryId,
    term: Term,
    chunks: Iterable[bytes],
    rewrite: Callable[[Rows], None],
) -> None:
    """Give a node the first replica of a group whose state is a snapshot.

    The state first, durably, then the log that begins behind it: a replica whose log exists has its
    state. As after the installation of a snapshot, both stand at `last`.

    Args:
        term: Above every term of the group that the snapshot is of.
        rewrite: Changes of the rows, before anybody sees them.
    """
    meta = SnapshotMeta(last, birth.membership)
    data = ReplicaData(data_disk, birth.record.gid)
    data.adopt(birth.record.incarnation, birth.membership)
    staging = data.stage(meta)
    for chunk in chunks:
        staging.add(chunk)
        await asyncio.sleep(0)
    await staging.install()
    rows = data.overlay()
    rewrite(rows)
    data.commit(rows.writes(), data.applied, None)
    await data.flush()
    await log_store.create_replica(birth.record, meta, HardState(term))


def rewrite_group(rows: Rows, config: ShardConfig) -> None:
    """Let a store group's rows speak of the groups of the new cluster, and skip the session numbers
    and versions that the old one may have given since."""
    rows.put(CONFIG_KEY, encode_config_row(encode_config(config)))
    begins = config.number * RECOVERED_BEGINS + EPOCH
    for key, row in list(rows.range(*RECORDS)):
        record = decode_record(key, row)
        if record.phase is not Phase.ABSENT:
            prefix = prefix_of(record_shard(key), record.generation)
            SessionTable(prefix + SESSIONS).skip(rows, SESSIONS_SKIPPED)
            rows.put(prefix + HIGHEST_DELETED, encode_version(begins))
