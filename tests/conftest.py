"""Which tests run beside which, where workers share them (`make test`)."""

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling
    from xdist.workermanage import WorkerController

REAL = ("tests/processes/", "tests/shardkv/http/test_real_node.py")
LONG = ("tests/simulation/", "tests/labs/")
"""What has files that take long comes first, so that at the end short ones are left to share."""
REAL_WORKERS = ("gw0", "gw1")
NICE = 3
"""Of every further worker: it takes what the others leave of the cores, and makes nobody late."""


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    if worker and worker not in REAL_WORKERS:
        os.nice(NICE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadFileScheduling | None":
    """Files of real processes are the first worker's, all others are the other workers'. Whoever
    has none of its own left takes from what is left; of real processes never more than two.

    A test of real processes starts three to six of them, and mostly waits. Two such tests at once
    want more cores than two at their starts, where they are late then, and leave both idle at other
    times. Beside one that only computes each has a core.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Lanes(LoadFileScheduling):
        def _assign_work_unit(self, node: "WorkerController") -> None:
            first = node is self.nodes[0]
            own = [file for file in self.workqueue if file.startswith(REAL) == first]
            long = [file for file in own if file.startswith(LONG)]
            for file in (long or own)[:1]:
                self.workqueue.move_to_end(file, last=False)
            super()._assign_work_unit(node)

        def _reschedule(self, node: "WorkerController") -> None:
            may_take_any = node.gateway.id in REAL_WORKERS
            if may_take_any or any(not file.startswith(REAL) for file in self.workqueue):
                super()._reschedule(node)
            elif not node.shutting_down:
                node.shutdown()

    return Lanes(config, log)
