"""A group's machine where a majority was lost: born again under another uuid, or left waiting for a
group that is given up."""

from dataclasses import replace

import pytest

from raft.disk.overlay import Overlay
from raft.types import GroupId, GroupUuid
from shardctrler.codec import encode_config
from shardctrler.machine import SESSIONS_SKIPPED
from shardctrler.types import NO_GROUP, ConfigNumber, GroupInfo, ShardConfig, ShardId
from shardkv.backup.restoring import rewrite_group
from shardkv.commands import Abandoned, Command, Drop, Freeze, Install, OpenSession, Renew
from shardkv.copying import Pulled
from shardkv.held import EPOCH
from shardkv.migration import Ask, Pull, todo
from shardkv.phases import Phase
from shardkv.steps import RECOVERED_BEGINS
from shardkv.types import ABSENT, DONE, NO_COPY, Answer, Code, SessionId
from tests.support.stores import (
    S0,
    S1,
    A,
    B,
    C,
    Group,
    History,
    append,
    configure,
    delete,
    ok,
    put,
    row,
)

N2, N3 = ConfigNumber(2), ConfigNumber(3)
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
    assert group.machine.spans([S0], [None], b"") == [Answer(Code.WRONG_GROUP, (1,))]
    assert list(group.machine.survey(group.rows, S0)) == [], "it forgets nobody's session either"
    group.machine.reload(group.rows)
    assert group.get(b"k") == Answer(Code.WRONG_GROUP, (1,)), "nor behind an installed snapshot"
    group.apply(configure(renamed(history.configs[-1])))

    assert group.get(b"k") == row(b"vw", 2)
    assert group.machine.refusal(S0) is None
    assert group.open(S0) == session + SESSIONS_SKIPPED + 1, "one may have been opened meanwhile"
    assert group.apply(append(session, 2, b"k", b"w")) == ok(2), "and what was answered stays so"
    begins = 2 * RECOVERED_BEGINS
    assert group.apply(append(session, 3, b"k", b"x")) == ok(begins + 1), "3 may have been read"
    assert group.apply(put(session, 4, b"other", b"y")) == ok(begins + 1)
    assert group.apply(append(session, 5, b"k", b"z")) == ok(begins + 2)
    group.restart()
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
    # Of one that was frozen the lost group may have opened sessions, and written over the key.
    version = config.number * RECOVERED_BEGINS + 1 if frozen else 2
    assert group.open(S0) == (SESSIONS_SKIPPED + 2 if frozen else 2)
    assert group.apply(put(1, 2, b"k", b"w")) == ok(version)


@pytest.mark.parametrize("frozen", [False, True], ids=["still served", "frozen"])
@pytest.mark.parametrize("back", [False, True], ids=["for the lost one", "and back from it"])
def test_a_shard_stays_though_others_moved_before_the_group_was_given_up(
    frozen: bool, back: bool
) -> None:
    """Configurations that this group has yet to take say that the lost group has the shard, one
    even that it shall come back from there. They change nothing about it any more."""
    group, history = on_its_way(frozen)
    history.then(B, A, C, B)
    if back:
        history.then(A, A, C, B)
    config = given_up(history.configs[-1], B, **({} if back else {"s0": A}))

    assert group.apply(abandoned(config, arriving=False)).code is Code.OK
    assert group.machine.unsettled == ()
    for between in history.configs[3:]:
        assert group.apply(configure(between)).code is Code.OK
        assert group.machine.unsettled == ()
    group.restart()
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
    group.restart()
    assert group.get(b"k", shard) == Answer(Code.WRONG_GROUP, (2,)), "not before `config`"
    assert group.apply(OpenSession(shard)) == Answer(Code.WRONG_GROUP, (2,))
    assert group.apply(configure(config)).code is Code.OK
    assert group.get(b"k", shard) is ABSENT
    session = group.open(shard)
    begins = config.number * RECOVERED_BEGINS
    assert session == begins + 1
    assert group.apply(put(session, 1, b"k", b"v", shard=shard)) == ok(begins + 1)
    group.restart()


