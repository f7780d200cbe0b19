"""Play a simulated run again, or many: `python -m labs simulate --seed 4711 [--runs 100]`."""

import argparse
import sys
import time

from labs.scenario import play


def main() -> int:
    """Returns 0 if every run was right; the first that was not shows its seed and a traceback."""
    parser = argparse.ArgumentParser(prog="python -m labs", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    simulate = verbs.add_parser("simulate", help="a cluster under faults, from a seed")
    simulate.add_argument("--seed", default="1", help="a run's seed; of many, the first one's")
    simulate.add_argument("--runs", type=int, default=1, help="how many, counting up the seed")
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    sys.exit(main())
