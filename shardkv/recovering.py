"""An operator's way out when a majority is lost: asks every node, decides, tells the controller.

Each step may be cut off and begun again. What was decided stands in the controller's log: a second
`apply` finds the new uuid there, and the node where the group is to be born, and goes on from that.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple, TypeVar

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.client import ControllerClient
from shardctrler.commands import Abandon, Adopt, Recover
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import (
    NO_GROUP,
    RETIRED,
    ConfigNumber,
    GroupMember,
    GroupRecord,
    ShardConfig,
    ShardId,
    View,
)
from shardkv import admin
from shardkv.admin import BadAdmin, ReplicaStatus
from shardkv.adopting import Missed, lacking, missed
from shardkv.errors import ShardKVError, Unavailable
from shardkv.forgotten import Fates, fates
from shardkv.growth import CONTROLLER_GID, Seen, Wish, leader_of
from shardkv.operating import Operator
from shardkv.recovery import (
    LEFT,
    REBIRTH,
    RETIRE,
    STANDS,
    AskLeft,
    AskStands,
    Assessment,
    Left,
    Rebirth,
    Reborn,
    Retire,
    Retired,
    Stands,
    assess,
)

ASK_SECONDS: Final = 2.0
STEP_SECONDS: Final = 15.0
PAUSE_SECONDS: Final = 0.1
UUID_BYTES: Final = 16

Answer = TypeVar("Answer", bound=tuple[object, ...])


class RecoveryRefused(ShardKVError):
    """It must not be done, or need not; nothing was changed."""


class Losses(NamedTuple):
    """What becomes of the shards of a group that is given up."""

    kept: tuple[tuple[ShardId, GroupId], ...]  # still whole at the group that was to give them
    owned: tuple[ShardId, ...]  # that it owned, and nobody else has
    awaited: tuple[ShardId, ...]  # that were on their way from it to another group
    given_on: tuple[tuple[ShardId, GroupId], ...]
    """Of the lost ones, those of which a former owner still has rows: save them first."""
    stale: tuple[tuple[ShardId, GroupId], ...]
    """Of those that are not lost, the ones that were frozen for the group: it may have served them
    since, and what it was written then is gone."""

    @property
    def lost(self) -> tuple[ShardId, ...]:
        return tuple(sorted((*self.owned, *self.awaited)))


class Recoverer:
    """Asks and instructs the nodes of a cluster.

    Args:
        nodes: Node name -> where it takes clients' calls; every node, also those that are down.
        rng: Draws uuids: a source that nobody can guess or repeat.
    """

    def __init__(
        self,
        transport: Transport,
        nodes: Mapping[str, str],
        rng: Random,
        progress: Callable[[str], None],
    ) -> None:
        self._transport = transport
        self._nodes = dict(nodes)
        self._rng = rng
        self._progress = progress

    # Looking

    async def left(self, gid: int) -> tuple[list[Left], list[str]]:
        """What running nodes hold of a group, and the nodes that did not answer."""
        names = sorted(self._nodes)
        answers = await asyncio.gather(*(self._left(name, gid) for name in names))
        found = [answer for answer in answers if isinstance(answer, Left)]
        silent = [name for name, answer in zip(names, answers, strict=True) if answer is None]
        return found, silent

    async def _left(self, node: str, gid: int) -> Left | bool | None:
        """False: it has no replica; None: no answer."""
        try:
            return await self._ask(node, LEFT, AskLeft(gid), Left, ASK_SECONDS)
        except RpcError as error:
            return False if getattr(error, "code", "") == "NOT_FOUND" else None
        except BadAdmin:
            return None

    async def plan(
        self, gid: int, record: GroupRecord | None, directories: Iterable[Left] = ()
    ) -> Assessment:
        """What is left of a group, of the uuid that its gid means; if nothing is, of an earlier.

        Args:
            record: What the controller knows; None for the controller itself, or if it is silent.
            directories: Of nodes that do not run, as they were read.
        """
        found, silent = await self.left(gid)
        running = {one.node for one in found}
        found += [one for one in directories if one.gid == gid and one.node not in running]
        meant = [one for one in found if record is not None and one.uuid == record.uuid]
        return assess(gid, meant or found, silent)

    async def forgotten(
        self, client: ControllerClient, view: View, found: Assessment
    ) -> Fates | None:
        """Which shards a group would begin anew if it went on from the survivor of a plan.

        Returns:
            None where that cannot be said, or need not: of the controller's group, of one that
            lives, where nothing is left, and where the survivor does not answer.

        Raises:
            ShardCtrlerError: the controller does not say what the survivor has missed.
        """
        choice = found.choice
        if choice is None or found.alive or found.gid == CONTROLLER_GID:
            return None
        survivor = await self._stands(choice.node, found.gid, whole=True)
        if survivor is None or survivor.uuid != choice.uuid:
            return None
        missed = range(survivor.config_number + 1, view.config.number + 1)
        history = [await client.config(ConfigNumber(number)) for number in missed]
        seen = await Operator(self._transport, self._nodes).observe()
        others: dict[GroupId, Stands | None] = {}
        for gid, record in view.directory.groups.items():
            if gid != found.gid and record.uuid != RETIRED:
                leader = leader_of(gid, seen)
                meant = leader is not None and leader[1].uuid == record.uuid
                others[gid] = (
                    await self._stands(leader[0], gid) if leader is not None and meant else None
                )
        return fates(GroupId(found.gid), survivor, history, others)

    async def missed(self, found: Assessment) -> Missed | None:
        """What the survivor of the controller's group has missed; None of any other group, and
        where nothing is to be recovered or the survivor does not say."""
        choice = found.choice
        if found.gid != CONTROLLER_GID or choice is None or found.alive:
            return None
        survivor = await self._stands(choice.node, CONTROLLER_GID, whole=True)
        if survivor is None or survivor.uuid != choice.uuid:
            return None
        return await missed(self._transport, self._addresses, survivor.config_number)

    @property
    def _addresses(self) -> list[Address]:
        return [Address(node) for node in self._nodes.values()]

    async def _stands(self, node: str, gid: int, *, whole: bool = False) -> Stands | None:
        """None: the node does not say."""
        try:
            return await self._ask(node, STANDS, AskStands(gid, int(whole)), Stands, STEP_SECONDS)
        except (RpcError, BadAdmin):
            return None

    # Recovering

    async def apply(
        self,
        client: ControllerClient,
        gid: int,
        *,
        directories: Sequence[Left] = (),
        deadline: float,
    ) -> tuple[str, ConfigNumber]:
        """Make a new group of what is left of one that lost its majority.

        Returns:
            The node where it was born, and the configuration that names it (0: the controller's).

        Raises:
            RecoveryRefused: a majority lives, nothing is left, or more is left elsewhere.
            ChangeRefused, ShardCtrlerError: of the controller.
            Unavailable: it is decided, and not finished in time; `apply` again goes on.
        """
        if gid == CONTROLLER_GID:
            return await self._apply_controller(client, directories, deadline), ConfigNumber(0)
        view = await client.newest()
        record = view.directory.groups.get(GroupId(gid))
        if record is None or record.uuid == RETIRED:
            raise RecoveryRefused(f"the controller knows no group {gid}")
        found = await self.plan(gid, record, directories)
        decided = _decided(found, record)
        if decided is None:
            choice = choice_of(found)
            uuid = GroupUuid(self._rng.randbytes(UUID_BYTES))
            member = GroupMember(NodeId(choice.node), self._nodes[choice.node])
            number = await client.change(
                Recover(GroupId(gid), record.uuid, uuid, member), expect=view.config.number
            )
            self._progress(f"configuration {number}: group {gid} is {uuid.hex()[:8]} from here on")
        else:
            choice, uuid, number = decided, record.uuid, view.config.number
            self._progress(f"goes on: group {gid} is to be born on {choice.node}")
        await self._be_born(choice, uuid)
        await self._come_to(gid, choice.node, uuid, number, deadline)
        return choice.node, number

    async def _apply_controller(
        self, client: ControllerClient, directories: Sequence[Left], deadline: float
    ) -> str:
        """Nobody is above the controller's group: the operator's word stands alone."""
        found = await self.plan(CONTROLLER_GID, None, directories)
        leader = next((one.node for one in found.left if one.leads), "")
        if leader and await self.caught_up(client):
            return leader
        choice = choice_of(found)
        uuid = GroupUuid(self._rng.randbytes(UUID_BYTES))
        await self._be_born(choice, uuid)
        await self._come_to(CONTROLLER_GID, choice.node, uuid, 0, deadline)
        await self._take_over(client, born_now=True)
        return choice.node

    async def caught_up(self, client: ControllerClient) -> bool:
        """Finish what an `apply` of the controller's group began that was cut off after the birth;
        whether there was anything left of it."""
        try:
            return await self._take_over(client, born_now=False)
        except ShardCtrlerError:  # whoever believes that he leads cannot answer
            return False

    async def _take_over(self, client: ControllerClient, *, born_now: bool) -> bool:
        """Have the controller know again what nodes know, and its survivor did not; whether there
        was anything. What was born just now is told so in any case: there are numbers that it must
        not give again."""
        view = await client.newest()
        lacks = await lacking(self._transport, self._addresses, view)
        if not lacks and not born_now:
            return False
        directory = view.directory if lacks.directory is None else lacks.directory
        for config in lacks.configs or (view.config,):
            newest = await client.change(Adopt(View(config, directory)))
            if lacks.configs:
                self._progress(f"configuration {newest} is taken over from those who know it")
        return True

    async def _be_born(self, choice: Left, uuid: GroupUuid) -> None:
        command = Rebirth(
            choice.gid,
            choice.boot,
            choice.uuid,
            choice.replica,
            choice.last_index,
            choice.last_term,
            uuid,
        )
        await self._ask(choice.node, REBIRTH, command, Reborn, STEP_SECONDS)
        self._progress(f"group {choice.gid} is born again on {choice.node}")

    async def _come_to(
        self, gid: int, node: str, uuid: bytes, number: int, deadline: float
    ) -> None:
        """Until it leads, and serves: it has come to the configuration that names it."""
        operator = Operator(self._transport, {node: self._nodes[node]})
        loop = asyncio.get_running_loop()
        while True:
            status = (await operator.observe())[node]
            replica = status.replica(gid) if status is not None else None
            leads = replica is not None and replica.uuid == uuid and replica.leads
            if leads and replica is not None and replica.config_number >= number:
                return
            if loop.time() > deadline:
                raise Unavailable(
                    f"group {gid} is decided, and not yet at configuration {number} on {node}: it "
                    "may wait for another group; see `shardkv status`"
                )
            await asyncio.sleep(PAUSE_SECONDS)

    async def grow(self, gid: int, nodes: Sequence[str], *, deadline: float) -> None:
        """Give the group its voters on these nodes; what they hold of its former self goes."""
        found, _ = await self.left(gid)
        leader = next((one for one in found if one.leads), None)
        if leader is None:
            raise Unavailable(f"group {gid} has no leader")
        for one in found:
            if one.node in nodes and one.uuid != leader.uuid:
                retire = Retire(gid, one.boot, one.uuid, one.replica)
                await self._ask(one.node, RETIRE, retire, Retired, STEP_SECONDS)
                self._progress(f"{one.node}: its replica of the former group {gid} is deleted")
        wish = Wish(gid, (leader.node, *(node for node in nodes if node != leader.node)))
        operator = Operator(self._transport, {node: self._nodes[node] for node in wish.nodes})
        await operator.grow([wish], deadline=deadline, progress=self._progress)

    # Abandoning

    async def losses(self, client: ControllerClient, view: View, gid: int) -> Losses:
        """What would become of the shards of a group that is given up, as its peers are now.

        Raises:
            Unavailable: a group that may hold one of them has no leader, so what it holds is not
                known.
            ShardCtrlerError: the controller does not tell the history.
        """
        seen = await Operator(self._transport, self._nodes).observe()
        others = _leaders(view, gid, seen)
        silent = await self._unheard(client, view, gid, others)
        if silent is not None:
            raise Unavailable(
                f"group {silent} has no leader: what it holds must be known first. If it is lost "
                "too, recover it first"
            )
        oldest = min((status.config_number for status in others.values()), default=0)
        history = [
            await client.config(ConfigNumber(number))
            for number in range(min(oldest, view.config.number), view.config.number)
        ]
        return losses(GroupId(gid), [*history, view.config], others)

    async def _unheard(
        self,
        client: ControllerClient,
        view: View,
        gid: int,
        others: Mapping[GroupId, ReplicaStatus],
    ) -> GroupId | None:
        """A group without a leader that may hold a shard which nobody after it has taken; None:
        there is none. One that left is asked too: its shards may still be there."""
        held = {other: _holds(status) for other, status in others.items()}
        unsettled = dict.fromkeys(range(len(view.config.shards)))
        at = view.config
        while unsettled and at.number:
            for shard in list(unsettled):
                for owner in (at.shards[shard], at.previous[shard]):
                    retired = owner in (gid, NO_GROUP) or _is_retired(view, owner)
                    if not retired and owner not in held:
                        return owner
                    if not retired and shard in held[owner]:
                        unsettled.pop(shard, None)
                        break  # nobody before it has it
                else:
                    if at.previous[shard] == NO_GROUP:
                        del unsettled[shard]
            if unsettled:
                at = await client.config(ConfigNumber(at.number - 1))
        return None

    async def to_abandon(
        self, client: ControllerClient, view: View, gid: int, *, although_held: bool
    ) -> tuple[GroupRecord, Losses]:
        """What `abandon` would do now; nothing is done.

        Raises:
            RecoveryRefused, Unavailable, ShardCtrlerError: as `abandon`.
        """
        record = view.directory.groups.get(GroupId(gid))
        if gid == CONTROLLER_GID or record is None or record.uuid == RETIRED:
            raise RecoveryRefused(f"the controller knows no group {gid}")
        found = await self.plan(gid, record)
        if found.choice is not None:
            raise RecoveryRefused(
                f"{found.choice.node} still holds group {gid}, up to entry "
                f"{found.choice.last_index}: `shardkv ctl recover plan {gid}` shows what is left"
            )
        lost = await self.losses(client, view, gid)
        if lost.given_on and not although_held:
            held = ", ".join(f"shard {shard} in group {other}" for shard, other in lost.given_on)
            raise RecoveryRefused(
                f"rows of lost shards are still held by former owners ({held}), and the history "
                "has given them on, so they cannot be kept: copy the directories of those groups "
                "first, then say --although-held"
            )
        return record, lost

    async def abandon(
        self, client: ControllerClient, gid: int, *, deadline: float, although_held: bool = False
    ) -> tuple[ConfigNumber, Losses]:
        """Give up a group of which nothing is left; returns the configuration and what is lost.

        Args:
            although_held: Whether shards may be lost of which a former owner still has rows.

        Raises:
            RecoveryRefused: something is left of it, or of a shard that cannot be kept.
            Unavailable: another group has no leader, so what it holds is not known; or it is
                decided, and groups that waited do not get on in time.
            ChangeRefused, ShardCtrlerError: of the controller.
        """
        view = await client.newest()
        record, lost = await self.to_abandon(client, view, gid, although_held=although_held)
        number = await client.change(
            Abandon(GroupId(gid), record.uuid, lost.kept, lost.awaited),
            expect=view.config.number,
        )
        self._progress(f"configuration {number}: group {gid} is given up")
        await self._all_at(client, number, deadline)
        return number, lost

    async def _all_at(
        self, client: ControllerClient, number: ConfigNumber, deadline: float
    ) -> None:
        """Until every group that takes part has come to a configuration, and settled."""
        loop = asyncio.get_running_loop()
        operator = Operator(self._transport, self._nodes)
        while True:
            view = await client.newest()
            seen = await operator.observe()
            waits = _waits(view.config, number, seen)
            if not waits:
                return
            if loop.time() > deadline:
                raise Unavailable(f"it is decided, and not finished in time: {waits}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(
        self,
        node: str,
        method: str,
        question: tuple[object, ...],
        answer: type[Answer],
        seconds: float,
    ) -> Answer:
        body = await self._transport.call(
            Address(self._nodes[node]), method, admin.encode(question), timeout=seconds
        )
        return admin.decode(answer, body)


def _decided(found: Assessment, record: GroupRecord) -> Left | None:
    """The survivor that an `apply` before this one chose and did not come to; None: none yet."""
    if len(record.members) != 1 or any(one.uuid == record.uuid for one in found.left):
        return None
    node = record.members[0].node
    return next((one for one in found.left if one.node == node and one.lives), None)


def choice_of(found: Assessment) -> Left:
    """The survivor that a group goes on from. Raises RecoveryRefused: from none, and why."""
    if found.alive:
        leader = next((one.node for one in found.left if one.leads), "")
        how = f"{leader} leads it" if leader else "a majority of it runs"
        raise RecoveryRefused(f"group {found.gid} lives: {how}; nothing to recover")
    if found.choice is None:
        raise RecoveryRefused(
            f"no running node holds group {found.gid}: start one that does, or give the group up "
            f"(`shardkv ctl abandon {found.gid}`)"
        )
    longer = found.longer
    if longer is not None:
        raise RecoveryRefused(
            f"{longer.node} holds more of group {found.gid} than {found.choice.node}, up to entry "
            f"{longer.last_index}: start that node first, or leave its --data-dir out to lose it"
        )
    return found.choice


def _leaders(view: View, gid: int, seen: Seen) -> dict[GroupId, ReplicaStatus]:
    """Each other group that has a leader, as that one says it is; also those that have left."""
    found = {}
    for other, record in view.directory.groups.items():
        leader = leader_of(other, seen)
        if other != gid and leader is not None and leader[1].uuid == record.uuid:
            found[other] = leader[1]
    return found


def _holds(status: ReplicaStatus) -> frozenset[int]:
    """The shards whose rows a group has."""
    return frozenset(one.shard for one in status.shards if one.phase != "arriving")


def _is_retired(view: View, gid: GroupId) -> bool:
    record = view.directory.groups.get(gid)
    return record is None or record.uuid == RETIRED


def losses(
    gid: GroupId, history: Sequence[ShardConfig], others: Mapping[GroupId, ReplicaStatus]
) -> Losses:
    """What would become of each shard if group `gid` is given up (pure).

    A shard whose rows a group has is not lost unless its way leads over `gid`: to it, by a
    configuration that the group has taken or will come to. Of those it is kept where it is if it
    would go nowhere else from there: it was never told that `gid` had taken it over.

    Args:
        history: The configurations from the oldest that one of the others stands at to the newest.
        others: The other groups, by their leaders' applied state.
    """
    config = history[-1]
    kept: list[tuple[ShardId, GroupId]] = []
    owned: list[ShardId] = []
    awaited: list[ShardId] = []
    given_on: list[tuple[ShardId, GroupId]] = []
    stale: list[tuple[ShardId, GroupId]] = []
    for number, owner in enumerate(config.shards):
        shard = ShardId(number)
        holder, way = _way(shard, history, others)
        if gid not in way and (holder is not None or not _was_of(gid, shard, history, others)):
            continue
        if holder is not None and set(way) <= {gid, holder}:
            if owner == gid:
                kept.append((shard, holder))
            if (shard, "leaving") in [one[:2] for one in others[holder].shards]:
                stale.append((shard, holder))
            continue
        (owned if owner == gid else awaited).append(shard)
        if holder is not None:
            given_on.append((shard, holder))
    return Losses(tuple(kept), tuple(owned), tuple(awaited), tuple(given_on), tuple(stale))


def _way(
    shard: ShardId, history: Sequence[ShardConfig], others: Mapping[GroupId, ReplicaStatus]
) -> tuple[GroupId | None, list[GroupId]]:
    """The group that has a shard's rows, the latest if several have copies, and the owners after it
    up to the newest configuration; None: none of the others has it."""
    found: tuple[bool, int, GroupId, int] | None = None
    for gid in sorted(others):
        for one in others[gid].shards:
            if one.shard == shard and one.phase != "arriving":
                peer = one.other if one.phase in ("moving", "leaving") else 0
                has = (one.phase != "leaving", others[gid].config_number, gid, peer)
                found = has if found is None else max(found, has)
    if found is None:
        return None, []
    _, stands_at, holder, peer = found
    way = [GroupId(peer)] if peer else []
    for config in history:
        owner = config.shards[shard]
        if config.number > stands_at and owner not in (NO_GROUP, way[-1] if way else holder):
            way.append(owner)
    return holder, way


def _was_of(
    gid: GroupId,
    shard: ShardId,
    history: Sequence[ShardConfig],
    others: Mapping[GroupId, ReplicaStatus],
) -> bool:
    """Whether a shard that nobody has may be with `gid`; a new one nobody has created yet."""
    return any(gid in (config.shards[shard], config.previous[shard]) for config in history) or any(
        (one.shard, one.other) == (shard, gid)
        for status in others.values()
        for one in status.shards
    )


def _waits(config: ShardConfig, number: int, seen: Seen) -> str:
    """What keeps the groups from being settled at `number` or later; "" if nothing does."""
    for gid in config.groups:
        leader = leader_of(gid, seen)
        if leader is None:
            return f"group {gid} has no leader"
        if leader[1].config_number < number:
            return f"group {gid} is at configuration {leader[1].config_number}"
        for shard in leader[1].shards:
            if shard.phase not in ("serving", "parked"):
                return f"shard {shard.shard} of group {gid} is {shard.phase}"
    return ""