def test_what_will_be_dropped_on_the_way_is_never_acknowledged() -> None:
    """On its way to the configuration that gives B up this group has the shard from B, is to give
    it to B, and has it from B again; and that configuration makes it anew."""
    history, shard = History(), ShardId(2)
    group = Group(A)
    group.apply(configure(history.then(A, A, B, B)))
    for owner in (A, B, A, B):
        history.then(A, A, owner, B)
    last = given_up(history.configs[-1], B)
    last = replace(last, shards=(A, A, A, A))
    served = 0
    for between in history.configs[2:]:
        assert group.apply(configure(between)).code is Code.OK
        assert group.apply(abandoned(last, arriving=False)).code is Code.OK
        assert group.apply(abandoned(last, arriving=True)).code is Code.OK
        served += group.machine.record(shard).phase is Phase.SERVING
        refused = Answer(Code.WRONG_GROUP, (between.number,))
        assert group.machine.refusal(shard) == group.apply(OpenSession(shard)) == refused
    assert served == 2
    assert group.apply(configure(last)).code is Code.OK

    assert group.machine.refusal(shard) is None
    assert group.open(shard) == last.number * RECOVERED_BEGINS + 1
    group.restart()


def test_who_takes_over_what_began_anew_waits_for_the_same_configuration() -> None:
    """C has the shard from B, and gives it to A: both are behind the one that gives B up."""
    history, shard = History(), ShardId(2)
    source, group = Group(C), Group(A)
    for owner in (B, C, A):
        history.then(A, A, owner, B, groups=[C])
    last = given_up(history.configs[-1], B)
    for config in history.configs[1:]:
        for each in (source, group):
            assert each.apply(configure(config)).code is Code.OK
            each.apply(abandoned(last, arriving=True))
    copy_id = source.machine.record(shard).copy_id
    source.apply(Freeze(shard, N3, copy_id))
    while (pulled := source.pulled(shard, 3, group.machine.record(shard).cursor)).chunk is not None:
        assert group.apply(pulled.chunk) == DONE
    assert pulled.end is not None
    assert group.apply(Install(shard, N3, copy_id, pulled.end)) == DONE

    assert group.machine.record(shard).phase is Phase.SERVING
    assert group.machine.refusal(shard) == Answer(Code.WRONG_GROUP, (3,))
    group.restart()
    assert group.apply(OpenSession(shard)) == Answer(Code.WRONG_GROUP, (3,))
    assert group.apply(configure(last)).code is Code.OK
    assert group.open(shard) == last.number * RECOVERED_BEGINS + 1


def test_a_lost_shard_that_a_configuration_creates_begins_beyond_too() -> None:
    history = History()
    group = Group(C)
    for config in (history.then(A, A, B, B), history.then(A, A, B, B, groups=[C])):
        group.apply(configure(config))
    config = given_up(history.configs[-1], B)

    group.apply(configure(config))

    assert group.machine.record(S1 + 1).phase is Phase.SERVING  # type: ignore[arg-type]
    assert group.open(S1 + 1) == config.number * RECOVERED_BEGINS + 1  # type: ignore[arg-type]


def test_nothing_else_moves_by_giving_a_group_up() -> None:
    group, history = on_its_way(frozen=True)
    stranger = given_up(history.configs[-1], C)
    before = group.machine.facts

    assert group.apply(abandoned(stranger, arriving=True)).code is Code.OK
    assert group.apply(abandoned(stranger, arriving=False)).code is Code.OK

    assert group.machine.facts == before


# A group that was recovered from a survivor without the newest entries


def forgotten(*later: Command) -> tuple[Group, Group, History]:
    """Group A as it is born again after configuration 2, by which shard 0 goes to B, and as it was:
    with entries that the survivor lacks."""
    history = History()
    survivor, was = Group(A), Group(A)
    first = configure(history.then(A, A, B, B))
    for group in (survivor, was):
        group.machine.be(OLD)
        group.apply(first)
        group.open(S0)
        group.apply(put(SessionId(1), 1, b"k", b"v"))
    second = configure(history.then(B, A, B, B))
    for group in (survivor, was):
        group.apply(second)
    for command in later:
        was.apply(command)
    survivor.machine.be(NEW)
    return survivor, was, history


def target(history: History) -> Group:
    group = Group(B)
    for config in history.configs[1:3]:
        group.apply(configure(config))
    return group


