"""A small cluster of cores in one heap of events: faults from a seed, invariants at each step.

Only the pure core is real; the disk, network and driver are the simplest that keep the law of
effects (`raft/ready.py`). Invariants by their numbers: R1 to R7, R9 to R14, R17.
"""

import heapq
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

from raft.config import Mode, RaftConfig
from raft.core import Raft
from raft.errors import MembershipRefused, Overloaded, TransferRefused
from raft.log import Log
from raft.messages import (
    AnyMessage,
    AppendEntries,
    AppendReply,
    Heartbeat,
    InstallSnapshot,
    RequestVote,
    VoteReply,
)
from raft.quorum import Electorate
from raft.ready import Ready
from raft.types import (
    ZERO,
    Entry,
    EntryId,
    HardState,
    Index,
    Membership,
    ReplicaId,
    Role,
    SnapshotMeta,
    Term,
)
from tests.support.builders import member, membership


@dataclass
class Faults:
    """Probabilities a message, or an act of the nemesis."""

    loss: float = 0.0
    repeat: float = 0.0
    late: float = 0.0  # delayed by up to two seconds
    members_change: bool = False


@dataclass
class Image:
    """What a node's disk holds: survives a crash."""

    hard_state: HardState = field(default_factory=HardState)
    start: SnapshotMeta = field(default_factory=SnapshotMeta)
    state: tuple[Entry, ...] = ()  # applied commands up to `start`, the snapshot's content
    entries: list[Entry] = field(default_factory=list)

    def last(self) -> EntryId:
        return self.entries[-1].id if self.entries else self.start.last

    def holds(self, entry: EntryId) -> bool:
        if entry.index <= self.start.last.index:
            return True
        place = entry.index - self.start.last.index - 1
        return place < len(self.entries) and self.entries[place].term == entry.term


@dataclass
class Save:
    ready: Ready
    messages: list[AnyMessage]


class Node:
    def __init__(self, replica: ReplicaId, image: Image) -> None:
        self.id = replica
        self.image = image
        self.core: Raft | None = None
        self.life = 0
        self.saves: deque[Save] = deque()
        self.installing = False
        self.staged: dict[SnapshotMeta, tuple[Entry, ...]] = {}
        self.applied: list[Entry] = []
        self.commit_seen = Index(0)
        self.led_term = Term(0)
        self.reads: dict[bytes, int] = {}  # context -> what was committed when it was asked


