"""Seeds that nobody has played: drawn from the commit, so whoever plays the same commit plays the
same ones. One that fails has found something: it goes to the corpus with its cause.

`make test` plays them for SIM_SECONDS on each of two cores, in a process of their own beside the
other tests; `make fresh-sim` plays them alone. A run of pytest by hand plays a few.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 2 * int(os.environ.get("SIM_SECONDS", "2"))


@pytest.mark.timeout(SECONDS + 300)
def test_fresh_seeds_are_all_right() -> None:
    command = [sys.executable, "-m", "labs", "simulate", "--fresh", "--budget", str(SECONDS)]
    played = subprocess.run(
        [*command, "--jobs", "1"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(played.stdout)

    assert played.returncode == 0, "the seed and the command that plays it again stand above"
