"""`shardkv`, whose node ends by kill -9 the moment its state machine takes a step of a hand-over.

`TEST_DOOM` names a directory. As soon as a node that leads a group applies a command of a kind, and
a file of the kind's and the group's name is there (`freeze-1`), it takes the file away and is gone:
after the step is committed, before its rows are stored and before anybody was answered. So each
doom strikes one node, once. A program for tests; nothing else differs.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from raft.types import Index
from shardkv.cli import main
from shardkv.commands import decode
from shardkv.machine import StoreMachine
from shardkv.server import GroupStateMachine
from tests.support.processes import ROOT, Cluster, environment

VARIABLE = "TEST_DOOM"


def install(directory: Path) -> None:
    """Let this process die where the directory says so."""
    apply = StoreMachine.apply
    leaders: dict[int, GroupStateMachine] = {}
    attach = GroupStateMachine.__init__

    def attached(self: GroupStateMachine, machine: StoreMachine) -> None:
        attach(self, machine)
        leaders[machine.gid] = self

    def fatal(self: StoreMachine, index: Index, command: bytes, rows: Any) -> Any:
        answer = apply(self, index, command, rows)
        if leaders[self.gid].leads and command[2:3] >= b"\x14":  # no command of a client
            doom = directory / f"{type(decode(command)).__name__.lower()}-{self.gid}"
            try:
                doom.unlink()
            except FileNotFoundError:
                return answer
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    GroupStateMachine.__init__ = attached  # type: ignore[method-assign]
    StoreMachine.apply = fatal  # type: ignore[method-assign]


def start(cluster: Cluster, name: str, directory: Path) -> None:
    """Start a node that is down, as `Cluster.restart` does, so that it can be doomed."""
    node = cluster.nodes[name]
    assert not cluster.runs(name)
    with (cluster.directory / f"{name}.err").open("ab") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.doomed", "node", "--data", str(node.data)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            cwd=ROOT,
            env=environment(**cluster.settings) | {VARIABLE: str(directory)},
        )
    cluster.adopt(process)
    node.process, node.pid = process, process.pid


if __name__ == "__main__":
    install(Path(os.environ[VARIABLE]))
    main()
