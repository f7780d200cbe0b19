"""What the watchers of one run share: the story so far, what was visited, and what was broken.

The *story* is one line of text an event, with nothing in it that another process would not say
too: no wall time, no pid, no path. Its hash stands for the run: equal seeds, equal hashes (H2).

A *probe* counts how often a rare state was visited. A simulator that never visits one of
`REQUIRED_PROBES` proves nothing about it, so a campaign that does not fails.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

from labrpc.sim.loop import true_clock

EVENTS_KEPT: Final = 40
"""So many last events are told with a failure."""

OFTEN_PROBES: Final = (
    "leader deposed with uncommitted tail",
    "leader stepped down without a quorum",
    "pre-vote refused",
    "two candidates in a term",
    "entry of an old term committed with a new one",
    "uncommitted tail overwritten",
    "snapshot sent",
    "snapshot installed",
    "log cut while a peer lagged",
    "duplicate answered from the table",
    "duplicate answered after leader change",
    "batch done",
    "batch refused in the middle",
    "batch repeated",
    "named write answered from the table",
    "named batch answered from the table",
    "list that showed a whole batch",
    "shard moved A to B to A",
    "source down during a hand-over",
    "destination down during a hand-over",
    "replica replaced",
    "learner promoted",
    "leader removed itself",
    "transfer succeeded",
    "power cut of all nodes with acked writes",
    "unknown outcome that took effect",
    "unknown outcome that did not",
    "vote after restart in same term refused",
    "snapshot interrupted by a newer one",
    "mutual moves",
    "disk full at a vote or term",
)
"""What every campaign of `OFTEN_SEEDS_MIN` seeds or more must visit."""

REQUIRED_PROBES: Final = (
    *OFTEN_PROBES,
    "one-way-isolated leader",
    "leader paused",
    "snapshot interrupted by crash",
    "snapshot interrupted by leader change",
    "snapshot installed over a conflicting log",
    "writes under way lost by a power cut",
    "damage refused: log row flipped",
    "damage refused: log wiped",
    "damage refused: log rolled back",
    "damage refused: promises flipped",
    "damage refused: data progress flipped",
    "disk full at an entry",
    "disk of a leader failed",
    "disk of a follower failed",
    "disk of a leader stalled",
    "change of members truncated",
    "node re-added with new id",
    "transfer failed",
    "duplicate answered after migration",
    "op refused at apply",
    "install repeated or late",
    "drop repeated or late",
    "freeze crossed by leader change",
    "freeze crossed by snapshot",
    "group left while its hand-over ran",
    "controller's leader changed during a change",
    "two administrators at once",
    "old frames replayed",
    "damaged frame dropped",
    "pre-vote refused under a live leader",
    "read waited for apply",
    "read waited for the term's first commit",
    "read failed by a step-down",
    "freeze crossed by restart",
    "three configurations behind",
    "outsiders flapped",
    "outsiders came back",
    "split vote",
    "uncommitted tail of three terms overwritten",
    "transfer crossed by an election",
    "snapshot refused as old",
    "half-written promise left by a power cut",
    "disk full at a snapshot",
    "duplicate answered after a restart or snapshot",
    "append refused at the value limit",
    "batch refused at the value limit",
    "overload borne",
)
"""What every campaign of `PROBED_SEEDS_MIN` seeds or more must visit."""

NAMED_PROBES: Final = {
    "death": (
        "node died with its disk",
        "stranger came under a dead node's name",
        "healing made a replica anew",
    ),
    "bereft": (
        "acknowledged write lost with a majority",
        "shard begun anew, as the plan said",
        "survivor was configurations behind",
        "recovery died half-way",
        "hand-over of a recovered group begun anew",
        "group went on from a survivor",
    ),
    "extinct": (
        "acknowledged write lost with a majority",
        "shard begun anew, as the plan said",
        "group given up",
    ),
}
"""By the fault that makes a run one of its own kind: what a campaign of `NAMED_SEEDS_MIN` such runs
must visit instead."""


class InvariantBroken(AssertionError):
    """What must always hold did not. `docs/invariants.md` says what each id means."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


class Observer:
    """The common memory of one run's watchers. Made on the run's loop.

    Args:
        sink: Takes each line as it is told; None: nobody wants more than the last ones.
        wire: Whether messages and syncs are told too. They are many, and not part of the hash.
    """

    def __init__(self, sink: Callable[[str], None] | None = None, *, wire: bool = False) -> None:
        self.probes: Counter[str] = Counter()
        self.broken: list[InvariantBroken] = []
        self.last: deque[str] = deque(maxlen=EVENTS_KEPT)
        self.wire = wire and sink is not None
        self._sink = sink
        self._hash = blake2b(digest_size=8)
        self._loop = asyncio.get_running_loop()
        self._now = true_clock()

    def tell(self, text: str) -> None:
        """An event of the story."""
        line = f"{self._now():.6f} {text}"
        self.last.append(line)
        self._hash.update(line.encode())
        if self._sink is not None:
            self._sink(line)

    def tell_wire(self, text: str) -> None:
        """An event below the story. Ask `wire` first: making the text costs more than all else."""
        if self._sink is not None:
            self._sink(f"{self._now():.6f} {text}")

    def probe(self, name: str) -> None:
        self.probes[name] += 1

    @property
    def story_hash(self) -> str:
        return self._hash.hexdigest()

    def broke(self, invariant: str, text: str) -> None:
        """Note a broken invariant, and fail the run."""
        error = InvariantBroken(invariant, text)
        self.broken.append(error)
        self.tell(f"BROKEN {error}")
        # Raised into the loop, not here: the driver would stop the replica and go on.
        self._loop.call_soon(_throw, error)

    def finish(self) -> None:
        """At the end of a run.

        Raises:
            InvariantBroken: the first one.
        """
        if self.broken:
            raise self.broken[0]


def missing(probes: Counter[str], required: Iterable[str] = REQUIRED_PROBES) -> list[str]:
    """The required probes that were never visited."""
    return [name for name in required if not probes[name]]


def _throw(error: InvariantBroken) -> None:
    raise error
