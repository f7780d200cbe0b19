"""Runs a set of benches, one after another, and writes `docs/performance.md` anew.

    python -m bench                 the quick set: ten minutes
    python -m bench essential       what the targets need: a quarter of an hour
    python -m bench long            more rounds, 5 million keys: an hour and more
    python -m bench five-million    the store of 5 million keys alone

A bench that fails is told at the end; the others run.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

EVENTS_QUICK: Final = "events --keys 200000 --kills 10 --restarts 2 --seconds 20"
GROWTH_5M: Final = "growth --keys 1000000 5000000 --rounds 5 --seconds 2 --out growth-5m"

SETS: Final[Mapping[str, Sequence[str]]] = {
    "quick": (
        "versus --gets 0 1 --variants shardkv shardkv-4 --peers etcd redis --seconds 0.6",
        "hops --rounds 3 --seconds 0.6",
        "ycsb --rounds 3 --seconds 0.6",
        "sizes --rounds 3 --seconds 0.6",
        "groups --groups 1 100 --seconds 8",
        "growth --keys 200000 --rounds 3 --seconds 1",
        EVENTS_QUICK,
        "handover 1 32 --moves 3",
        "stages --seconds 4",
    ),
    "essential": (
        "versus --rounds 5 --seconds 0.8",
        "hops --rounds 5 --seconds 1",
        "groups --groups 1 10 100 --seconds 10",
        "growth --keys 1000000 --rounds 5 --seconds 1",
        "events --keys 1000000 --kills 12 --restarts 3 --seconds 30",
        "handover 1 256 --moves 3",
        "stages --seconds 4",
    ),
    "rest": (
        "ycsb --rounds 3 --seconds 1",
        "sizes --rounds 3 --seconds 1",
    ),
    "five-million": (GROWTH_5M,),
    "long": (
        "versus --rounds 7 --seconds 3",
        "hops --clients 1 10 100 --rounds 7 --seconds 2",
        "ycsb --rounds 5 --seconds 3",
        "sizes --rounds 5 --seconds 3",
        "groups --groups 1 10 100 --seconds 30",
        "growth --keys 1000000 --rounds 7 --seconds 3",
        "events --keys 1000000 --kills 20 --restarts 5 --seconds 90",
        "handover 1 64 256 --moves 10",
        "stages --loads 0:1 0:100 0.5:100 1:100 --seconds 10",
        GROWTH_5M,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", nargs="?", choices=SETS, default="quick")
    chosen = parser.parse_args().set
    failed = []
    begun = time.monotonic()
    for words in (*SETS[chosen], "report"):
        print(f"\n==== bench.{words}", flush=True)
        name, *options = words.split()
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"bench.{name}", *options], check=False)
        if done.returncode:
            failed.append(name)
        print(f"---- {name}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"\n{chosen}: {(time.monotonic() - begun) / 60:.1f} minutes")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
