"""Random schedules against the pure core: loss, repeats, reordering, crashes, partitions.

A failure prints its seed in the test's id: `pytest tests/raft/test_core_random.py -k "seed7"`.
"""

import pytest

from raft.config import Mode
from tests.support.raft_sim import Cluster, Faults


@pytest.mark.parametrize("seed", range(12), ids=lambda seed: f"seed{seed}")
def test_core_keeps_its_invariants_and_converges(seed: int) -> None:
    """R1 to R7, R10 to R12 and R14 hold at each step; after healing all replicas agree."""
    mode = Mode.LAB if seed % 3 == 2 else Mode.PRODUCTION
    faults = Faults(loss=0.1, repeat=0.1, late=0.05)
    cluster = Cluster(seed, size=3 + 2 * (seed % 2), faults=faults, mode=mode)

    cluster.harass(40.0)
    cluster.converge()

    assert cluster.elections >= 3, "a run without elections proves nothing"
    assert len(cluster.canonical) > 20


@pytest.mark.parametrize("seed", range(100, 110), ids=lambda seed: f"seed{seed}")
def test_members_change_under_faults(seed: int) -> None:
    """Joint changes with learners, crossed by crashes and leader changes, finish or are undone."""
    faults = Faults(loss=0.05, repeat=0.05, late=0.02, members_change=True)
    cluster = Cluster(seed, size=3, faults=faults, spare=4)

    cluster.harass(40.0)
    cluster.converge()

    assert cluster.committed_memberships >= 3


def test_random_runs_reach_the_rare_branches() -> None:
    """Probes: a simulator that never visits the hard states proves nothing."""
    cluster = Cluster(4711, size=5, faults=Faults(loss=0.1, repeat=0.1, late=0.1))

    cluster.harass(60.0)
    cluster.converge()

    assert cluster.snapshots_installed >= 1
    assert cluster.reads_served >= 10
    assert cluster.elections >= 5
