"""The cluster mends itself: the node that leads the controller's group looks, decides and acts.

Every node runs a `Healer`; all but one of them only ask themselves once a second whether they lead
group 0. That one asks every registered node for its beat (`healing_beats.py` says what it costs and
why), makes a `ClusterView` of the answers, and has `planner.plan` decide. One step a look.

What must hold, and why it does:

- *Silence is never inherited.* What a healer saw dies with its leadership, and a new one counts
  anew: it may be late, never early. A look that comes late (this process stood still) counts
  anew as well: it was this node that did not listen.
- *A healer that was deposed without knowing it does no harm.* It leads for at most E beyond its
  last majority, and whatever it asks for is judged again: a group's leader takes one change at a
  time through its own log, and a node creates a replica only under an id that the log has given.
- *Cut off anywhere, nothing is half done for ever.* What is under way is read off from what is
  there. A learner whose replica nobody made is struck after a while, whoever added it.
- *Nobody fights.* Steps are the ones that `shardkv ctl` takes (`moving_replicas`, `operating`),
  refused while another change of the group is under way. Which changes are healing's own is known
  to the healer that began them and to nobody else: a successor lets them end, and undoes none.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from labrpc.errors import Refused, RpcError
from labrpc.transport import Address, Transport
from raft.chores import begin_chore
from raft.host import Host
from raft.types import GroupId
from shardctrler.types import Directory, View
from shardkv import admin, planner
from shardkv.admin import BadAdmin, Nothing
from shardkv.errors import ShardKVError
from shardkv.healing_beats import (
    BEAT,
    HEALTH,
    Beat,
    HealthReport,
    LedGroup,
    NodeHealth,
    Own,
    beat,
    serve_beats,
)
from shardkv.healing_steps import carry_out
from shardkv.operating import is_mismatch
from shardkv.planner import (
    CONTROLLER_GID,
    ClusterView,
    GroupView,
    HealPolicy,
    NodeView,
    Plan,
    Replace,
    Transfer,
    Undo,
    describe,
)

log = logging.getLogger(__name__)

CONTROLLER: Final = GroupId(CONTROLLER_GID)
LOOK_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 0.8
"""A node that has not answered by then is silent in this look."""
LATE_SECONDS: Final = 3.0
"""A look that comes so late was held up here: what it finds says nothing of the others."""
HEARD_SECONDS: Final = 2.0
"""A group's leader hears a replica that answered it within this time."""
STEP_SECONDS_MAX: Final = 15.0
"""Longer than any step takes; one that took longer was held up here."""
SHUN_SECONDS: Final = 60.0
"""For so long a node where a replica could not be made is not chosen again."""
REST_SECONDS: Final = 5.0
"""For so long a group is left alone of which a step failed; others are not kept waiting by it."""
DONE_MAX: Final = 20


class _Ours(NamedTuple):
    """A replacement that this healer began."""

    to: str
    replica: int  # the one that leaves
    next_id: int  # the newcomer's id is not below it


class _Leader(NamedTuple):
    node: str
    term: int
    since: float


