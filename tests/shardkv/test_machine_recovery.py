"""A group's machine where a majority was lost: born again under another uuid, or left waiting for a
group that is given up."""

from dataclasses import replace

import pytest

from raft.types import GroupId, GroupUuid
from shardctrler.codec import encode_config
from shardctrler.machine import SESSIONS_SKIPPED
from shardctrler.types import NO_GROUP, ConfigNumber, GroupInfo, ShardConfig, ShardId
from shardkv.commands import Abandoned, Freeze
from shardkv.machine import LOST_SHARD_BEGINS
from shardkv.phases import Phase
from shardkv.types import ABSENT, Answer, Code
from tests.support.stores import S0, S1, A, B, C, Group, History, append, configure, ok, put, row

OLD, NEW = GroupUuid(bytes([A]) * 16), GroupUuid(b"n" * 16)


def renamed(config: ShardConfig) -> ShardConfig:
    """The configuration after `config`, by which group A is another one."""
    return replace(
        config,
        number=ConfigNumber(config.number + 1),
        groups={**config.groups, A: GroupInfo(NEW, ())},
        previous=tuple(config.holder(s) for s in range(len(config.shards))),  # type: ignore[arg-type]
    )


def test_a_group_born_again_serves_only_once_its_configuration_names_it() -> None:
    """And applies all the same what the group it was had let in: those writes were acknowledged."""
    history = History()
    group = Group(A)
    group.machine.be(OLD)
    group.apply(configure(history.then(A, A, B, B)))
    session = group.open(S0)
    assert group.apply(put(session, 1, b"k", b"v")) == ok(1)

    group.machine.be(NEW)
    assert group.apply(append(session, 2, b"k", b"w")) == ok(2), "let in before"
    assert group.get(b"k") == Answer(Code.WRONG_GROUP, (1,))
    assert group.machine.refusal(S0) == Answer(Code.WRONG_GROUP, (1,))
    group.apply(configure(renamed(history.configs[-1])))

    assert group.get(b"k") == row(b"vw", 2)
    assert group.machine.refusal(S0) is None
    assert group.open(S0) == session + SESSIONS_SKIPPED + 1, "one may have been opened meanwhile"
    assert group.apply(append(session, 2, b"k", b"w")) == ok(2), "and what was answered stays so"
    assert group.apply(put(session + 1, 1, b"k", b"x")).code is Code.SESSION_EXPIRED


def test_a_replica_of_the_old_uuid_answers_nobody_once_it_hears_of_the_new() -> None:
    history = History()
    group = Group(A)
    group.machine.be(OLD)
    group.apply(configure(history.then(A, A, B, B)))
    assert group.machine.refusal(S0) is None

    group.apply(configure(renamed(history.configs[-1])))

    assert group.machine.refusal(S0) == Answer(Code.WRONG_GROUP, (2,))


def given_up(config: ShardConfig, gone: GroupId, **kept: GroupId) -> ShardConfig:
    """The configuration after `config` that gives a group up; `s0=1`: shard 0 is kept by group 1,
    and all else goes to C."""
    holders = {int(name[1:]): gid for name, gid in kept.items()}
    shards, previous, lost = list[GroupId](), list[GroupId](), list[ShardId]()
    for number, owner in enumerate(config.shards):
        shard = ShardId(number)
        if owner != gone:
            shards.append(owner)
            previous.append(config.holder(shard))
            continue
        holder = holders.get(shard, NO_GROUP)
        shards.append(holder or C)
        previous.append(holder)
        lost += [] if holder else [shard]
    groups = {gid: info for gid, info in config.groups.items() if gid != gone}
    groups.setdefault(C, GroupInfo(GroupUuid(bytes([C]) * 16), ()))
    return ShardConfig(
        ConfigNumber(config.number + 1),
        tuple(shards),
        groups,
        tuple(previous),
        abandoned=(gone,),
        lost=tuple(lost),
    )


def abandoned(config: ShardConfig, *, arriving: bool) -> Abandoned:
    return Abandoned(encode_config(config), arriving)


