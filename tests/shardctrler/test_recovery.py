"""What a gid means changes by two commands alone: compare-and-set, numbered in the history."""

from dataclasses import replace

import pytest

from raft.disk.overlay import Overlay
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.codec import decode_config, encode_config
from shardctrler.commands import (
    NO_UUID,
    Abandon,
    Adopt,
    Answer,
    Change,
    Code,
    Join,
    JoiningGroup,
    Leave,
    Move,
    OpenSession,
    Recover,
    RegisterNode,
    Request,
    UpdateMembers,
    decode_command,
    encode_command,
)
from shardctrler.machine import SESSIONS_SKIPPED, rehome
from shardctrler.types import (
    NO_GROUP,
    RETIRED,
    Directory,
    GroupInfo,
    GroupMember,
    GroupRecord,
    NodeAddresses,
    ShardId,
    View,
)
from tests.shardctrler.test_machine import Controller, ok
from tests.support.controllers import group

G1, G2, G3 = (GroupId(gid) for gid in (1, 2, 3))
NEW = GroupUuid(b"n" * 16)
HERE = GroupMember(NodeId("s1b"), "s1b")


def uuid(gid: int) -> GroupUuid:
    return group(gid).uuid


@pytest.fixture
def controller() -> Controller:
    """Groups 1 and 2 take part, in configuration 1."""
    made = Controller()
    assert made.ask(Join((group(1), group(2)))) == ok(1)
    return made


def recover(gid: int = 1, expected: GroupUuid | None = None, new: GroupUuid = NEW) -> Recover:
    return Recover(GroupId(gid), expected or uuid(gid), new, HERE)


def abandon(gid: int = 1, **kept: int) -> Abandon:
    pairs = tuple((ShardId(int(name[1:])), GroupId(held)) for name, held in kept.items())
    return Abandon(GroupId(gid), uuid(gid), pairs, ())


def test_a_recovered_group_keeps_its_shards_under_another_uuid(controller: Controller) -> None:
    before = controller.machine.config()

    assert controller.ask(recover()) == ok(2)

    after = controller.machine.config()
    assert after.shards == before.shards == after.previous
    assert (after.groups[G1].uuid, after.groups[G1].members) == (NEW, (HERE,))
    assert controller.machine.config(1) == before, "history never changes (S6)"
    assert controller.ask(recover()) == ok(2), "said again: done"
    assert decode_config(encode_config(after)) == after


def test_of_two_recoveries_the_second_is_refused(controller: Controller) -> None:
    assert controller.ask(recover()) == ok(2)

    assert controller.ask(recover(new=GroupUuid(b"o" * 16))) == Answer(Code.UUID_CHANGED, (1,))
    assert controller.ask(recover(expected=NEW, new=uuid(2))) == Answer(Code.UUID_DIFFERS, (1,))
    assert controller.ask(recover(expected=NEW, new=RETIRED)) == Answer(Code.UUID_DIFFERS, (1,))
    assert controller.ask(recover(7)) == Answer(Code.UNKNOWN_GROUP, (7,))
    assert controller.machine.config().number == 2


def test_the_group_that_was_says_nothing_any_more(controller: Controller) -> None:
    """However far its lost log had come; and the new one's members count from the first on."""
    late = UpdateMembers(G1, 10**6, (HERE,), uuid(1))
    assert controller.ask(late).code is Code.OK
    controller.ask(recover())

    assert controller.ask(late._replace(version=10**7)) == Answer(Code.UUID_DIFFERS, (1,))
    grown = UpdateMembers(G1, 5, (HERE, GroupMember(NodeId("s9"), "s9")), NEW)
    assert controller.ask(grown).code is Code.OK
    assert len(controller.machine.view.directory.members(G1)) == 2


def test_an_abandoned_group_s_shards_are_lost_and_begin_elsewhere(controller: Controller) -> None:
    before = controller.machine.config()
    owned, others = before.shards_of(G1), before.shards_of(G2)

    assert controller.ask(abandon()) == ok(2)

    after = controller.machine.config()
    assert (after.abandoned, after.lost) == ((G1,), owned)
    assert set(after.shards) == {G2}
    assert all(after.previous[shard] == NO_GROUP for shard in owned), "nobody is asked for rows"
    assert all(after.previous[shard] == G2 for shard in others)
    assert not after.departed
    assert decode_config(encode_config(after)) == after
    assert controller.ask(Join((group(1),))) == Answer(Code.UUID_DIFFERS, (1,))
    assert controller.ask(abandon()) == Answer(Code.UNKNOWN_GROUP, (1,))
    assert controller.ask(recover()) == Answer(Code.UNKNOWN_GROUP, (1,))
    assert controller.ask(Join((group(3),))) == ok(3)
    later = controller.machine.config()
    assert (later.abandoned, later.lost) == ((), ()), "said once"