class _Watch:
    """What one leadership of the controller's group has seen. It dies with it."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.silent_since: dict[str, float] = {}
        self.leaders: dict[int, _Leader] = {}
        self.orphans_since: dict[int, float] = {}
        self.wiped_since: dict[int, tuple[tuple[int, ...], float]] = {}
        self.ours: dict[int, _Ours] = {}
        self.uneven_since: float | None = None
        self.shunned_at: dict[str, float] = {}  # nodes where a replica was to be, in vain
        self.failed_at: dict[int, float] = {}  # groups of which a step failed
        self.transferred_at = float("-inf")
        self.looked_at = now


class Healer:
    """`start` it; it looks and acts until `close`.

    Args:
        host: Its replica of the controller's group says whether this node is the one to act.
        view: The newest configuration and directory known here.
        own: What this node knows of itself.
        moving: Whether shards of a group come or go on this node.
    """

    def __init__(
        self,
        host: Host,
        transport: Transport,
        *,
        view: Callable[[], View | None],
        own: Callable[[], Own],
        moving: Callable[[int], bool],
        policy: HealPolicy,
    ) -> None:
        self._host = host
        self._transport = transport
        self._directory = view
        self._own = own
        self._moving = moving
        self._policy = policy
        self._watch: _Watch | None = None
        self._seen = ClusterView(nodes=(), groups=())
        self._plan = Plan(None, ())
        self._done: deque[str] = deque(maxlen=DONE_MAX)
        self._task: asyncio.Task[None] | None = None
        serve_beats(transport, host, own, moving)
        transport.serve(HEALTH, self._report)

    def start(self) -> None:
        self._task = begin_chore(self._run(), "the cluster is no longer mended from this node")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def leads(self) -> bool:
        """Whether this node leads the controller's group, as far as it knows."""
        replica = self._host.replicas.get(CONTROLLER)
        return replica is not None and replica.leads

    async def _run(self) -> None:
        while True:
            view = self._directory()
            if self.leads and view is not None:
                await self._look(view.directory)
            else:
                self._watch = None
            await asyncio.sleep(LOOK_SECONDS)

    # Looking

    async def _look(self, directory: Directory) -> None:
        loop, nodes = asyncio.get_running_loop(), directory.nodes
        now = loop.time()
        watch = self._watch
        if watch is None or now - watch.looked_at > LATE_SECONDS:
            watch = self._watch = _Watch(now)
        names = [str(node) for node in nodes]
        answers = await asyncio.gather(
            *(self._ask(str(node), addresses.client) for node, addresses in nodes.items())
        )
        began, now = now, loop.time()
        watch.looked_at = now
        if not self.leads or now - began > LATE_SECONDS:
            self._watch = None  # nobody listened here: whoever did not answer was not silent
            return
        beats = dict(zip(names, answers, strict=True))
        for led in [led for found in answers if found is not None for led in found.led]:
            for member in (*led.voters, *led.outgoing, *led.learners):
                beats.setdefault(member.node, None)  # it died before it could register
        known = {int(gid): bytes(record.uuid) for gid, record in directory.groups.items()}
        self._seen = _view(watch, beats, known, self._policy, now)
        plan = self._plan = planner.plan(self._seen, self._policy)
        if plan.step is None:
            return
        step = plan.step
        log.info("healing: %s", describe(step))
        self._done.append(describe(step))
        if isinstance(step, Replace):
            group = self._seen.group(step.gid)
            assert group is not None, "a step is about a group that was seen"
            watch.ours[step.gid] = _Ours(step.to, step.replica, group.next_id)
        if isinstance(step, Transfer):
            watch.transferred_at = now
        if isinstance(step, Undo) and step.blamed:
            watch.shunned_at[step.blamed] = now
        clients = {str(node): addresses.client for node, addresses in nodes.items()}
        try:
            await carry_out(step, self._transport, clients)
        except ShardKVError as error:  # what became of it the next look shows
            log.info("healing: %s: %s", describe(step), error)
            watch.failed_at[step.gid] = loop.time()
        watch.looked_at = loop.time()
        if watch.looked_at - now > STEP_SECONDS_MAX:
            self._watch = None

    async def _ask(self, node: str, client: str) -> Beat | None:
        """A node's beat; None: it is silent."""
        if node == self._host.node:
            return beat(self._host, self._own(), self._moving)
        try:
            body = await self._transport.call(
                Address(client), BEAT, admin.encode(Nothing()), timeout=BEAT_SECONDS
            )
            return admin.decode(Beat, body)
        except Refused as error:
            if is_mismatch(error) or error.code != "UNAVAILABLE":
                return None
            return Beat(node, 0, running=0, roomy=1, quick=1, replicas=(), led=())  # it starts
        except (RpcError, BadAdmin):
            return None

    # Telling

    async def _report(self, body: bytes) -> bytes:
        try:
            admin.decode(Nothing, body)
        except BadAdmin as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from None
        return admin.encode(self.report())

    def report(self) -> HealthReport:
        """What this node sees and would do; nothing, unless it leads the controller's group."""
        watch, policy, seen = self._watch, self._policy, self._seen
        grace_ms = int(policy.grace_seconds * 1000)
        if watch is None or not self.leads:
            return HealthReport(0, int(policy.heal), grace_ms, 0, (), "", (), tuple(self._done))
        now = asyncio.get_running_loop().time()
        led = planner.led(seen)
        return HealthReport(
            1,
            int(policy.heal),
            grace_ms,
            int((now - watch.began) * 1000),
            tuple(
                NodeHealth(
                    node.node,
                    planner.health(node, seen, policy).value,
                    int(node.silent_seconds * 1000),
                    int(node.roomy),
                    int(node.quick),
                    led[node.node],
                    sum(
                        any(member.node == node.node for member in group.members)
                        for group in seen.groups
                    ),
                )
                for node in seen.nodes
            ),
            describe(self._plan.step) if self._plan.step is not None else "",
            self._plan.why,
            tuple(self._done),
        )


