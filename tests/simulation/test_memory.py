"""A campaign plays thousands of runs in one process."""

import gc

from labs.cli.simulate import run_seed
from labs.cluster import SimCluster
from labs.scenario import ScenarioConfig


def test_no_run_that_was_played_is_kept() -> None:
    """Each left its cluster to nobody: the parts of it point at each other, and the loop of the
    next run sets aside what it finds."""
    config = ScenarioConfig(seconds=1.0, topology="T4")

    outcomes = [run_seed(seed, config).outcome for seed in (1, 2)]

    assert all(outcomes)
    assert not [one for one in gc.get_objects() if isinstance(one, SimCluster)]