def test_a_gid_that_was_given_up_means_no_group_whoever_names_it(controller: Controller) -> None:
    """Not by the uuid that stands in the place of its own either, nor by members without one."""
    controller.ask(abandon())
    before = controller.machine.view

    nobody = JoiningGroup(G1, RETIRED, (HERE,))
    assert controller.ask(Join((nobody,))) == Answer(Code.UUID_DIFFERS, (1,))
    assert controller.ask(Join((nobody._replace(gid=G3),))) == Answer(Code.UUID_DIFFERS, (3,))
    for named in (NO_UUID, RETIRED, uuid(1)):
        late = UpdateMembers(G1, 10**6, (HERE,), named)
        assert controller.ask(late) == Answer(Code.UNKNOWN_GROUP, (1,))

    assert controller.machine.view == before


def test_a_shard_that_never_left_is_kept_where_it_is(controller: Controller) -> None:
    kept = controller.machine.config().shards_of(G1)[0]

    assert controller.ask(abandon(**{f"s{kept}": 2})) == ok(2)

    after = controller.machine.config()
    assert kept not in after.lost
    assert (after.shards[kept], after.previous[kept]) == (G2, G2)


def test_a_group_that_had_left_is_given_up_too(controller: Controller) -> None:
    """Its shards were on their way from it."""
    controller.ask(Leave((G1,)))

    awaited = (ShardId(3), ShardId(1))
    assert controller.ask(Abandon(G1, uuid(1), (), awaited)) == ok(3)

    after = controller.machine.config()
    assert (after.abandoned, after.lost) == ((G1,), (1, 3))
    assert set(after.shards) == set(after.previous) == {G2}


REFUSED = [
    pytest.param(
        Abandon(G1, NEW, (), ()), Answer(Code.UUID_CHANGED, (1,)), id="means another by now"
    ),
    pytest.param(
        Abandon(G1, uuid(1), ((ShardId(0), G3),), ()),
        Answer(Code.UNKNOWN_GROUP, (3,)),
        id="kept by nobody",
    ),
    pytest.param(
        Abandon(G1, uuid(1), ((ShardId(0), G1),), ()),
        Answer(Code.UNKNOWN_GROUP, (1,)),
        id="kept by itself",
    ),
    pytest.param(
        Abandon(G1, uuid(1), (), (ShardId(10),)),
        Answer(Code.SHARD_OUT_OF_RANGE, (10, 9)),
        id="no such shard",
    ),
]


@pytest.mark.parametrize(("change", "answer"), REFUSED)
def test_what_is_refused_changes_nothing(
    controller: Controller, change: Change, answer: Answer
) -> None:
    before = controller.machine.view

    assert controller.ask(change) == answer

    assert controller.machine.view == before


def test_the_last_group_is_not_given_up(controller: Controller) -> None:
    """Its shards would have nowhere to go: let another group join first."""
    controller.ask(abandon())

    last = Abandon(G2, uuid(2), (), ())
    assert controller.ask(last) == Answer(Code.LAST_GROUP, (2,))


def test_commands_are_read_as_they_were_written(controller: Controller) -> None:

    for change in (
        recover(),
        Abandon(G1, uuid(1), ((ShardId(1), G2),), (ShardId(2),)),
        UpdateMembers(G1, 3, (HERE,)),
        UpdateMembers(G1, 3, (HERE,), NEW),
    ):
        request = Request(1, 2, 1, change)
        assert decode_command(encode_command(request)) == request


# When the controller's own majority is lost


def behind(*lost: Change) -> tuple[Controller, Controller]:
    """The controller as it was with entries that were lost, and its survivor without them."""
    was, survivor = Controller(), Controller()
    for controller in (was, survivor):
        assert controller.ask(Join((group(1), group(2)))) == ok(1)
    for change in lost:
        assert was.ask(change).code is Code.OK
    return was, survivor


def test_a_survivor_takes_over_what_it_lacked_page_by_page() -> None:
    was, survivor = behind(
        Move(ShardId(0), G2), Join((group(3),)), RegisterNode(NodeId("n9"), NodeAddresses("a", "b"))
    )
    known = was.machine.view
    assert known.config.number == 3 and survivor.machine.view.config.number == 1

    for number in (2, 3):
        page = Adopt(View(was.machine.config(number), known.directory))
        assert survivor.ask(page) == ok(number)
        assert survivor.ask(page) == ok(number), "said again"

    now = survivor.machine.view
    assert now.config == known.config
    assert survivor.machine.config(2) == was.machine.config(2)
    assert (now.directory.groups, now.directory.nodes) == (
        known.directory.groups,
        known.directory.nodes,
    )
    assert now.directory.version > known.directory.version + 1000, "some know versions after it"
    assert survivor.ask(Leave((G3,))) == ok(4)
    assert survivor.restarted().view == survivor.machine.view


