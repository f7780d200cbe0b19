"""`labs simulate`: a cluster under faults, from a seed."""

import argparse
import sys
import time

from labs.scenario import play


def simulate(arguments: argparse.Namespace) -> int:
    """Returns 0 if every run was right; the first that was not shows its seed and a traceback."""
    for number in range(arguments.runs):
        whole = arguments.seed.isdigit()
        seed = int(arguments.seed) + number if whole else f"{arguments.seed}/{number}"
        if arguments.runs == 1 and not whole:
            seed = arguments.seed
        began = time.perf_counter()
        outcome, _ = play(seed)
        took = time.perf_counter() - began
        sys.stdout.write(f"seed {seed}: {outcome} in {took:.1f} s\n")
        sys.stdout.flush()
    return 0
