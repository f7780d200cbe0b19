"""Golden traces of the core: `traces/*.txt`, each a small story with every effect in its order.

`UPDATE_TRACES=1 pytest tests/raft/test_traces.py` rewrites them; the diff is reviewed.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from raft.codec import decode_membership
from raft.core import Raft
from raft.errors import MembershipRefused, TransferRefused
from raft.log import Log
from raft.messages import AnyMessage, InstallSnapshot
from raft.ready import Ready
from raft.trace import membership_text, ready_lines, role_line
from raft.types import (
    ZERO,
    Entry,
    EntryKind,
    HardState,
    Index,
    Membership,
    NodeId,
    ReplicaId,
    SnapshotMeta,
)
from tests.support.builders import LAB, PRODUCTION, core, membership
from tests.support.golden import check, replay

TRACES = sorted((Path(__file__).parent / "traces").glob("*.txt"))


class Story:
    """Replicas, links and disks, moved by one command at a time.

    group 1 2 3 [lab] [blank 4]   these voters; `blank` ones know no members yet
    campaign N, tick N            time passes for N until its next deadline
    wait SECONDS A B ...          time passes; these hear each other, nobody else; unprinted
    deliver A->B ... | all        messages arrive, in order; `all` until nothing is left
    drop A->B ...                 messages are lost
    propose N TEXT, read N TEXT
    hold N, sync N                N's disk is slow; N's disk has caught up
    crash N, restart N
    members N [add=nK] [remove=K], transfer N TO
    compact N INDEX, stream A->B  a snapshot of A is staged at B
    state
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.cores: dict[int, Raft] = {}
        self.roles: dict[int, str] = {}
        self.links: dict[tuple[int, int], deque[AnyMessage]] = {}
        self.disks: dict[int, tuple[HardState, SnapshotMeta, list[Entry]]] = {}
        self.held: dict[int, deque[Ready]] = {}
        self.config = PRODUCTION

    def run(self, command: str) -> list[str]:
        name, *arguments = command.split()
        return list(getattr(self, f"do_{name}")(*arguments))

    def do_group(self, *words: str) -> Iterator[str]:
        self.config = LAB if "lab" in words else PRODUCTION
        numbers = [word for word in words if word != "lab"]
        voters = [int(n) for n in numbers[: numbers.index("blank")]] if "blank" in numbers else [
            int(n) for n in numbers
        ]  # fmt: skip
        blank = (
            [int(n) for n in numbers[numbers.index("blank") + 1 :]] if "blank" in numbers else []
        )
        for number in [*voters, *blank]:
            at = membership(*voters) if number in voters else Membership()
            self.disks[number] = (HardState(), SnapshotMeta(ZERO, at), [])
            self.start(number)
        yield from ()

    def start(self, number: int) -> None:
        hard_state, start, entries = self.disks[number]
        log = Log(start, lambda lo, hi, most: [], 1 << 20)
        log.restore(entries)
        self.cores[number] = core(
            number, log=log, term=hard_state.term, vote=hard_state.vote, config=self.config
        )  # fmt: skip
        self.roles[number] = role_line(self.cores[number])

    def do_campaign(self, number: str) -> Iterator[str]:
        replica = self.cores[int(number)]
        self.now = max(self.now, replica.deadline)
        replica.timeout(self.now)
        yield from self.effects(int(number))

    do_tick = do_campaign

    def do_wait(self, seconds: str, *names: str) -> Iterator[str]:
        numbers = [int(name) for name in names]
        until = self.now + float(seconds)
        while (due := min(self.cores[n].deadline for n in numbers)) <= until:
            self.now = max(self.now, due)
            for number in numbers:
                self.cores[number].timeout(self.now)
                deque(self.effects(number), maxlen=0)
            while waiting := [link for link in sorted(self.links) if self.links[link]]:
                for a, b in waiting:
                    if a in numbers and b in numbers:
                        deque(self.deliver((a, b)), maxlen=0)
                    else:
                        self.links[a, b].clear()
        self.now = until
        yield from ()

    def do_deliver(self, *links: str) -> Iterator[str]:
        if links == ("all",):
            while waiting := [link for link in sorted(self.links) if self.links[link]]:
                for link in waiting:
                    yield from self.deliver(link)
            return
        for link in links:
            a, b = link.split("->")
            yield from self.deliver((int(a), int(b)))

    def deliver(self, link: tuple[int, int]) -> Iterator[str]:
        messages, self.links[link] = self.links.get(link, deque()), deque()
        for message in messages:
            if link[1] in self.cores:
                self.cores[link[1]].step(message, self.now)
        if link[1] in self.cores:
            yield from self.effects(link[1])

    def do_drop(self, *links: str) -> Iterator[str]:
        for link in links:
            a, b = link.split("->")
            self.links[int(a), int(b)] = deque()
        yield from ()

    def do_propose(self, number: str, text: str) -> Iterator[str]:
        if self.cores[int(number)].propose(text.encode()) is None:
            yield f"no    {number}: not taken"
        yield from self.effects(int(number))

    def do_read(self, number: str, text: str) -> Iterator[str]:
        self.cores[int(number)].read_index(text.encode())
        yield from self.effects(int(number))

    def do_hold(self, number: str) -> Iterator[str]:
        self.held[int(number)] = deque()
        yield from ()

    def do_sync(self, number: str) -> Iterator[str]:
        for ready in self.held.pop(int(number)):
            yield from self.saved(int(number), ready)
        yield from self.effects(int(number))

    def do_crash(self, number: str) -> Iterator[str]:
        del self.cores[int(number)]
        self.held.pop(int(number), None)
        yield from ()

    def do_restart(self, number: str) -> Iterator[str]:
        self.start(int(number))
        yield self.roles[int(number)]

    def do_members(self, number: str, *changes: str) -> Iterator[str]:
        added = [c[4:] for c in changes if c.startswith("add=")]
        removed = [ReplicaId(int(c[7:])) for c in changes if c.startswith("remove=")]
        try:
            self.cores[int(number)].change_members(
                add=[(NodeId(node), f"{node}:1") for node in added], remove=removed
            )
        except MembershipRefused as error:
            yield f"no    {number}: {error}"
        yield from self.effects(int(number))

    def do_transfer(self, number: str, to: str) -> Iterator[str]:
        try:
            self.cores[int(number)].transfer(ReplicaId(int(to)))
        except TransferRefused as error:
            yield f"no    {number}: {error}"
        yield from self.effects(int(number))

    def do_compact(self, number: str, index: str) -> Iterator[str]:
        start = self.cores[int(number)].compact(Index(int(index)))
        hard_state, _, entries = self.disks[int(number)]
        kept = [e for e in entries if e.index > start.last.index]
        self.disks[int(number)] = (hard_state, start, kept)
        yield f"start {number}: {start.last.index}/{start.last.term}"

    def do_stream(self, link: str) -> Iterator[str]:
        a, b = map(int, link.split("->"))
        source = self.cores[a]
        at = source.applied
        meta = SnapshotMeta(source.log.id_at(at), source.log.membership_at(at))
        self.cores[b].step(
            InstallSnapshot(ReplicaId(a), ReplicaId(b), source.term, meta), self.now
        )  # fmt: skip
        source.report_snapshot(ReplicaId(b), True)
        yield from self.effects(b)
        yield from self.effects(a)

    def do_state(self) -> Iterator[str]:
        for _, replica in sorted(self.cores.items()):
            last = replica.log.last
            yield (
                f"{role_line(replica)} last={last.index}/{last.term} commit={replica.commit} "
                f"{membership_text(replica.membership)}"
            )

    def effects(self, number: int) -> Iterator[str]:
        replica = self.cores[number]
        yield from self.role(number)
        while ready := replica.ready():
            shown = ready
            slow = number in self.held
            if slow:
                self.held[number].append(ready)
                shown = Ready(early=ready.early, committed=ready.committed, reads=ready.reads)
            yield from ready_lines(replica.id, shown)
            for early in ready.early:
                self.links.setdefault((early.source, early.target), deque()).append(early)
            for entry in ready.committed:
                if entry.kind is EntryKind.MEMBERSHIP:
                    decode_membership(entry.data)
            if ready.committed:
                replica.applied_to(ready.committed[-1].index)
            if not slow:
                self.complete(number, ready)
            yield from self.role(number)

    def saved(self, number: int, ready: Ready) -> Iterator[str]:
        late = Ready(
            hard_state=ready.hard_state, entries=ready.entries, messages=ready.messages
        )  # fmt: skip
        yield from ready_lines(ReplicaId(number), late)
        self.complete(number, ready)

    def complete(self, number: int, ready: Ready) -> None:
        """The save is durable: the disk holds it, and the messages leave."""
        replica = self.cores[number]
        hard_state, start, entries = self.disks[number]
        if ready.snapshot is not None:
            start, entries = ready.snapshot, []
            replica.persisted(*ready.snapshot.last)
        if ready.entries:
            entries = [e for e in entries if e.index < ready.entries[0].index]
            entries += ready.entries
            replica.persisted(*ready.entries[-1].id)
        self.disks[number] = (ready.hard_state or hard_state, start, entries)
        for message in ready.messages:
            if message.target == number:
                replica.step(message, self.now)
            else:
                link = (message.source, message.target)
                self.links.setdefault(link, deque()).append(message)

    def role(self, number: int) -> Iterator[str]:
        line = role_line(self.cores[number])
        if line != self.roles[number]:
            self.roles[number] = line
            yield line


def test_there_are_traces() -> None:
    assert len(TRACES) >= 6


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_trace(path: Path) -> None:
    check(path, Story().run)


def test_a_trace_that_prints_something_else_is_noticed() -> None:
    text = TRACES[0].read_text().replace("term=1", "term=9", 1)

    assert replay(text, Story().run) != text