def test_where_no_configuration_is_lacking_the_directory_is_still_taken_over() -> None:
    """Nodes believe no earlier version of it than the last that they heard."""
    was, survivor = behind(RegisterNode(NodeId("n9"), NodeAddresses("a", "b")))
    known = was.machine.view

    assert survivor.ask(Adopt(known)) == ok(1)

    assert survivor.machine.view.directory.nodes == known.directory.nodes
    assert survivor.machine.view.directory.version > known.directory.version


def test_what_a_survivor_knows_better_stays() -> None:
    """An entry that the lost majority had not heard of, and that is committed now."""
    was, survivor = behind()
    own = RegisterNode(NodeId("n8"), NodeAddresses("c", "d"))
    assert survivor.ask(own).code is Code.OK

    assert survivor.ask(Adopt(was.machine.view)) == ok(1)

    assert NodeId("n8") in survivor.machine.view.directory.nodes


def test_no_session_number_is_given_twice() -> None:
    was, survivor = behind()
    given = was.tell(OpenSession()).facts[0]

    assert survivor.ask(Adopt(was.machine.view)) == ok(1)

    assert survivor.tell(OpenSession()).facts[0] > given + 1000


def test_a_configuration_of_another_history_is_refused() -> None:
    was, survivor = behind(Move(ShardId(0), G2), Move(ShardId(0), G1), Move(ShardId(2), G2))
    directory = was.machine.view.directory

    def adopt(number: int) -> Answer:
        return survivor.ask(Adopt(View(was.machine.config(number), directory)))

    assert adopt(3) == Answer(Code.CONFIG_CHANGED, (1,)), "one is missing between"
    assert adopt(2) == ok(2)
    assert survivor.ask(Move(ShardId(4), G2)) == ok(3)
    assert adopt(3) == Answer(Code.HISTORY_DIFFERS, (3,)), "that number was given again"
    before = survivor.machine.view
    assert adopt(4) == Answer(Code.HISTORY_DIFFERS, (4,)), "it follows another"
    assert survivor.machine.view == before


def test_groups_that_the_later_directory_does_not_name_are_kept() -> None:
    """A gid means one group for ever: what the survivor knows, and what the page itself names."""
    was, survivor = behind(Join((group(3),)))
    assert survivor.ask(UpdateMembers(G2, 7, (HERE,))).code is Code.OK
    mine = survivor.machine.view.directory
    bare = Directory(mine.version + 5, {G1: mine.groups[G1]}, mine.nodes)

    assert survivor.ask(Adopt(View(was.machine.config(2), bare))) == ok(2)

    groups = survivor.machine.view.directory.groups
    assert (groups[G1], groups[G2]) == (mine.groups[G1], GroupRecord(uuid(2), 7, (HERE,)))
    info = was.machine.config(2).groups[G3]
    assert groups[G3] == GroupRecord(info.uuid, 0, info.members), "of no version yet"


def test_a_page_of_another_number_of_shards_is_refused() -> None:
    was, survivor = behind()
    newest, directory = was.machine.view
    fewer = replace(newest, shards=newest.shards[:-1], previous=newest.previous[:-1])

    assert survivor.ask(Adopt(View(fewer, directory))) == Answer(Code.BAD_COMMAND)


def test_to_adopt_travels_whole() -> None:
    was, _ = behind(Join((group(3),)), Leave((G3,)))
    request = Request(1, 2, 2, Adopt(was.machine.view))

    assert decode_command(encode_command(request)) == request


# Put back from a backup


def test_a_controller_put_back_names_the_groups_of_today_and_keeps_its_history(
    controller: Controller,
) -> None:
    old, new = NodeId("old"), NodeId("new")
    controller.ask(RegisterNode(old, NodeAddresses("a:1", "a:2")))
    controller.ask(Leave((G2,)))
    before = controller.machine.view
    history = [controller.machine.config(n).shards for n in range(before.config.number + 1)]
    born, here = GroupInfo(NEW, (HERE,)), {new: NodeAddresses("b:1", "b:2")}

    overlay = Overlay(controller.rows)
    newest = rehome(overlay, {G1: born}, here)
    controller.rows.write(overlay.writes())
    controller.machine = controller.restarted()

    view = controller.machine.view
    assert (newest, view.config.number) == (view.config, before.config.number + 1)
    assert view.config.shards == history[-1], "it only tells that all was put back"
    assert view.directory.version > before.directory.version, "who watches hears of it"
    assert dict(view.directory.nodes) == here
    assert dict(view.config.groups) == {G1: born}
    assert [controller.machine.config(n).shards for n in range(len(history))] == history
    assert view.directory.groups[G1] == GroupRecord(NEW, 0, (HERE,))
    gone = view.directory.groups[G2]
    assert (gone.uuid, gone.members) == (uuid(2), ()), "its gid means what it meant, and nobody"
    assert controller.tell(OpenSession()) == ok(controller.session + SESSIONS_SKIPPED + 1)
    forgotten = Request(controller.session + 1, 1, 1, Leave((G1,)))
    assert controller.tell(forgotten) == Answer(Code.SESSION_EXPIRED)
