"""The cluster of cores (`tests/support/raft_sim.py`) under a script instead of a nemesis."""

from collections.abc import Callable, Iterable
from functools import partial

from raft.config import Mode
from raft.messages import AnyMessage
from raft.types import ReplicaId, Role
from tests.support.raft_sim import Cluster, Faults, Node

E = 1.0
"""The largest election time-out of the configuration, in seconds."""


class Scripted(Cluster):
    """Each step of the script is a call; every invariant of `Cluster` is checked meanwhile.

    Attributes:
        lost: Messages for which this says so never arrive.
        delayed: Seconds by which a message comes later than usual.
    """

    def __init__(
        self, size: int, *, seed: int = 1, mode: Mode = Mode.PRODUCTION, spare: int = 0
    ) -> None:
        self.lost: Callable[[AnyMessage], bool] = lambda message: False
        self.delayed: Callable[[AnyMessage], float] = lambda message: 0.0
        super().__init__(seed, size, Faults(), mode, spare)

    def node(self, number: int) -> Node:
        return self.nodes[ReplicaId(number)]

    def numbers(self, *but: int) -> list[int]:
        return [int(number) for number in self.nodes if number not in but]

    # The network

    def send(self, message: AnyMessage) -> None:
        if self.lost(message):
            self.check_promise(message)
            return
        if seconds := self.delayed(message):
            self.check_promise(message)
            self.at(self.now + seconds, partial(self.deliver, message))
            return
        super().send(message)

    def cut_one_way(self, source: int, target: int) -> None:
        self.cut.add((ReplicaId(source), ReplicaId(target)))

    def cut_off(self, number: int, others: Iterable[int] | None = None) -> None:
        """No link between this node and these others, or any."""
        for other in self.numbers(number) if others is None else others:
            self.cut_one_way(number, other)
            self.cut_one_way(other, number)

    def only_links(self, *pairs: tuple[int, int]) -> None:
        """Cut every link but these, which work both ways."""
        for a in self.nodes:
            for b in self.nodes:
                if a != b and (int(a), int(b)) not in pairs and (int(b), int(a)) not in pairs:
                    self.cut.add((a, b))

    def mend(self) -> None:
        self.cut.clear()

    # The group

    def leading(self) -> list[Node]:
        """All that believe to lead, the newest last."""
        lead = [n for n in self.nodes.values() if n.core and n.core.role is Role.LEADER]
        return sorted(lead, key=lambda node: node.core.term if node.core else 0)

    def led(self, seconds: float = 20 * E) -> Node:
        """Run until somebody leads that can commit; returns it. Fails after so long (L1)."""
        self.until(lambda: bool(self.leading()), seconds, "L1: nobody leads")
        return self.leading()[-1]

    def until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        end = self.now + seconds
        while not true():
            assert self.now < end, what
            self.run(0.01)

    def propose(self, node: Node, data: bytes) -> bool:
        """Whether it took the command."""
        assert node.core is not None
        taken = node.core.propose(data) is not None
        self.turn(node)
        return taken

    def commits(self, data: bytes, seconds: float = 25 * E) -> Node:
        """A client asks whoever claims to lead, again and again, until its command is committed
        (L2); returns whoever committed it first."""
        end, asked = self.now + seconds, 0.0
        while True:
            for node in self.nodes.values():
                if any(entry.data == data for entry in node.applied):
                    return node
            assert self.now < end, f"L2: {data!r} is not committed"
            if self.now >= asked:
                for node in self.leading():
                    self.propose(node, data)
                asked = self.now + 0.2
            self.run(0.02)

    def agree(self, numbers: Iterable[int], seconds: float = 60 * E) -> None:
        """They come to show the same state, and their logs are equal (L3)."""
        nodes = [self.node(number) for number in numbers]

        def same() -> bool:
            return all(node.applied == nodes[0].applied for node in nodes)

        self.until(same, seconds, f"L3: {[len(node.applied) for node in nodes]}")
        lasts = [node.core.log.last for node in nodes if node.core is not None]
        assert len(lasts) == len(nodes) and len(set(lasts)) == 1, lasts