class Cluster:
    """Nodes 1..n are the first voters; `spare` more are blank, to be added."""

    def __init__(
        self, seed: int, size: int, faults: Faults, mode: Mode = Mode.PRODUCTION, spare: int = 0
    ) -> None:
        self.rng = Random(f"{seed}/nemesis")
        self.net = Random(f"{seed}/network")
        self.disk = Random(f"{seed}/disk")
        self.seed, self.faults, self.now = seed, faults, 0.0
        self.config = RaftConfig(mode=mode, append_bytes_max=700, cache_bytes_max=1500)
        self.first = membership(*range(1, size + 1))
        self.nodes: dict[ReplicaId, Node] = {}
        for number in range(1, size + spare + 1):
            at = self.first if number <= size else Membership()
            image = Image(start=SnapshotMeta(ZERO, at))
            self.nodes[ReplicaId(number)] = Node(ReplicaId(number), image)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.sequence = 0
        self.cut: set[tuple[ReplicaId, ReplicaId]] = set()
        # What the oracle knows
        self.canonical: list[Entry] = []  # in order of index, from 1, as first applied
        self.leaders: dict[Term, ReplicaId] = {}
        self.entries: dict[EntryId, tuple[EntryId, bytes]] = {}
        self.votes: dict[tuple[ReplicaId, Term], ReplicaId] = {}
        self.commit_max = Index(0)
        self.reads_served = 0
        self.snapshots_installed = 0
        self.elections = 0
        self.committed_memberships = 0
        for node in self.nodes.values():
            self.start(node)

    # Events

    def at(self, when: float, act: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (when, self.sequence, act))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.events and self.events[0][0] <= end:
            self.now, _, act = heapq.heappop(self.events)
            act()
        self.now = end

    # Nodes

    def start(self, node: Node) -> None:
        image = node.image
        node.life += 1
        node.installing = False
        node.saves.clear()
        node.staged.clear()
        node.reads.clear()
        node.applied = list(image.state)

        def read(lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
            place = image.start.last.index + 1
            return image.entries[lo - place : hi - place][:3]

        log = Log(image.start, read, self.config.cache_bytes_max)
        log.restore(list(image.entries))
        node.core = Raft(
            self.config,
            id=node.id,
            log=log,
            hard_state=image.hard_state,
            applied=image.start.last.index,
            rng=Random(f"{self.seed}/{node.id}/{node.life}"),
            now=self.now,
        )
        node.commit_seen = node.core.commit
        node.led_term = Term(0)
        self.turn(node)

    def crash(self, node: Node) -> None:
        node.core = None
        node.life += 1

    def timer(self, node: Node, life: int) -> None:
        if node.core is not None and node.life == life and node.core.deadline <= self.now:
            node.core.timeout(self.now)
            self.turn(node)

    def turn(self, node: Node) -> None:
        core = node.core
        assert core is not None
        while not node.installing and (ready := core.ready()):
            self.carry_out(node, core, ready)
        self.check(node, core)
        if core.deadline < float("inf"):
            self.at(max(core.deadline, self.now), partial(self.timer, node, node.life))

    def carry_out(self, node: Node, core: Raft, ready: Ready) -> None:
        for message in ready.early:
            self.send(message)
        for entry_ in ready.entries:
            self.check_entry(core, entry_)
        if ready.must_save:
            node.saves.append(Save(ready, list(ready.messages)))
            if len(node.saves) == 1:
                self.begin_save(node)
        elif node.saves:
            node.saves[-1].messages += ready.messages
        else:
            for message in ready.messages:
                self.send(message)
        if ready.snapshot is not None:
            node.installing = True
        for entry_ in ready.committed:
            self.apply(node, entry_)
        if ready.committed:
            core.applied_to(ready.committed[-1].index)
        for read in ready.reads:
            asked_at = node.reads.pop(read.context)
            if read.index:
                assert read.index >= asked_at, "R14: a read went back in time"
                self.reads_served += 1
        for follower in ready.send_snapshot:
            state = tuple(node.applied)
            meta = SnapshotMeta(core.log.id_at(core.applied), core.log.membership_at(core.applied))
            stream = partial(self.stream, node, node.life, core.term, follower, meta, state)
            self.at(self.now + 0.05, stream)

    def begin_save(self, node: Node) -> None:
        seconds = self.disk.choice((0.0002, 0.002, 0.02))
        self.at(self.now + seconds, partial(self.end_save, node, node.life))

    def end_save(self, node: Node, life: int) -> None:
        if node.life != life or node.core is None:
            return
        save = node.saves.popleft()
        image, ready = node.image, save.ready
        if ready.hard_state is not None:
            self.check_hard_state(node, ready.hard_state)
            image.hard_state = ready.hard_state
        if ready.snapshot is not None:
            image.start, image.state = ready.snapshot, node.staged[ready.snapshot]
            image.entries = []
            node.applied = list(image.state)
            self.check_snapshot(ready.snapshot, image.state)
            node.installing = False
            self.snapshots_installed += 1
            node.core.persisted(*ready.snapshot.last)
        if ready.entries:
            del image.entries[ready.entries[0].index - image.start.last.index - 1 :]
            image.entries += ready.entries
            node.core.persisted(*ready.entries[-1].id)
        for message in save.messages:
            self.send(message)
        if node.saves:
            self.begin_save(node)
        self.turn(node)

    def apply(self, node: Node, entry_: Entry) -> None:
        assert len(node.applied) + 1 == entry_.index, "R6: applied in order, each once"
        if len(self.canonical) < entry_.index:
            self.canonical.append(entry_)
            self.committed_memberships += entry_.kind == 2
        assert self.canonical[entry_.index - 1] == entry_, "R6: two truths at one index"
        assert node.image.holds(entry_.id), "applied before it was durable here (H10)"
        node.applied.append(entry_)

    def stream(
        self,
        node: Node,
        life: int,
        term: Term,
        follower: ReplicaId,
        meta: SnapshotMeta,
        state: tuple[Entry, ...],
    ) -> None:
        if node.life != life or node.core is None:
            return
        target = self.nodes[follower]
        ok = target.core is not None and (node.id, follower) not in self.cut
        ok = ok and not target.installing and self.net.random() >= self.faults.loss
        whole = InstallSnapshot(node.id, follower, term, meta)
        if ok:
            self.stage(target, whole, state)
            if self.net.random() < self.faults.repeat:
                repeat = partial(self.stage, target, whole, state)
                self.at(self.now + self.net.uniform(0.1, 2.0), repeat)
        node.core.report_snapshot(follower, ok)
        self.turn(node)

    def stage(self, target: Node, whole: InstallSnapshot, state: tuple[Entry, ...]) -> None:
        if target.core is not None and not target.installing:
            target.staged[whole.snapshot] = state
            target.core.step(whole, self.now)
            self.turn(target)

    # The network

    def send(self, message: AnyMessage) -> None:
        self.check_promise(message)
        times = 0 if self.net.random() < self.faults.loss else 1
        times += self.net.random() < self.faults.repeat
        if message.source == message.target:
            times = 1
        for _ in range(times):
            late = self.net.random() < self.faults.late
            delay = self.net.uniform(0.2, 2.0) if late else self.net.uniform(0.0005, 0.005)
            if message.source == message.target:
                delay = 0.0
            self.at(self.now + delay, partial(self.deliver, message))

    def deliver(self, message: AnyMessage) -> None:
        target = self.nodes[message.target]
        if target.core is None or (message.source, message.target) in self.cut:
            return
        target.core.step(message, self.now)
        self.turn(target)

    # The nemesis

    def harass(self, seconds: float) -> None:
        """Break things at random, and ask for things meanwhile."""
        end = self.now + seconds
        while self.now < end:
            self.run(self.rng.uniform(0.01, 0.3))
            act = self.rng.random()
            node = self.nodes[self.rng.choice(list(self.nodes))]
            if act < 0.12:
                self.crash_some(node)
            elif act < 0.3:
                if node.core is None:
                    self.start(node)
            elif act < 0.42:
                self.partition()
            elif act < 0.55:
                self.cut.clear()
            else:
                leads = [n for n in self.nodes.values() if n.core and n.core.role is Role.LEADER]
                node = leads[0] if leads and self.rng.random() < 0.6 else node
                if node.core is not None:
                    self.ask(node, node.core)

    def crash_some(self, node: Node) -> None:
        down = sum(other.core is None for other in self.nodes.values())
        if node.core is not None and down < (len(self.nodes) - 1) // 2:
            self.crash(node)

    def partition(self) -> None:
        side = {node for node in self.nodes if self.rng.random() < 0.5}
        one_way = self.rng.random() < 0.3
        for a in self.nodes:
            for b in self.nodes:
                if (a in side) != (b in side) and (not one_way or a in side):
                    self.cut.add((a, b))

    def ask(self, node: Node, core: Raft) -> None:
        for _ in range(self.rng.randrange(1, 5)):
            try:
                core.propose(b"%d" % self.rng.randrange(10**9) * self.rng.randrange(1, 20))
            except Overloaded:
                break
        context = b"%d/%d/%d" % (node.id, node.life, self.sequence)
        node.reads[context] = len(self.canonical)
        core.read_index(context)
        choice = self.rng.random()
        if choice < 0.1 and core.role is Role.LEADER:
            with suppress(TransferRefused):
                core.transfer(self.rng.choice(list(self.nodes)))
        elif choice < 0.4 and self.faults.members_change:
            self.change_members(core)
        elif choice < 0.6:
            self.compact(node, core)
        self.turn(node)

    def change_members(self, core: Raft) -> None:
        if core.role is not Role.LEADER:
            return
        at = core.membership
        blank = [n for n in self.nodes if n >= at.next_id]
        add = [member(at.next_id)[1:]] if blank and blank[0] == at.next_id else []
        remove = [self.rng.choice(at.voters).id] if self.rng.random() < 0.6 else []
        with suppress(MembershipRefused):
            core.change_members(add=add if self.rng.random() < 0.7 else [], remove=remove)

    def compact(self, node: Node, core: Raft) -> None:
        """Cut the log to what a durable state holds, keeping a random tail."""
        index = Index(max(core.log.start.last.index, core.applied - self.rng.randrange(6)))
        if node.saves or node.installing or index <= core.log.start.last.index:
            return
        start = core.compact(index)
        image = node.image
        assert image.holds(start.last)
        image.entries = [e for e in image.entries if e.index > index]
        image.start, image.state = start, tuple(node.applied[:index])

    # Convergence

    def heal(self) -> None:
        self.cut.clear()
        self.faults.loss = self.faults.repeat = self.faults.late = 0.0
        for node in self.nodes.values():
            if node.core is None:
                self.start(node)

    def leader(self) -> Node:
        leads = [n for n in self.nodes.values() if n.core and n.core.role is Role.LEADER]
        assert leads, f"seed {self.seed}: no leader"
        return max(leads, key=lambda node: node.core.term if node.core else Term(0))

    def converge(self) -> None:
        """After healing: a leader, a fresh command applied everywhere, equal states (L1 to L3)."""
        self.heal()
        self.run(15.0)
        leader = self.leader()
        assert leader.core is not None
        leader.core.propose(b"fresh")
        self.turn(leader)
        self.run(5.0)
        everyone = leader.core.membership
        assert not everyone.outgoing, f"seed {self.seed}: a change of members hangs"
        for member_ in (*everyone.voters, *everyone.learners):
            node = self.nodes[member_.id]
            assert node.applied == leader.applied, f"seed {self.seed}: replica {node.id} lags"
        assert any(e.data == b"fresh" for e in leader.applied[-3:])

    # The oracle

    def check(self, node: Node, core: Raft) -> None:
        log = core.log
        assert node.installing or log.start.last.index <= core.applied, "R7"
        assert core.applied <= core.commit <= log.last.index, "R7"
        assert core.commit >= node.commit_seen, "R7: commit went back"
        self.commit_max = max(self.commit_max, core.commit)
        if core.role is Role.LEADER:
            self.check_leader(node, core)
        node.commit_seen = core.commit

    def check_leader(self, node: Node, core: Raft) -> None:
        leads = self.leaders.setdefault(core.term, node.id)
        assert leads == node.id, f"R1: {leads} and {node.id} lead term {core.term}"
        if node.led_term != core.term:
            node.led_term = core.term
            self.elections += 1
            for entry_ in self.canonical[core.log.start.last.index :]:
                assert core.log.holds(entry_.id), "R5: a committed entry is missing"
            return
        if core.commit > node.commit_seen:
            self.check_commit(core)
        uncommitted = [i for i, _ in core.log.memberships if i > self.commit_max]
        assert len(uncommitted) <= 1, "R11: two uncommitted memberships"

    def check_commit(self, core: Raft) -> None:
        """R10, against the disks themselves rather than what the leader was told. While a
        membership is in force that this commit made, the one before decided; both are tried."""
        at = core.log.id_at(core.commit)
        assert at.term == core.term, "R10: an older term was committed by counting"

        def durable(replica: ReplicaId) -> bool:
            return self.nodes[replica].image.holds(at)

        now = Electorate.of(core.membership)
        before = Electorate.of(core.log.membership_at(Index(core.log.membership_index - 1)))
        assert now.agrees(durable) or before.agrees(durable), "R10: no majority holds it"

    def check_promise(self, message: AnyMessage) -> None:
        """R9: what a message promises is on its sender's disk; R17: only a leader appends."""
        image = self.nodes[message.source].image
        match message:
            case VoteReply(granted=True, pre=False):
                assert image.hard_state.term >= message.term, "R9: a vote before its save"
                if image.hard_state.term == message.term:
                    assert image.hard_state.vote == message.target, "R9: a vote before its save"
            case RequestVote(pre=False):
                assert image.hard_state.term >= message.term, "R9: a term before its save"
            case AppendReply(rejected=0) if message.match:
                assert image.last().index >= message.match, "R9: acknowledged before its save"
            case AppendEntries() | Heartbeat():
                assert self.leaders.get(message.term, message.source) == message.source, "R17"

    def check_entry(self, core: Raft, entry_: Entry) -> None:
        before = core.log.id_at(Index(entry_.index - 1))
        seen = self.entries.setdefault(entry_.id, (before, entry_.data))
        assert seen == (before, entry_.data), "R3: logs that share an entry differ before it"
        if core.role is Role.LEADER and entry_.term == core.term:
            assert core.log.holds(entry_.id), "R4: a leader cut its own log"

    def check_hard_state(self, node: Node, state: HardState) -> None:
        assert state.term >= node.image.hard_state.term, "R12: the durable term fell"
        if state.vote:
            voted = self.votes.setdefault((node.id, state.term), state.vote)
            assert voted == state.vote, "R2: two votes in one term"

    def check_snapshot(self, meta: SnapshotMeta, state: tuple[Entry, ...]) -> None:
        assert list(state) == self.canonical[: meta.last.index], "R13"
