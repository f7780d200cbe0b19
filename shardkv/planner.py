"""What a cluster does next to mend itself: (view, policy) -> the step, or why there is none (pure).

`shardkv/healing.py` sees and acts; here is decided. The rules, and what each is there for:

- A node is DEAD only by silence without a gap, and never while a group's leader hears a replica of
  it: who cannot reach a node is not the one to say that nobody can. After the grace period the
  replicas of a DEAD node are made anew, each on the living node that holds fewest.
- A replacement is one change of the group's own log: learner first, the dead voter leaves in the
  joint step that makes the learner a voter. So a group counts at no moment more dead voters than
  before, and it is begun only while a majority of its voters is alive: without one it could not be
  committed, and nothing here ever makes a majority smaller.
- A node that answers, and says that it does not hold a replica which its group counts, has lost its
  data: it came back as a stranger, under its old name. That replica never comes back, so there is
  no grace period: a new one takes its place, on the same node if that has room.
- One change a group at a time, whoever began it. What healing began it also takes back: when the
  node returns while its successor still catches up, or when the successor dies. What an operator
  began it only takes back where it can never end (the newcomer is dead, or was never filled: ids
  are filled once, by whoever was given them).
- Leaderships: a group led by a node without room on its disk goes to one with room, at once. Else,
  while a node leads two groups more than a voter of one of them does, that one goes there. Each
  such step lowers the sum of the squares of what nodes lead by two at least, so it ends; it is
  taken only when the unevenness stood for a while, one at a time, with a pause after it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from shardkv.admin import MemberStatus
from shardkv.text import named

CONTROLLER_GID: Final = 0


class Health(Enum):
    """How a node looks to the one that leads the controller's group."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealPolicy:
    """When to act. Times in seconds."""

    heal: bool = True
    grace_seconds: float = 600.0
    """Silence after which a node's replicas are made anew elsewhere."""
    suspect_seconds: float = 3.0
    dead_seconds: float = 30.0
    """Silence after which a node counts as dead: it is no target of anything. At most the grace."""
    orphan_seconds: float = 5.0
    """How long a learner may be without its replica before it is struck: who added it may be about
    to create it."""
    changes_max: int = 4
    """Replacements under way at once in the whole cluster: each copies a group's state."""
    uneven_seconds: float = 10.0
    """How long leaderships must have been uneven before one is handed on."""
    led_seconds: float = 5.0
    """How long a leader must have led before its group is handed on again."""
    transfer_pause_seconds: float = 5.0
    lag_entries_max: int = 100
    """A voter that lags further is handed no leadership."""

    @property
    def dead_after(self) -> float:
        return min(self.dead_seconds, self.grace_seconds)


class NodeView(NamedTuple):
    """A node as it is seen now."""

    node: str
    silent_seconds: float  # since it was first asked in vain, without a gap; 0: it answered
    replicas: tuple[tuple[int, int], ...] = ()  # (gid, replica id) that it says it holds
    roomy: bool = True  # its disk is above the watermark
    quick: bool = True  # its disk did not hold up a group lately
    running: bool = True  # False: it starts or stops
    shunned: bool = False  # a replica was to be made there lately, and it came to nothing


class GroupView(NamedTuple):
    """A group as its leader sees it; without a leader all but `gid` means nothing."""

    gid: int
    leader: str = ""  # the node; "" when nobody known leads
    uuid: bytes = b""
    led_seconds: float = 0.0  # how long this leader of this term has been seen
    voters: tuple[MemberStatus, ...] = ()
    outgoing: tuple[MemberStatus, ...] = ()
    learners: tuple[MemberStatus, ...] = ()
    promote: tuple[int, ...] = ()  # learners that become voters once they have caught up
    leaving: tuple[int, ...] = ()  # voters that leave then
    next_id: int = 0
    settled: bool = True  # its membership is committed, and no leadership is being handed over
    moving: bool = False  # shards come or go
    lags: tuple[tuple[str, int], ...] = ()  # node -> entries that it lacks, of each follower
    heard: tuple[str, ...] = ()  # nodes whose replica answered the leader lately
    ours: tuple[int, ...] = ()  # learners that healing added, not the operator
    resting: bool = False  # a step that was decided for it failed a moment ago
    orphan_seconds: float = 0.0  # how long a learner has been seen without its replica
    wiped: tuple[int, ...] = ()  # voters whose running node says that it does not hold them
    wiped_seconds: float = 0.0  # for how long the same ones have been

    @property
    def changing(self) -> bool:
        """Whether a change of members is under way."""
        return bool(self.outgoing or self.promote or self.leaving) or not self.settled

    @property
    def members(self) -> tuple[MemberStatus, ...]:
        return (*self.voters, *self.outgoing, *self.learners)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """All that the decision depends on."""

    nodes: tuple[NodeView, ...]
    groups: tuple[GroupView, ...]
    uneven_seconds: float = 0.0  # for how long `uneven` has found something
    since_transfer: float = float("inf")  # seconds since a leadership was handed on

    def node(self, name: str) -> NodeView | None:
        return next((node for node in self.nodes if node.node == name), None)

    def group(self, gid: int) -> GroupView | None:
        return next((group for group in self.groups if group.gid == gid), None)