def test_what_leaves_a_recovered_group_is_copied_anew_from_what_it_remembers() -> None:
    """The target has staged rows, and come to change rows, that the survivor lacks; the survivor's
    own change rows would have the same counters."""
    lost = (append(1, 2, b"k", b"lost"), put(1, 3, b"other", b"lost"), OpenSession(S0))
    survivor, was, history = forgotten(*lost)
    to = target(history)
    cursor = b""
    while (chunk := was.pulled(S0, 2, cursor).chunk) is not None:
        assert to.apply(chunk) == DONE
        cursor = chunk.next_cursor

    behind = Answer(Code.OUT_OF_STEP)
    assert survivor.machine.pull(survivor.rows, S0, N2, b"") == behind, "not before it is renewed"
    frozen_too = Freeze(S0, N2, to.machine.record(S0).copy_id)
    assert survivor.apply(frozen_too) == DONE
    assert survivor.machine.pull(survivor.rows, S0, N2, cursor) == behind, "nor frozen"
    step = Renew(S0, N2, ConfigNumber(3), arriving=False)
    assert todo(N2, survivor.machine.unsettled, survivor.machine.changes, recovered=N3)[0] == step
    assert survivor.apply(step) == DONE
    record = survivor.machine.record(S0)
    assert survivor.apply(step) == DONE
    assert survivor.machine.record(S0) == record, "once"

    assert record.phase is Phase.LEAVING
    assert survivor.apply(append(1, 2, b"k", b"x")).code is Code.WRONG_GROUP
    pulled = survivor.machine.pull(
        survivor.rows, S0, N2, cursor, copy_id=to.machine.record(S0).copy_id
    )
    assert isinstance(pulled, Pulled) and pulled.chunk is not None and not pulled.chunk.cursor
    assert to.apply(pulled.chunk) == DONE
    assert to.apply(Install(S0, N2, record.copy_id, 0)) == DONE
    assert to.copy(S0) == survivor.copy(S0)
    assert to.get(b"k") == Answer(Code.WRONG_GROUP, (2,)), "not before the group is named"
    to.apply(configure(renamed(history.configs[-1])))
    assert to.get(b"k") == row(b"v", 1)
    assert to.open() > SESSIONS_SKIPPED, "one that was lost was opened for somebody"
    assert to.apply(put(1, 4, b"k", b"w")) == ok(3 * RECOVERED_BEGINS + 1), "2 was another value"
    assert todo(N2, survivor.machine.unsettled, survivor.machine.changes, recovered=N3) == (
        Ask(S0, N2, B),
    )
    assert survivor.apply(Drop(S0, N2)) == DONE
    survivor.restart()


def test_a_group_that_was_leaving_when_it_was_lost_serves_nothing_that_it_forgot_to_freeze() -> (
    None
):
    """It takes part no more, so the configuration names it only as one that shards come from: they
    may be in elsewhere, by a freeze that the survivor lacks (S1)."""
    history = History()
    survivor = Group(A)
    survivor.machine.be(OLD)
    survivor.apply(configure(history.then(A, A, B, B)))
    survivor.open(S0)
    survivor.apply(put(1, 1, b"k", b"v"))
    survivor.apply(configure(history.then(B, B, B, B)))
    assert survivor.machine.record(S0).phase is Phase.MOVING
    assert survivor.get(b"k") == row(b"v", 1), "it is served, by the group that it was"

    survivor.machine.be(NEW)

    assert survivor.get(b"k") == Answer(Code.WRONG_GROUP, (2,))
    steps = todo(N2, survivor.machine.unsettled, survivor.machine.changes, recovered=N3)
    assert steps == tuple(Renew(shard, N2, N3, arriving=False) for shard in (S0, S1))
    survivor.restart()


def test_ids_of_copies_rise_over_recoveries_though_indexes_come_again() -> None:
    survivor, _, _ = forgotten()
    survivor.apply(Renew(S0, N2, ConfigNumber(5), arriving=False))
    first = survivor.machine.record(S0).copy_id

    again, _, _ = forgotten()
    again.index += 7
    again.apply(Renew(S0, N2, ConfigNumber(6), arriving=False))

    assert again.machine.record(S0).copy_id > first > 2**40