def on_its_way(frozen: bool) -> tuple[Group, History]:
    """Group A, whose shard 0 goes to B by configuration 2; with a key in it."""
    history = History()
    group = Group(A)
    group.apply(configure(history.then(A, A, B, B)))
    session = group.open(S0)
    group.apply(put(session, 1, b"k", b"v"))
    group.apply(configure(history.then(B, A, B, B)))
    record = group.machine.record(S0)
    assert record.phase is Phase.MOVING
    if frozen:
        group.apply(Freeze(S0, record.number, record.copy_id))
    return group, history


@pytest.mark.parametrize("frozen", [False, True], ids=["still served", "frozen"])
def test_a_shard_on_its_way_to_a_lost_group_stays(frozen: bool) -> None:
    group, history = on_its_way(frozen)
    config = given_up(history.configs[-1], B, s0=A)

    assert group.apply(abandoned(config, arriving=False)).code is Code.OK

    phase = group.machine.record(S0).phase
    assert phase is (Phase.PARKED if frozen else Phase.SERVING)
    assert group.machine.unsettled == ()
    assert group.apply(configure(config)).code is Code.OK
    assert group.get(b"k") == row(b"v", 1), "all that it had"
    assert group.machine.record(S0).phase is Phase.SERVING
    group.restart()


@pytest.mark.parametrize("frozen", [False, True], ids=["still served", "frozen"])
def test_a_shard_that_was_given_on_from_the_lost_group_is_dropped(frozen: bool) -> None:
    """The history has it elsewhere by now; whoever owns it begins anew."""
    group, history = on_its_way(frozen)
    history.then(C, A, B, B)
    config = given_up(history.configs[-1], B)

    assert group.apply(abandoned(config, arriving=False)).code is Code.OK

    assert group.machine.record(S0).phase is Phase.ABSENT
    assert group.apply(configure(history.configs[3])).code is Code.OK
    assert group.apply(configure(config)).code is Code.OK
    group.restart()


def test_a_shard_on_its_way_from_a_lost_group_begins_anew() -> None:
    """Empty; with session numbers and versions that it cannot have given before."""
    history = History()
    group = Group(A)
    group.apply(configure(history.then(A, A, B, B)))
    group.apply(configure(history.then(A, A, A, B)))
    shard = ShardId(2)
    assert group.machine.record(shard).phase is Phase.ARRIVING
    config = given_up(history.configs[-1], B)
    assert group.apply(abandoned(config, arriving=False)).code is Code.OK
    assert group.machine.record(shard).phase is Phase.ARRIVING, "only when it is said"

    assert group.apply(abandoned(config, arriving=True)).code is Code.OK

    assert group.machine.record(shard).phase is Phase.SERVING
    assert group.get(b"k", shard) is ABSENT
    session = group.open(shard)
    assert session == config.number * LOST_SHARD_BEGINS + 1
    assert group.apply(put(session, 1, b"k", b"v", shard=shard)) == ok(
        config.number * LOST_SHARD_BEGINS + 1
    )
    assert group.apply(configure(config)).code is Code.OK
    group.restart()


def test_a_lost_shard_that_a_configuration_creates_begins_beyond_too() -> None:
    history = History()
    group = Group(C)
    for config in (history.then(A, A, B, B), history.then(A, A, B, B, groups=[C])):
        group.apply(configure(config))
    config = given_up(history.configs[-1], B)

    group.apply(configure(config))

    assert group.machine.record(S1 + 1).phase is Phase.SERVING  # type: ignore[arg-type]
    assert group.open(S1 + 1) == config.number * LOST_SHARD_BEGINS + 1  # type: ignore[arg-type]


def test_nothing_else_moves_by_giving_a_group_up() -> None:
    group, history = on_its_way(frozen=True)
    stranger = given_up(history.configs[-1], C)
    before = group.machine.facts

    assert group.apply(abandoned(stranger, arriving=True)).code is Code.OK
    assert group.apply(abandoned(stranger, arriving=False)).code is Code.OK

    assert group.machine.facts == before
