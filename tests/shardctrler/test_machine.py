"""The controller's machine: what each change makes, what is refused, and that history stays."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from raft.disk.overlay import Overlay
from raft.errors import StopReplica
from raft.types import GroupId, Index, NodeId
from shardctrler.codec import decode_config, decode_view, encode_config, encode_view
from shardctrler.commands import (
    Answer,
    Change,
    CloseSession,
    Code,
    Command,
    ExpireSessions,
    ForgetNode,
    Join,
    Leave,
    Move,
    OpenSession,
    RegisterNode,
    Request,
    UpdateMembers,
    decode_answer,
    decode_command,
    encode_answer,
    encode_command,
)
from shardctrler.machine import ControllerMachine
from shardctrler.types import (
    ConfigNumber,
    Directory,
    GroupMember,
    NodeAddresses,
    ShardId,
    first_config,
)
from tests.support.controllers import group
from tests.support.memory_rows import MemoryRows

NSHARDS = 10


class Controller:
    """One replica of the machine, its rows, and a client with a session."""

    def __init__(self, *, last_may_leave: bool = False, groups_max: int = 64) -> None:
        self.rows = MemoryRows()
        self.make: Callable[[], ControllerMachine] = lambda: ControllerMachine(
            NSHARDS, last_may_leave=last_may_leave, groups_max=groups_max
        )
        self.machine = self.make()
        self.machine.reload(self.rows)
        self.index = 0
        self.session = self.tell(OpenSession()).facts[0]
        self.seq = 0

    def tell(self, *commands: Command) -> Answer:
        """Apply one entry of these commands; returns the last one's answer."""
        self.index += 1
        overlay = Overlay(self.rows)
        for command in commands:
            answer = self.machine.apply(Index(self.index), encode_command(command), overlay)
        self.rows.write(overlay.writes())
        return answer

    def ask(self, change: Change, expect: int | None = None) -> Answer:
        self.seq += 1
        number = None if expect is None else ConfigNumber(expect)
        return self.tell(Request(self.session, self.seq, self.seq, change, number))

    def join(self, *numbers: int) -> Answer:
        return self.ask(Join(tuple(group(number) for number in numbers)))

    def leave(self, *numbers: int) -> Answer:
        return self.ask(Leave(tuple(GroupId(number) for number in numbers)))

    def move(self, shard: int, gid: int) -> Answer:
        return self.ask(Move(ShardId(shard), GroupId(gid)))

    @property
    def shards(self) -> Sequence[int]:
        return self.machine.view.config.shards

    def restarted(self) -> ControllerMachine:
        machine = self.make()
        machine.reload(self.rows)
        return machine


@pytest.fixture
def controller() -> Controller:
    return Controller()


def ok(number: int) -> Answer:
    return Answer(Code.OK, (number,))


def test_configuration_0_has_no_groups_and_every_shard_unowned(controller: Controller) -> None:
    config = controller.machine.config()

    assert config == first_config(NSHARDS)
    assert (config.number, config.shards, dict(config.groups)) == (0, (0,) * NSHARDS, {})


def test_each_change_makes_exactly_one_configuration(controller: Controller) -> None:
    assert controller.join(1) == ok(1)
    assert controller.join(2, 3) == ok(2)
    assert controller.leave(1, 3) == ok(3)
    assert controller.move(0, 2) == ok(3), "to its own owner: done, and nothing to change"
    assert controller.join(1) == ok(4)
    other = 3 - controller.shards[0]
    assert controller.move(0, other) == ok(5)

    assert controller.shards[0] == other
    assert Counter(controller.shards) in (Counter({1: 6, 2: 4}), Counter({1: 4, 2: 6}))


def test_a_move_is_undone_by_the_next_join_as_far_as_balance_asks(controller: Controller) -> None:
    controller.join(1, 2)
    for shard in range(NSHARDS):
        controller.move(shard, 1)
    assert Counter(controller.shards) == {1: 10}

    controller.join(3)

    assert sorted(Counter(controller.shards).values()) == [3, 3, 4]


def test_history_never_changes(controller: Controller) -> None:
    """Invariant S6: a page is the same for ever, to every reader, also after a restart."""
    pages = [controller.machine.config()]
    steps: list[Callable[[], Answer]] = [
        lambda: controller.join(1),
        lambda: controller.join(2, 3),
        lambda: controller.move(4, 3),
        lambda: controller.leave(2),
        lambda: controller.join(2),
    ]
    for step in steps:
        before = dict(controller.rows.map)
        step()
        pages.append(controller.machine.config())
        written = {key for key in before if key[:1] == b"c"}
        assert all(controller.rows.map[key] == before[key] for key in written)

    for machine in (controller.machine, controller.restarted()):
        assert [machine.config(number) for number in range(len(pages))] == pages
    assert [page.number for page in pages] == list(range(6))