def test_what_a_recovered_group_had_taken_and_forgotten_begins_anew() -> None:
    """The source has dropped it, and says so; before that it says nothing of the kind."""
    history = History()
    group, source = Group(A), Group(B)
    group.machine.be(OLD)
    for config in (history.then(A, A, B, B), history.then(A, A, A, B)):
        group.apply(configure(config))
        source.apply(configure(config))
    shard = ShardId(2)
    step = Renew(shard, N2, N3, arriving=True)
    group.machine.be(NEW)
    pull = todo(N2, group.machine.unsettled, group.machine.changes, recovered=N3)
    assert pull == (Pull(shard, N2, B, NO_COPY, b""),)
    record = source.machine.record(shard)
    assert isinstance(source.machine.pull(source.rows, shard, N2, b""), Pulled)
    source.apply(Freeze(shard, N2, record.copy_id))
    assert isinstance(source.machine.pull(source.rows, shard, N2, b""), Pulled)
    source.apply(Drop(shard, N2))
    assert source.machine.pull(source.rows, shard, N2, b"") == Answer(Code.OLD, (N2,))
    assert source.machine.pull(source.rows, shard, N3, b"").code is Code.OUT_OF_STEP  # type: ignore[union-attr]

    assert group.apply(step) == DONE
    assert group.apply(step).code is Code.OUT_OF_STEP

    assert group.machine.record(shard).phase is Phase.SERVING
    assert group.get(b"k", shard) == Answer(Code.WRONG_GROUP, (2,)), "nobody is let in before"
    assert group.machine.is_in(shard, N2)
    group.apply(configure(renamed(history.configs[-1])))
    assert group.get(b"k", shard) is ABSENT
    assert group.open(shard) > 3 * RECOVERED_BEGINS
    group.restart()


def test_a_group_that_is_what_it_was_renews_nothing() -> None:
    survivor, _, _ = forgotten()

    assert todo(N2, survivor.machine.unsettled, survivor.machine.changes) == ()
    assert survivor.apply(Renew(S1, N2, N3, arriving=False)).code is Code.OUT_OF_STEP
    assert survivor.apply(Renew(S0, N3, N3, arriving=False)).code is Code.OUT_OF_STEP
    assert survivor.apply(Renew(S0, N2, N3, arriving=True)).code is Code.OUT_OF_STEP


def test_versions_rise_though_a_shard_comes_back_before_its_group_is_named() -> None:
    """Renewed for configuration 4 it goes to B, which does not serve it before, and comes back;
    then the group is named, by configuration 4."""
    survivor, _, history = forgotten()
    to = target(history)
    survivor.apply(Renew(S0, N2, ConfigNumber(4), arriving=False))
    copy = survivor.machine.record(S0).copy_id
    pulled = survivor.machine.pull(survivor.rows, S0, N2, b"")
    assert isinstance(pulled, Pulled) and pulled.chunk is not None
    to.apply(pulled.chunk)
    to.apply(Install(S0, N2, copy, 0))
    survivor.apply(Drop(S0, N2))
    assert to.apply(put(1, 2, b"k", b"w")) == Answer(Code.WRONG_GROUP, (2,))
    for group in (to, survivor):
        group.apply(configure(history.then(A, A, B, B) if group is to else history.configs[-1]))
    copy = to.machine.record(S0).copy_id
    to.apply(Freeze(S0, N3, copy))
    pulled = to.machine.pull(to.rows, S0, N3, b"")
    assert isinstance(pulled, Pulled) and pulled.chunk is not None
    survivor.apply(pulled.chunk)
    survivor.apply(Install(S0, N3, copy, 0))

    survivor.apply(configure(renamed(history.configs[-1])))

    assert survivor.machine.number == 4
    assert survivor.apply(put(1, 2, b"k", b"w")) == ok(4 * RECOVERED_BEGINS + 1)


def test_a_group_put_back_gives_no_session_number_and_no_version_again() -> None:
    """One may have been opened since the backup: its client is told that it expired (C3). One may
    have been read: by it nothing else is written over (`if_version`)."""
    history = History()
    group = Group(A)
    group.apply(configure(history.then(A, A, B, B)))
    session = group.open(S0)
    assert group.apply(put(session, 1, b"k", b"v")) == ok(1)
    of_today = renamed(history.configs[-1])

    overlay = Overlay(group.rows)
    rewrite_group(overlay, of_today)
    group.rows.write(overlay.writes())
    group.machine.reload(group.rows)

    assert group.machine.config == of_today
    assert group.get(b"k") == row(b"v", 1)
    for shard in (S0, S1):
        assert group.open(shard) > SESSIONS_SKIPPED
    assert group.apply(put(session + 1, 1, b"k", b"x")).code is Code.SESSION_EXPIRED
    begins = of_today.number * RECOVERED_BEGINS + EPOCH
    assert group.apply(put(session, 2, b"k", b"w", if_version=1)) == ok(begins + 1)
    assert group.apply(delete(session, 3, b"k")) == ok(0)
    assert group.apply(put(session, 4, b"k", b"x")) == ok(begins + 2)
    group.restart()
    assert group.machine.record(ShardId(2)).phase is Phase.ABSENT
    assert group.copy(ShardId(2)) == {}, "nothing is made for what lies elsewhere"