class Replace(NamedTuple):
    """Have `to` take the place of a dead node's replica."""

    gid: int
    leader: str
    dead: str
    replica: int  # the dead one
    to: str


class Undo(NamedTuple):
    """Take back a change whose learners have not caught up."""

    gid: int
    leader: str
    replicas: tuple[int, ...]
    reason: str
    blamed: str = ""  # the node where it came to nothing; "" if none is to blame


class Transfer(NamedTuple):
    """Hand a leadership on."""

    gid: int
    leader: str
    to: str
    replica: int  # of `to`
    reason: str


Step: TypeAlias = Replace | Undo | Transfer


class Plan(NamedTuple):
    """The next step, if there is one, and a sentence for each thing that is not as it should be."""

    step: Step | None
    why: tuple[str, ...]


def health(node: NodeView, view: ClusterView, policy: HealPolicy) -> Health:
    """How a node counts. One that a group's leader hears is not dead, whoever cannot reach it."""
    if node.silent_seconds < policy.suspect_seconds:
        return Health.ALIVE
    if node.silent_seconds < policy.dead_after or heard_by(node.node, view):
        return Health.SUSPECT
    return Health.DEAD


def heard_by(node: str, view: ClusterView) -> tuple[int, ...]:
    """The groups whose leader hears a node that the controller's leader may not."""
    return tuple(group.gid for group in view.groups if group.leader and node in group.heard)


def plan(view: ClusterView, policy: HealPolicy) -> Plan:
    """What to do next."""
    return _Planner(view, policy).plan()


def uneven(view: ClusterView, policy: HealPolicy) -> bool:
    """Whether a leadership could go to a node that leads two fewer; patience apart."""
    return _Planner(view, policy).fairer(ready=False) is not None


def led(view: ClusterView) -> dict[str, int]:
    """How many groups each node leads."""
    counts = dict.fromkeys((node.node for node in view.nodes), 0)
    for group in view.groups:
        if group.leader in counts:
            counts[group.leader] += 1
    return counts


def describe(step: Step) -> str:
    """A step in words."""
    match step:
        case Replace(gid, _, dead, _, to):
            return f"re-create {name_of(gid)}'s replica of {dead} on {to}"
        case Undo(gid, _, replicas, reason, _):
            numbers = ", ".join(map(str, replicas))
            return f"take back replica {numbers} of {name_of(gid)}: {reason}"
        case Transfer(gid, leader, to, _, reason):
            return f"hand {name_of(gid)} from {leader} to {to}: {reason}"


def name_of(gid: int) -> str:
    """A group as people call it."""
    return "the controller's group" if gid == CONTROLLER_GID else f"group {gid}"