@pytest.mark.parametrize("number", [None, -1, 2, 3, 2**63 - 1])
def test_query_answers_the_newest_for_none_minus_one_and_beyond(
    controller: Controller, number: int | None
) -> None:
    controller.join(1)
    controller.join(2)

    assert controller.machine.config(number).number == 2


def test_a_configuration_names_where_each_shard_was_last(controller: Controller) -> None:
    """A shard given to nobody is parked where it is; the previous owner is the last one that was
    somebody, and it stays findable after it left."""
    labs = Controller(last_may_leave=True)
    labs.join(1)
    labs.join(2)
    second = labs.machine.config()
    assert second.previous == (1,) * NSHARDS

    labs.leave(1, 2)
    parked = labs.machine.config()
    assert parked.shards == (0,) * NSHARDS
    assert parked.previous == second.shards
    assert list(parked.departed) == [1, 2]

    labs.join(3)
    third = labs.machine.config()
    assert third.shards == (3,) * NSHARDS
    assert third.previous == second.shards, "not 0, who never held anything"
    departed = third.group(GroupId(1))
    assert departed is not None and departed.members == group(1).members

    labs.join(4)
    assert set(labs.machine.config().previous) == {3}
    assert labs.machine.config().group(GroupId(1)) is None, "nothing leaves it any more"


REFUSED: list[tuple[str, Change, Answer]] = [
    ("gid 0", Join((group(7)._replace(gid=GroupId(0)),)), Answer(Code.GROUP_ID_OUT_OF_RANGE, (0,))),
    (
        "gid -1",
        Join((group(7)._replace(gid=GroupId(-1)),)),
        Answer(Code.GROUP_ID_OUT_OF_RANGE, (-1,)),
    ),
    ("a group that takes part", Join((group(1),)), Answer(Code.ALREADY_JOINED, (1,))),
    ("one new group and one old", Join((group(9), group(1))), Answer(Code.ALREADY_JOINED, (1,))),
    ("no group", Join(()), Answer(Code.NOTHING_ASKED)),
    ("a group twice", Join((group(7), group(7))), Answer(Code.NOTHING_ASKED)),
    ("no members", Join((group(7)._replace(members=()),)), Answer(Code.NO_MEMBERS, (7,))),
    (
        "another group under a gid that left",
        Join((group(3)._replace(uuid=group(8).uuid),)),
        Answer(Code.UUID_DIFFERS, (3,)),
    ),
    (
        "one group under two gids",
        Join((group(7)._replace(uuid=group(1).uuid),)),
        Answer(Code.UUID_DIFFERS, (7,)),
    ),
    (
        "one new group under two gids",
        Join((group(7), group(8)._replace(uuid=group(7).uuid))),
        Answer(Code.UUID_DIFFERS, (8,)),
    ),
    (
        "more than 4 groups",
        Join((group(7), group(8), group(9))),
        Answer(Code.TOO_MANY_GROUPS, (4,)),
    ),
    ("leave of nobody", Leave(()), Answer(Code.NOTHING_ASKED)),
    ("leave twice", Leave((GroupId(1), GroupId(1))), Answer(Code.NOTHING_ASKED)),
    ("leave of a stranger", Leave((GroupId(9),)), Answer(Code.UNKNOWN_GROUP, (9,))),
    ("leave of one that left", Leave((GroupId(3),)), Answer(Code.UNKNOWN_GROUP, (3,))),
    ("leave of gid 0", Leave((GroupId(0),)), Answer(Code.UNKNOWN_GROUP, (0,))),
    ("leave of everybody", Leave((GroupId(1), GroupId(2))), Answer(Code.LAST_GROUP, (2,))),
    ("shard -1", Move(ShardId(-1), GroupId(1)), Answer(Code.SHARD_OUT_OF_RANGE, (-1, 9))),
    ("shard N", Move(ShardId(10), GroupId(1)), Answer(Code.SHARD_OUT_OF_RANGE, (10, 9))),
    ("move to a stranger", Move(ShardId(0), GroupId(9)), Answer(Code.UNKNOWN_GROUP, (9,))),
    ("move to nobody", Move(ShardId(0), GroupId(0)), Answer(Code.UNKNOWN_GROUP, (0,))),
    (
        "members of a stranger",
        UpdateMembers(GroupId(9), 5, group(9).members),
        Answer(Code.UNKNOWN_GROUP, (9,)),
    ),
    ("no members any more", UpdateMembers(GroupId(1), 5, ()), Answer(Code.NO_MEMBERS, (1,))),
    (
        "members of before",
        UpdateMembers(GroupId(2), 3, group(7).members),
        Answer(Code.OLD_MEMBERSHIP, (2, 4)),
    ),
    (
        "other members under the same version",
        UpdateMembers(GroupId(2), 4, group(7).members),
        Answer(Code.OLD_MEMBERSHIP, (2, 4)),
    ),
]


