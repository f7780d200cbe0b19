"""Ctrl-C in a command, and what a node needs of its surroundings."""

import json
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from shardkv import nodedir
from shardkv.cli.failures import Exit
from tests.support.processes import PROGRAM, Cluster, environment


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["put", "k", "v"], "interrupted; the outcome is unknown"),
        (["append", "k", "v"], "interrupted; the outcome is unknown"),
        (["get", "k"], "interrupted"),
        (["status"], "interrupted"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_ends_a_command_at_once(command: list[str], said: str) -> None:
    with socket.socket() as silent:  # it listens, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(20)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            [*PROGRAM, *command, "--endpoints", address, "--timeout", "20"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(), text=True,
        ) as process:  # fmt: skip
            connection, _ = silent.accept()  # it has dialled, and waits
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
            connection.close()

    assert (process.returncode, out) == (Exit.UNKNOWN, "")
    assert err.startswith(f"shardkv {command[0]}: {said}")
    assert err.count("\n") == 1
    assert time.monotonic() - begun < 2


def _node(tmp_path: Path, files: int) -> "subprocess.CompletedProcess[str]":
    nodedir.create(tmp_path / "n1", cluster=b"c" * 16, settings={"node": "n1"})
    return subprocess.run(
        [*PROGRAM, "node", "--data", str(tmp_path / "n1")],
        capture_output=True, text=True, timeout=30, env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )  # fmt: skip


def test_a_node_that_may_open_too_few_files_says_how_many_it_needs(tmp_path: Path) -> None:
    refused = _node(tmp_path, files=64)

    assert refused.returncode == Exit.USAGE
    assert "may open 64 files, and a node needs 1024" in refused.stderr


def test_ctrl_c_is_how_a_watch_of_the_status_ends(tmp_path: Path) -> None:
    """0, with whatever it showed last."""
    running = Cluster(tmp_path, nodes=1, replicas=1)
    try:
        running.start()
        endpoints = ",".join(running.endpoints)
        with subprocess.Popen(
            [*PROGRAM, "status", "--watch", "--json", "--endpoints", endpoints],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(), text=True,
        ) as watching:  # fmt: skip
            assert watching.stdout is not None
            pictures = [json.loads(watching.stdout.readline()) for _ in range(2)]
            watching.send_signal(signal.SIGINT)
            _, err = watching.communicate(timeout=10)
    finally:
        running.close()

    assert (watching.returncode, err) == (Exit.DONE, "")
    assert [picture["nodes"][0]["node"] for picture in pictures] == ["n1", "n1"]