def _view(
    watch: _Watch,
    beats: Mapping[str, Beat | None],
    known: Mapping[int, bytes],
    policy: HealPolicy,
    now: float,
) -> ClusterView:
    """What was seen, with for how long it has been so."""
    for name, found in beats.items():
        if found is not None:
            watch.silent_since.pop(name, None)
        else:
            watch.silent_since.setdefault(name, now - BEAT_SECONDS)
    leaders: dict[int, tuple[str, LedGroup]] = {}
    for name, found in beats.items():
        for led in found.led if found is not None else ():
            if known.get(led.gid, led.uuid) != led.uuid:
                continue  # of a group that was given up, and born again under another uuid
            best = leaders.get(led.gid)
            if best is None or led.term > best[1].term:  # of several that think so the latest
                leaders[led.gid] = (name, led)
    held = {
        name: frozenset(found.replicas)
        for name, found in beats.items()
        if found is not None and found.running
    }
    groups = tuple(
        _group(watch, *leaders[gid], held, now) if gid in leaders else GroupView(gid)
        for gid in sorted({CONTROLLER, *known, *leaders})
    )
    view = ClusterView(
        nodes=tuple(_node(name, found, watch, now) for name, found in beats.items()),
        groups=groups,
        since_transfer=now - watch.transferred_at,
    )
    if not planner.uneven(view, policy):
        watch.uneven_since = None
        return view
    if watch.uneven_since is None:
        watch.uneven_since = now
    return replace(view, uneven_seconds=now - watch.uneven_since)


def _node(node: str, found: Beat | None, watch: _Watch, now: float) -> NodeView:
    if found is None:
        silent = now - watch.silent_since[node]
        return NodeView(node, silent, running=False)
    return NodeView(
        node,
        0.0,
        found.replicas,
        roomy=bool(found.roomy),
        quick=bool(found.quick),
        running=bool(found.running),
        shunned=now - watch.shunned_at.get(node, float("-inf")) < SHUN_SECONDS,
    )


def _group(
    watch: _Watch,
    node: str,
    led: LedGroup,
    held: Mapping[str, frozenset[tuple[int, int]]],
    now: float,
) -> GroupView:
    """Args:
    held: The (gid, replica id) that each running node says it has.
    """
    before = watch.leaders.get(led.gid)
    if before is None or (before.node, before.term) != (node, led.term):
        before = watch.leaders[led.gid] = _Leader(node, led.term, now)
    newcomers = [member for member in led.learners if member.replica in led.promote]
    ours = watch.ours.get(led.gid)
    if ours is not None and not newcomers and not led.outgoing:
        ours = None  # it ended, or was never begun
    began = [
        member.replica
        for member in newcomers
        if ours is not None
        and member.node == ours.to
        and member.replica >= ours.next_id
        and led.leaving == (ours.replica,)
    ]
    orphans = [
        member
        for member in newcomers
        if member.node in held and (led.gid, member.replica) not in held[member.node]
    ]
    if orphans:
        orphan_since = watch.orphans_since.setdefault(led.gid, now)
    else:
        watch.orphans_since.pop(led.gid, None)
        orphan_since = now
    wiped = tuple(
        member.replica
        for member in led.voters
        if member.node in held and (led.gid, member.replica) not in held[member.node]
    )
    same, wiped_since = watch.wiped_since.get(led.gid, ((), now))
    if wiped != same:
        wiped_since = now
    watch.wiped_since[led.gid] = (wiped, wiped_since)
    return GroupView(
        led.gid,
        node,
        led.uuid,
        led_seconds=now - before.since,
        voters=led.voters,
        outgoing=led.outgoing,
        learners=led.learners,
        promote=led.promote,
        leaving=led.leaving,
        next_id=led.next_id,
        settled=bool(led.settled),
        moving=bool(led.moving),
        lags=tuple((follower.node, follower.lag) for follower in led.followers),
        heard=tuple(
            follower.node
            for follower in led.followers
            if follower.silent_ms <= HEARD_SECONDS * 1000
        ),
        ours=tuple(began),
        resting=now - watch.failed_at.get(led.gid, float("-inf")) < REST_SECONDS,
        orphan_seconds=now - orphan_since,
        wiped=wiped,
        wiped_seconds=now - wiped_since,
    )
