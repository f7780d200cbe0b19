"""What a simulated run came to, of whichever kind it was."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from labs.cluster import SimCluster
from labs.history import History
from labs.linearizability import NotLinearizable, Undecided
from labs.observer import InvariantBroken


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    acknowledged: int
    unknown: int
    refused: int
    hand_overs: int
    configs: int
    crashes: int
    rest_seconds: float
    faults: tuple[str, ...]
    topology: str
    story_hash: str
    probes: Counter[str]
    checks: int
    seconds: float = 0.0
    """Virtual seconds that the whole run took."""
    events: int = 0
    """Callbacks of the loop."""


def outcome_of(
    cluster: SimCluster,
    history: History,
    faults: tuple[str, ...],
    topology: str,
    *,
    rest_seconds: float,
    configs: int,
    crashes: int,
) -> Outcome:
    """Count what a run did, before its processes end."""
    for node in cluster.nodes.values():
        node.tell_counts()
    ends = [operation.happened for operation in history.operations]
    checks = [watcher.checks for watcher in cluster.watchers.values()]
    assert all(checks), "a run that checked nothing shows nothing"
    return Outcome(
        acknowledged=ends.count(True),
        unknown=ends.count(None),
        refused=ends.count(False),
        hand_overs=cluster.oracle.hand_overs,
        configs=configs,
        crashes=crashes,
        rest_seconds=rest_seconds,
        faults=faults,
        topology=topology,
        story_hash=cluster.observer.story_hash,
        probes=cluster.observer.probes,
        checks=sum(checks),
    )


@contextmanager
def c1() -> Iterator[None]:
    """The judges of histories do not know the invariants' numbers."""
    try:
        yield
    except (NotLinearizable, Undecided) as error:
        raise InvariantBroken("C1", str(error)) from error
