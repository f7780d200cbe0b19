"""Which tests run beside which, where workers share them (`make test`)."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling
    from xdist.workermanage import WorkerController

REAL = ("tests/processes/", "tests/shardkv/http/test_real_node.py")
LONG = ("tests/simulation/", "tests/labs/")
"""What has files that take long comes first, so that at the end short ones are left to share."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadFileScheduling | None":
    """Files of real processes are the first worker's, all others are the other workers'. Whoever
    has none of its own left takes from what is left.

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

    return Lanes(config, log)