class _Planner:
    """One decision. Whatever is walked through is walked in order: the same view, the same plan."""

    def __init__(self, view: ClusterView, policy: HealPolicy) -> None:
        self._view, self._policy = view, policy
        self._nodes: Mapping[str, NodeView] = {node.node: node for node in view.nodes}
        self._health = {node.node: health(node, view, policy) for node in view.nodes}
        self._led = led(view)
        self._why: list[str] = []

    def plan(self) -> Plan:
        for node in self._view.nodes:
            self._say_silent(node)
        self._why += [
            f"{name_of(group.gid)} has no leader: did it lose a majority of its voters?"
            for group in self._view.groups
            if not group.leader
        ]
        groups = list(self._groups())
        wishes: list[Step | None] = [
            *[self._undo(group) for group in groups],
            *[self._replace(group) for group in groups],
            *[self._to_room(group) for group in groups],
            self._patiently(self.fairer(ready=True)),
        ]
        step = next((wish for wish in wishes if wish is not None), None)
        if not self._policy.heal:
            would = f"it would {describe(step)}" if step is not None else "nothing is to be done"
            self._why.append(f"healing is switched off (heal: false); {would}")
            step = None
        return Plan(step, tuple(self._why))

    def _groups(self) -> Iterator[GroupView]:
        """Those that somebody leads; the others cannot be helped from here. One that rests does not
        keep the others waiting."""
        for group in self._view.groups:
            if group.leader and not group.resting:
                yield group

    def _alive(self, node: str) -> bool:
        return self._health.get(node) is Health.ALIVE

    def _is_back(self, node: str) -> bool:
        return self._alive(node) and self._nodes[node].running

    def _dead(self, node: str) -> bool:
        return self._health.get(node) is Health.DEAD

    def _is_gone(self, node: str) -> bool:
        """Dead for the whole of the grace period."""
        silent = self._nodes[node].silent_seconds if node in self._nodes else 0.0
        return self._dead(node) and silent >= self._policy.grace_seconds

    def _say_silent(self, node: NodeView) -> None:
        match self._health[node.node]:
            case Health.SUSPECT if groups := heard_by(node.node, self._view):
                names = ", ".join(map(name_of, groups))
                self._why.append(
                    f"{node.node} does not answer the controller's leader, and {names} hears it"
                )
            case Health.SUSPECT:
                self._why.append(f"{node.node} is silent for {node.silent_seconds:.0f} s")
            case Health.DEAD:
                left = self._policy.grace_seconds - node.silent_seconds
                self._why.append(
                    f"{node.node} is dead: silent for {node.silent_seconds:.0f} s"
                    + (f"; in {left:.0f} s its replicas are made anew" if left > 0 else "")
                )

    # What is under way

    def _undo(self, group: GroupView) -> Undo | None:
        """Take a change back that shall not, or cannot, end. Only while nobody was promoted: the
        joint step is never taken back, it ends by itself."""
        if not group.settled or group.outgoing or not group.promote:
            return None
        newcomers = [member for member in group.learners if member.replica in group.promote]
        ours = all(member.replica in group.ours for member in newcomers)
        leaving = [
            member.node
            for member in group.voters
            if member.replica in group.leaving and member.replica not in group.wiped
        ]
        reason = blamed = ""
        for member in newcomers:
            if self._dead(member.node) if ours else self._is_gone(member.node):
                reason, blamed = f"{member.node} is dead", member.node
            elif self._is_orphan(group, member):
                reason, blamed = f"{member.node} was never given that replica", member.node
        if not reason and ours and leaving and all(map(self._is_back, leaving)):
            reason = named(leaving, "is back", "are back")
        if not reason:
            return None
        return Undo(group.gid, group.leader, group.promote, reason, blamed)

    def _is_orphan(self, group: GroupView, member: MemberStatus) -> bool:
        node = self._nodes.get(member.node)
        return (
            node is not None
            and node.running
            and self._alive(member.node)
            and (group.gid, member.replica) not in node.replicas
            and group.orphan_seconds >= self._policy.orphan_seconds
        )

    # Replicas of the dead

    def _replace(self, group: GroupView) -> Replace | None:
        gone = [member for member in group.voters if self._is_lost(group, member)]
        if group.changing:
            where = [m.node for m in group.learners if m.replica in group.promote]
            what = f"{named(where, 'catches', 'catch')} up" if where else "its members are changing"
            self._why.append(f"{name_of(group.gid)}: {what}")
            return None
        if not gone:
            return None
        name = name_of(group.gid)
        alive = [
            member.node
            for member in group.voters
            if self._alive(member.node) and member.replica not in group.wiped
        ]
        if 2 * len(alive) <= len(group.voters):
            self._why.append(f"{name} waits: a change needs a majority of its voters alive")
            return None
        if sum(bool(other.ours and other.promote) for other in self._view.groups) >= (
            self._policy.changes_max
        ):
            self._why.append(f"{name} waits: {self._policy.changes_max} groups are being mended")
            return None
        for dead in gone:  # one that has no place keeps none waiting that has
            to = self._where_it_was(group, dead) or self._least_loaded(group)
            if to is not None:
                return Replace(group.gid, group.leader, dead.node, dead.replica, to)
            self._why.append(
                f"{name} stays without its replica on {dead.node}: no living node with room is "
                "without a replica of it; add a node"
            )
        return None

    def _is_lost(self, group: GroupView, member: MemberStatus) -> bool:
        """Whether a voter is not to be waited for any longer."""
        if member.replica in group.wiped:
            return group.wiped_seconds >= self._policy.orphan_seconds
        return self._is_gone(member.node)

    def _where_it_was(self, group: GroupView, lost: MemberStatus) -> str | None:
        """The node that lost a replica and is there again, if it can take a new one."""
        node = self._nodes.get(lost.node)
        if (
            node is not None
            and lost.replica in group.wiped
            and node.running
            and node.roomy
            and not node.shunned
            and group.gid not in dict(node.replicas)
        ):
            return lost.node
        return None

    def _least_loaded(self, group: GroupView) -> str | None:
        """A living node without a replica of the group, that holds fewest."""
        taken = [member.node for member in group.members]
        held = dict.fromkeys(self._nodes, 0)
        for other in self._view.groups:
            for node in dict.fromkeys(member.node for member in other.members):
                if node in held:
                    held[node] += 1
        free = [
            node
            for node, seen in self._nodes.items()
            if node not in taken
            and self._alive(node)
            and seen.running
            and seen.roomy
            and not seen.shunned
            and group.gid not in dict(seen.replicas)
        ]
        return min(free, key=lambda node: (held[node], self._led[node]), default=None)

    # Leaderships

    def _successors(self, group: GroupView) -> Iterable[MemberStatus]:
        """Who could lead the group instead, without anybody waiting for it."""
        lags = dict(group.lags)
        for member in group.voters:
            node = self._nodes.get(member.node)
            if (
                node is not None
                and member.node != group.leader
                and self._alive(member.node)
                and member.node in group.heard
                and node.running
                and node.roomy
                and node.quick
                and lags.get(member.node, self._policy.lag_entries_max + 1)
                <= self._policy.lag_entries_max
            ):
                yield member

    def _to_room(self, group: GroupView) -> Transfer | None:
        """A leader without room refuses writes: lead from where there is some."""
        node = self._nodes.get(group.leader)
        if node is None or node.roomy or group.changing:
            return None
        to = min(self._successors(group), key=lambda m: self._led[m.node], default=None)
        reason = f"the disk of {group.leader} is full"
        if to is None:
            self._why.append(
                f"{name_of(group.gid)} takes no writes: {reason}, nobody else can lead"
            )
            return None
        return Transfer(group.gid, group.leader, to.node, to.replica, reason)

    def fairer(self, *, ready: bool) -> Transfer | None:
        """The hand-over that evens leaderships most; of the controller's own group last.

        Args:
            ready: Only of groups whose leader has led for a while and that nothing happens in.
        """
        best: tuple[int, Transfer] | None = None
        for group in sorted(self._groups(), key=lambda group: group.gid == CONTROLLER_GID):
            if group.changing or (group.moving and ready):
                continue
            if ready and group.led_seconds < self._policy.led_seconds:
                continue
            leads = self._led.get(group.leader, 0)
            for member in self._successors(group):
                gap = leads - self._led[member.node]
                if gap >= 2 and (best is None or gap > best[0]):
                    reason = f"{group.leader} leads {leads} groups, {member.node} leads "
                    reason += f"{self._led[member.node]}"
                    best = (
                        gap,
                        Transfer(group.gid, group.leader, member.node, member.replica, reason),
                    )
        return best[1] if best is not None else None

    def _patiently(self, fairer: Transfer | None) -> Transfer | None:
        if fairer is None:
            return None
        policy, view = self._policy, self._view
        left = max(
            policy.uneven_seconds - view.uneven_seconds,
            policy.transfer_pause_seconds - view.since_transfer,
        )
        if left > 0:
            self._why.append(f"leaderships are uneven ({fairer.reason}): evened in {left:.0f} s")
            return None
        return fairer