@pytest.mark.parametrize(
    ("change", "answer"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
def test_a_refusal_is_an_answer_and_changes_nothing(change: Change, answer: Answer) -> None:
    """Bad input: Nothing but the session that records the answer is written."""
    controller = Controller(groups_max=4)
    controller.join(1, 2, 3)
    controller.leave(3)
    controller.ask(UpdateMembers(GroupId(2), 4, group(2).members))
    view = controller.machine.view
    before = {key: row for key, row in controller.rows.map.items() if key[:1] != b"s"}

    assert controller.ask(change) == answer

    assert controller.machine.view == view
    assert {key: row for key, row in controller.rows.map.items() if key[:1] != b"s"} == before


def test_the_labs_let_the_last_group_leave() -> None:
    labs = Controller(last_may_leave=True)
    labs.join(1)

    assert labs.leave(1) == ok(2)

    assert labs.shards == (0,) * NSHARDS


def test_at_most_64_groups_take_part(controller: Controller) -> None:
    for number in range(1, 65):
        controller.join(number)

    assert controller.join(65) == Answer(Code.TOO_MANY_GROUPS, (64,))
    assert Counter(Counter(controller.shards).values()) == {1: NSHARDS}


def test_of_two_administrators_who_expect_the_same_configuration_one_is_told(
    controller: Controller,
) -> None:
    """Safeguard F31, bad input: compare and set by the configuration's number."""
    controller.join(1)

    assert controller.ask(Join((group(2),)), expect=1) == ok(2)
    assert controller.ask(Join((group(3),)), expect=1) == Answer(Code.CONFIG_CHANGED, (2,))
    assert list(controller.machine.config().groups) == [1, 2]


def test_a_repeated_change_is_answered_and_not_carried_out_again(controller: Controller) -> None:
    request = Request(controller.session, 1, 1, Join((group(1),)))
    assert controller.tell(request) == ok(1)
    controller.seq = 1
    controller.leave(1)
    controller.join(2)

    assert controller.tell(request) == Answer(Code.SEQUENCE_STALE)
    again = Request(controller.session, controller.seq, controller.seq, Join((group(2),)))
    assert controller.tell(again) == ok(2)
    assert controller.machine.config().number == 2


def test_a_refusal_is_recorded_too(controller: Controller) -> None:
    """Scorecard H06: a repetition gets the first answer even if it would succeed by now."""
    refused = Request(controller.session, 1, 1, Move(ShardId(0), GroupId(2)))
    assert controller.tell(refused) == Answer(Code.UNKNOWN_GROUP, (2,))
    other = controller.tell(OpenSession()).facts[0]
    controller.tell(Request(other, 1, 1, Join((group(1), group(2)))))

    assert controller.tell(refused) == Answer(Code.UNKNOWN_GROUP, (2,))


def test_what_the_session_refuses(controller: Controller) -> None:
    session, change = controller.session, Join((group(1),))
    controller.tell(Request(session, 1, 1, change))

    def answer(session: int, seq: int, change: Change) -> Answer:
        return controller.tell(Request(session, seq, 1, change))

    assert answer(session, 1, Join((group(2),))) == Answer(Code.SEQUENCE_REUSED)
    assert answer(session, 65, change) == Answer(Code.SEQUENCE_OVER_WINDOW, (64,))
    assert answer(session + 1, 1, change) == Answer(Code.SESSION_EXPIRED)
    assert controller.machine.config().number == 1


def test_the_same_change_with_another_expectation_is_another_change(
    controller: Controller,
) -> None:
    change = Join((group(1),))
    controller.tell(Request(controller.session, 1, 1, change))

    answer = controller.tell(Request(controller.session, 1, 1, change, ConfigNumber(0)))

    assert answer == Answer(Code.SEQUENCE_REUSED)


def test_commands_of_one_entry_see_each_other(controller: Controller) -> None:
    """Scorecard H07."""
    session = controller.session
    answer = controller.tell(
        Request(session, 1, 1, Join((group(1),))),
        Request(session, 2, 1, Join((group(2),)), ConfigNumber(1)),
        Request(session, 3, 1, Join((group(2),)), ConfigNumber(2)),
    )

    assert answer == Answer(Code.ALREADY_JOINED, (2,))
    assert controller.machine.config().number == 2
    assert controller.restarted().config(1).groups.keys() == {1}


def test_idle_and_closed_sessions_end(controller: Controller) -> None:
    controller.join(1)
    idle = controller.tell(OpenSession()).facts[0]
    seen = controller.machine.survey_sessions()
    assert seen == {controller.session: 1, idle: 0}
    controller.join(2)

    controller.tell(ExpireSessions(tuple(seen.items())))
    assert controller.machine.survey_sessions() == {controller.session: 2}

    controller.tell(CloseSession(controller.session))
    assert controller.machine.survey_sessions() == {}
    assert controller.join(3) == Answer(Code.SESSION_EXPIRED)


def test_the_directory_follows_members_and_nodes_without_a_new_configuration(
    controller: Controller,
) -> None:
    controller.join(1)
    config = controller.machine.config()
    moved = (GroupMember(NodeId("s9"), "s9:1"), *group(1).members[1:])

    assert controller.ask(UpdateMembers(GroupId(1), 1, moved)) == ok(1)
    addresses = NodeAddresses("s9:2", "s9:3")
    assert controller.ask(RegisterNode(NodeId("s9"), addresses)) == ok(1)

    directory = controller.machine.view.directory
    assert directory.version == 3
    assert directory.members(GroupId(1)) == (GroupMember(NodeId("s9"), "s9:2"), *moved[1:])
    assert directory.members(GroupId(2)) == ()
    assert controller.machine.config() == config, "a page of the history never changes"
    controller.join(2)
    now = controller.machine.config().groups[GroupId(1)].members
    assert now == directory.members(GroupId(1)), "the next page knows"


def test_a_repetition_says_too_what_its_client_waits_for_no_more(controller: Controller) -> None:
    one, two = (Join((group(number),)) for number in (1, 2))
    for seq, change in ((1, one), (2, two)):
        assert controller.tell(Request(controller.session, seq, 1, change)) == ok(seq)

    assert controller.tell(Request(controller.session, 2, 2, two)) == ok(2)

    again = controller.tell(Request(controller.session, 1, 1, one))
    assert again == Answer(Code.SEQUENCE_STALE)


def test_an_installed_snapshot_brings_its_own_sessions() -> None:
    """What this replica had read of them before is of rows that are no more."""
    behind, ahead = Controller(), Controller()
    for controller in (behind, ahead):
        assert controller.join(1) == ok(1)
    assert ahead.join(2) == ok(2)

    behind.rows.write(list(ahead.rows.range(b"", b"\xff")))
    behind.machine.reload(behind.rows)

    assert behind.join(2) == ok(2), "repeated: answered before, by what the snapshot says"
    assert behind.machine.view == ahead.machine.view


def test_a_node_is_forgotten_once_no_group_has_a_member_there(controller: Controller) -> None:
    controller.join(1)
    here, gone = group(1).members[0].node, NodeId("gone")
    for node in (here, gone):
        controller.ask(RegisterNode(node, NodeAddresses("a:1", "a:2")))

    assert controller.ask(ForgetNode(here)) == Answer(Code.NODE_IS_MEMBER, (1,))
    assert controller.ask(ForgetNode(gone)) == ok(1)
    assert list(controller.machine.view.directory.nodes) == [here]
    version = controller.machine.view.directory.version
    assert controller.ask(ForgetNode(gone)) == ok(1), "said again"
    assert controller.machine.view.directory.version == version
    view = controller.machine.view
    controller.machine.reload(controller.rows)
    assert controller.machine.view == view, "its row is gone too"


def test_saying_again_what_is_known_is_done_and_no_news(controller: Controller) -> None:
    controller.join(1)
    addresses = NodeAddresses("a:1", "a:2")
    controller.ask(RegisterNode(NodeId("a"), addresses))
    version = controller.machine.view.directory.version

    controller.ask(RegisterNode(NodeId("a"), addresses))
    controller.ask(UpdateMembers(GroupId(1), 0, group(1).members))

    assert controller.machine.view.directory.version == version


def test_a_group_that_comes_back_does_not_bring_back_older_members(controller: Controller) -> None:
    controller.join(1, 2)
    newer = group(1, nodes=["new"], version=3)
    controller.ask(UpdateMembers(GroupId(1), 3, newer.members))
    controller.leave(1)

    controller.join(1)

    assert controller.machine.config().groups[GroupId(1)].members == newer.members


def test_watchers_hear_of_changes_and_of_nothing_else(controller: Controller) -> None:
    heard: list[int] = []
    controller.machine.on_change = lambda: heard.append(controller.machine.view.config.number)

    controller.join(1)
    controller.join(1)
    controller.move(0, 1)
    controller.join(2)

    assert heard == [1, 2]


def test_replicas_agree_whatever_order_the_groups_are_named_in() -> None:
    """Scorecard F18: equal rows, byte for byte."""
    one, other = Controller(), Controller()

    for numbers in ((3, 1, 2), (5, 4)):
        one.join(*numbers)
        other.join(*sorted(numbers))
    one.leave(5, 1)
    other.leave(1, 5)

    def configs(controller: Controller) -> list[bytes]:
        return [encode_config(controller.machine.config(number)) for number in range(4)]

    assert configs(one) == configs(other)


def test_a_restart_reads_what_was_written(controller: Controller) -> None:
    controller.join(1, 2)
    controller.ask(RegisterNode(NodeId("a"), NodeAddresses("a:1", "a:2", "a:3")))
    controller.leave(2)

    assert controller.restarted().view == controller.machine.view


def test_rows_for_another_number_of_shards_or_of_a_newer_format_stop_the_replica(
    controller: Controller,
) -> None:
    controller.join(1)

    with pytest.raises(StopReplica, match="10 shards, not 12"):
        ControllerMachine(12).reload(controller.rows)
    controller.rows.put(b"m", b"\x02" + controller.rows.map[b"m"][1:])
    with pytest.raises(StopReplica, match="format"):
        controller.restarted()


def test_bytes_that_are_no_command_are_answered(controller: Controller) -> None:
    for data in (b"", b"\xff", b"\x93\x01\x63\x90", b"\x93\x01\x01\x90", b"\x92\x01\x02"):
        answer = controller.machine.apply(Index(9), data, controller.rows)
        assert answer == Answer(Code.BAD_COMMAND), data


def test_a_command_of_a_newer_format_stops_the_replica(controller: Controller) -> None:
    with pytest.raises(StopReplica):
        controller.machine.apply(Index(9), b"\x93\x02\x02\x90", controller.rows)


COMMANDS: list[Command] = [
    OpenSession(),
    CloseSession(3),
    ExpireSessions(((1, 2), (3, 2**63 - 1))),
    Request(1, 2, 2, Join((group(1), group(2, nodes=["a"], version=9))), ConfigNumber(0)),
    Request(1, 2, 1, Leave((GroupId(-5), GroupId(2**63 - 1)))),
    Request(1, 2, 1, Move(ShardId(-1), GroupId(0))),
    Request(1, 2, 1, UpdateMembers(GroupId(1), 2, group(1).members)),
    Request(1, 2, 1, RegisterNode(NodeId("ü"), NodeAddresses("a", "", "b"))),
    Request(1, 2, 1, ForgetNode(NodeId("ü"))),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_commands_are_read_as_they_were_written(command: Command) -> None:
    assert decode_command(encode_command(command)) == command


@pytest.mark.parametrize("code", list(Code))
def test_answers_are_small_and_read_as_they_were_written(code: Code) -> None:
    answer = Answer(code, (2**63 - 1, -(2**63)))

    data = encode_answer(answer)

    assert len(data) <= 64
    assert decode_answer(data) == answer


def test_views_are_read_as_they_were_written() -> None:
    labs = Controller(last_may_leave=True)
    labs.join(1, 2)
    labs.ask(RegisterNode(NodeId("a"), NodeAddresses("a:1", "a:2", "a:3")))
    labs.leave(1, 2)
    view = labs.machine.view

    assert decode_view(encode_view(view)) == view
    assert decode_config(encode_config(view.config)) == view.config
    assert view.directory != Directory()
