"""The choice of gRPC's engine is made before gRPC is there, and leaves no trace."""

import os
import subprocess
import sys

import pytest

from labrpc.grpc import engine

SCRIPT = """
import os
{before}
import labrpc.grpc.transport
from labrpc.grpc import engine
print(engine.chosen, os.environ.get("GRPC_EXPERIMENTS"))
"""


def chosen(before: str = "") -> str:
    environment = {k: v for k, v in os.environ.items() if k != engine.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        capture_output=True, text=True, env=environment, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == "", "gRPC knows every name that it is given"
    return done.stdout.strip()


def test_the_engine_is_chosen_and_the_environment_is_as_it_was() -> None:
    assert chosen() == "True None"


def test_who_imported_grpc_before_has_chosen() -> None:
    assert chosen("import grpc") == "False None"


def test_a_user_who_says_experiments_has_chosen() -> None:
    said = f"os.environ['{engine.VARIABLE}'] = '-event_engine_client'"
    assert chosen(said) == "False -event_engine_client"


@pytest.mark.parametrize(
    ("version", "tried"),
    [("1.74.9", False), ("1.75.0", True), ("1.85.3", True), ("1.86.0", False), ("2.0.0", False)],
)
def test_a_version_that_nobody_tried_is_left_alone(version: str, tried: bool) -> None:
    assert engine._is_tried(version) is tried
