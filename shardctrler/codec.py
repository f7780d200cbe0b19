"""Configurations, directories and views as bytes: msgpack arrays behind a leading format byte.

The encoding is canonical: values that are equal have the same bytes, on every replica. Every
field's type and range is checked on reading.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgpack

from raft.types import GroupId, GroupUuid, NodeId
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

FORMAT: Final = 1
INTEGER_MAX: Final = 2**63 - 1
UUID_BYTES: Final = 16
TEXT_BYTES_MAX: Final = 256  # a node's name or an address
_Value = TypeVar("_Value")


class BadConfig(Exception):
    """Bytes that are not what they should be, or of another format; the message says where."""


def encode_config(config: ShardConfig) -> bytes:
    return _packed(_config_fields(config))


def decode_config(data: bytes) -> ShardConfig:
    """Raises: BadConfig."""
    return _config(fields(data))


def encode_group(record: GroupRecord) -> bytes:
    return _packed([record.uuid, record.version, members_fields(record.members)])


def decode_group(data: bytes) -> GroupRecord:
    """Raises: BadConfig."""
    return _group(fields(data, 3))


def encode_addresses(addresses: NodeAddresses) -> bytes:
    return _packed(list(addresses))


def decode_addresses(data: bytes) -> NodeAddresses:
    """Raises: BadConfig."""
    return _addresses(fields(data, 3))


def encode_view(view: View) -> bytes:
    directory = view.directory
    groups = [
        [gid, record.uuid, record.version, members_fields(record.members)]
        for gid, record in directory.groups.items()
    ]
    nodes = [[node, *addresses] for node, addresses in directory.nodes.items()]
    return _packed([_config_fields(view.config), directory.version, groups, nodes])


def decode_view(data: bytes) -> View:
    """Raises: BadConfig."""
    config, version, groups, nodes = fields(data, 4)
    directory = Directory(
        integer(version),
        mapping(groups, 4, lambda f: (group_id(f[0]), _group(f[1:]))),
        mapping(nodes, 4, lambda f: (node_id(f[0]), _addresses(f[1:]))),
    )
    return View(_config(sequence(config)), directory)


# Reading, field by field. Shared with `commands.py`, which is bound by the same rules.


def fields(data: bytes, count: int | None = None) -> list[Any]:
    """The fields behind the format byte; exactly `count`, if that is given.

    Raises: BadConfig.
    """
    try:
        unpacked = msgpack.unpackb(data, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadConfig(f"not msgpack: {error}") from error
    if not isinstance(unpacked, list) or not unpacked:
        raise BadConfig("not an array")
    if unpacked[0] != FORMAT:
        raise BadConfig(f"format {unpacked[0]!r:.32}; this is format {FORMAT}")
    return sequence(unpacked[1:], count)


def sequence(value: object, count: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise BadConfig(f"not an array of {count if count is not None else 'any'} fields")
    return value


def mapping(
    value: object, count: int, entry: Callable[[list[Any]], tuple[Any, _Value]]
) -> dict[Any, _Value]:
    """Rows of `count` fields with distinct keys."""
    rows = [entry(sequence(row, count)) for row in sequence(value)]
    result = dict(rows)
    if len(result) != len(rows):
        raise BadConfig("a key comes twice")
    return result


def integer(value: object, lo: int = 0, hi: int = INTEGER_MAX) -> int:
    if type(value) is not int or not lo <= value <= hi:
        raise BadConfig(f"not a whole number in [{lo}, {hi}]: {value!r:.32}")
    return value


def text(value: object) -> str:
    if not isinstance(value, str) or len(value.encode()) > TEXT_BYTES_MAX:
        raise BadConfig(f"not a text of at most {TEXT_BYTES_MAX} bytes")
    return value


def uuid(value: object) -> GroupUuid:
    if not isinstance(value, bytes) or len(value) != UUID_BYTES:
        raise BadConfig(f"not a uuid of {UUID_BYTES} bytes")
    return GroupUuid(value)


def node_id(value: object) -> NodeId:
    return NodeId(text(value))


def group_id(value: object) -> GroupId:
    return GroupId(integer(value))


def members_fields(members: tuple[GroupMember, ...]) -> list[list[str]]:
    return [[member.node, member.address] for member in members]


def members(value: object) -> tuple[GroupMember, ...]:
    pairs = (sequence(pair, 2) for pair in sequence(value))
    return tuple(GroupMember(node_id(node), text(address)) for node, address in pairs)


def _packed(values: list[Any]) -> bytes:
    packed = msgpack.packb([FORMAT, *values])
    assert isinstance(packed, bytes)
    return packed


def _config_fields(config: ShardConfig) -> list[Any]:
    common = [
        config.number,
        list(config.shards),
        _infos_fields(config.groups),
        list(config.previous),
        _infos_fields(config.departed),
    ]
    if not config.abandoned and not config.lost:  # as every configuration is but a few
        return common
    return [*common, list(config.abandoned), list(config.lost)]


def _infos_fields(infos: Mapping[GroupId, GroupInfo]) -> list[list[Any]]:
    return [[gid, info.uuid, members_fields(info.members)] for gid, info in infos.items()]


def _config(values: list[Any]) -> ShardConfig:
    if len(values) not in (5, 7):
        raise BadConfig("not the fields of a configuration")
    number, shards, groups, previous, departed, abandoned, lost = (*values, [], [])[:7]
    owners = tuple(group_id(gid) for gid in sequence(shards))
    holders = tuple(group_id(gid) for gid in sequence(previous, len(owners)))
    taking_part, gone = _infos(groups), _infos(departed)
    if not owners or any(gid and gid not in taking_part for gid in owners):
        raise BadConfig("a shard's owner is not among the groups")
    if any(gid in taking_part for gid in gone):
        raise BadConfig("a departed group takes part")
    return ShardConfig(
        ConfigNumber(integer(number)),
        owners,
        taking_part,
        holders,
        gone,
        tuple(group_id(gid) for gid in sequence(abandoned)),
        tuple(ShardId(integer(shard, 0, len(owners) - 1)) for shard in sequence(lost)),
    )


def _infos(value: object) -> dict[GroupId, GroupInfo]:
    return mapping(value, 3, lambda f: (group_id(f[0]), GroupInfo(uuid(f[1]), members(f[2]))))


def _group(values: list[Any]) -> GroupRecord:
    return GroupRecord(uuid(values[0]), integer(values[1]), members(values[2]))


def _addresses(values: list[Any]) -> NodeAddresses:
    client, peer, http = (text(value) for value in values)
    return NodeAddresses(client, peer, http)
