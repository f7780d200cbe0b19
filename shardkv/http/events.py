"""What happens in a cluster, read off from what its nodes say at two moments. Pure.

The log of events holds each thing once, whoever noticed it: an event is known by its *key*.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from shardkv.admin import NodeStatus, ReplicaStatus
from shardkv.growth import Seen

EVENTS_MAX: Final = 500
"""How many past events a node keeps for those who come later."""

Key = tuple[str | int, ...]


class Event(NamedTuple):
    """Something that happened.

    `kind`: "leader", "leaderless", "config", "shard", "node", "members" or "replica".
    """

    key: Key
    kind: str
    text: str
    facts: Mapping[str, Any] = {}


class EventLog:
    """The last events, numbered from 1."""

    def __init__(self, events_max: int = EVENTS_MAX) -> None:
        self.last = 0
        self._documents: deque[dict[str, Any]] = deque(maxlen=events_max)
        self._keys: deque[Key] = deque(maxlen=4 * events_max)
        self._known: dict[Key, None] = {}

    def add(self, events: Iterable[Event], at: str) -> None:
        """Note what is not known yet; `at` is when it was noticed, as people read time."""
        for event in events:
            if event.key in self._known:
                continue
            if len(self._keys) == self._keys.maxlen:
                del self._known[self._keys[0]]
            self._keys.append(event.key)
            self._known[event.key] = None
            self.last += 1
            self._documents.append(
                {
                    "number": self.last,
                    "at": at,
                    "kind": event.kind,
                    "text": event.text,
                    **event.facts,
                }
            )

    def after(self, number: int) -> list[dict[str, Any]]:
        """What is kept of those after `number`; all that is kept if it is not of this log."""
        if number > self.last:
            number = 0
        return [document for document in self._documents if document["number"] > number]


class Local(NamedTuple):
    """What a node knows of a group by its own replica, without asking anybody."""

    gid: int
    term: int
    leader: str
    stopped: str


def local_events(node: str, replicas: Iterable[Local], config: int) -> list[Event]:
    """What the node's own replicas say now."""
    events = []
    for replica in replicas:
        if replica.stopped:
            events.append(_stopped(node, replica.gid, replica.stopped))
        elif replica.leader:
            events.append(_leads(replica.gid, replica.leader, replica.term))
    if config:
        events.append(_config(config))
    return events


def events_between(before: Seen, after: Seen) -> list[Event]:
    """What happened between two looks at all nodes."""
    events: list[Event] = []
    for name, now in after.items():
        events += _of_node(name, before.get(name), now, known=name in before)
    for gid in sorted(_gids(after)):
        events += _of_group(gid, before, after)
    config = max((status.config_number for status in after.values() if status), default=0)
    if config:
        events.append(_config(config))
    return events


def _of_node(
    name: str, before: NodeStatus | None, now: NodeStatus | None, *, known: bool
) -> list[Event]:
    if now is None:
        if before is None:
            return []
        return [_node(name, "silent", "does not answer", before.boot, before.uptime_ms)]
    if before is not None and before.boot != now.boot:
        return [_node(name, "restarted", "was started again", now.boot)]
    if known and before is None:
        return [_node(name, "back", "answers again", now.boot, now.uptime_ms)]
    return [] if known else [_node(name, "seen", f"runs version {now.version}", now.boot)]


def _node(name: str, what: str, words: str, *key: int) -> Event:
    return Event(("node", name, what, *key), "node", f"{name} {words}", {"node": name, "is": what})


def _of_group(gid: int, before: Seen, after: Seen) -> list[Event]:
    events: list[Event] = []
    old, new = _leader(gid, before), _leader(gid, after)
    if new is not None:
        events.append(_leads(gid, new[0], new[1].term))
        if old is not None:
            events += _of_members(old[1], new[1])
            events += _of_shards(old[1], new[1])
    elif old is not None:
        term = old[1].term
        events.append(
            Event(
                ("leaderless", gid, term), "leaderless", f"group {gid} has no leader", {"gid": gid}
            )
        )
    for name, status in after.items():
        replica = status.replica(gid) if status is not None else None
        if replica is not None and replica.stopped:
            events.append(_stopped(name, gid, replica.stopped))
    return events


def _of_members(old: ReplicaStatus, new: ReplicaStatus) -> list[Event]:
    voters = [member.node for member in new.voters]
    if voters == [member.node for member in old.voters]:
        return []
    return [
        Event(
            ("members", new.gid, new.membership_at),
            "members",
            f"group {new.gid} is {', '.join(voters)} now",
            {"gid": new.gid, "voters": voters},
        )
    ]


def _of_shards(old: ReplicaStatus, new: ReplicaStatus) -> list[Event]:
    """One event for all shards that went into the same phase, with the same other group."""
    before = {shard.shard: shard for shard in old.shards}
    moved: dict[tuple[str, int], list[int]] = {}
    for shard in new.shards:
        was = before.pop(shard.shard, None)
        if was is None or was.phase != shard.phase:
            moved.setdefault((shard.phase, shard.other), []).append(shard.shard)
    if before:
        moved["gone", 0] = sorted(before)
    return [_shards(new, phase, other, shards) for (phase, other), shards in moved.items()]


def _shards(group: ReplicaStatus, phase: str, other: int, shards: list[int]) -> Event:
    named = f"shard {shards[0]}" if len(shards) == 1 else f"{len(shards)} shards"
    verb = "is" if len(shards) == 1 else "are"
    words = f"gone from group {group.gid}" if phase == "gone" else f"{phase} at group {group.gid}"
    beside = f", {'from' if phase == 'arriving' else 'to'} group {other}" if other else ""
    facts = {"gid": group.gid, "phase": phase, "other": other or None, "shards": shards}
    return Event(
        ("shard", group.gid, phase, group.config_number, *shards),
        "shard",
        f"{named} {verb} {words}{beside}",
        facts | {"config": group.config_number},
    )


def _leads(gid: int, node: str, term: int) -> Event:
    facts = {"gid": gid, "node": node, "term": term}
    return Event(("leader", gid, term), "leader", f"{node} leads group {gid} in term {term}", facts)


def _stopped(node: str, gid: int, why: str) -> Event:
    return Event(
        ("replica", node, gid, why),
        "replica",
        f"the replica of group {gid} on {node} has stopped",
        {"node": node, "gid": gid},
    )


def _config(number: int) -> Event:
    return Event(("config", number), "config", f"configuration {number}", {"config": number})


def _gids(seen: Seen) -> dict[int, None]:
    return {r.gid: None for status in seen.values() if status for r in status.replicas}


def _leader(gid: int, seen: Seen) -> tuple[str, ReplicaStatus] | None:
    found = [
        (name, replica)
        for name, status in seen.items()
        if status is not None and (replica := status.replica(gid)) is not None and replica.leads
    ]
    return max(found, key=lambda pair: pair[1].term, default=None)
