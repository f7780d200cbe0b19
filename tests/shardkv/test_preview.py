"""What a change would do is what it then does."""

import pytest

from raft.types import GroupId, NodeId
from shardctrler.commands import Change, Join, Leave, Move, RegisterNode
from shardctrler.errors import ChangeRefused
from shardctrler.types import NodeAddresses, ShardId
from shardkv.growth import Wish
from shardkv.preview import joined, moves, previewed
from tests.shardctrler.test_machine import Controller
from tests.support.controllers import group

G1, G2, G3 = GroupId(1), GroupId(2), GroupId(3)


@pytest.fixture
def controller() -> Controller:
    made = Controller()
    made.ask(Join((group(1), group(2))))
    return made


@pytest.mark.parametrize(
    "change",
    [Join((group(3),)), Leave((G1,)), Move(ShardId(0), G2), Move(ShardId(0), G1)],
    ids=["join", "leave", "move", "a move to its owner"],
)
def test_it_is_what_the_controller_does(controller: Controller, change: Change) -> None:
    view = controller.machine.view

    seen = previewed(view, change)

    assert controller.machine.view == view, "nothing is changed"
    controller.ask(change)
    assert seen == controller.machine.config()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Leave((G1, G2)), "last one"),
        (Leave((G3,)), "group 3 does not take part"),
        (Move(ShardId(99), G1), "shard"),
        (Join((group(1),)), "takes part"),
    ],
)
def test_it_refuses_what_the_controller_refuses(
    controller: Controller, change: Change, says: str
) -> None:
    with pytest.raises(ChangeRefused, match=says):
        previewed(controller.machine.view, change)


def test_moves_are_told_by_former_and_next_owner(controller: Controller) -> None:
    before = controller.machine.config()

    after = previewed(controller.machine.view, Leave((G1,)))

    assert moves(before, after) == {(G1, G2): before.shards_of(G1)}


def test_a_group_that_is_not_born_yet_can_be_looked_at(controller: Controller) -> None:
    controller.ask(RegisterNode(NodeId("s9"), NodeAddresses("s9:1", "s9:2")))
    view = controller.machine.view

    after = previewed(view, joined(view, [Wish(3, ("s9",))]))

    assert sorted(len(after.shards_of(gid)) for gid in (G1, G2, G3)) == [3, 3, 4]
