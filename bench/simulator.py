"""How many simulated seconds does one second of one core play, with every invariant watched?

    python bench/simulator.py [--seeds 3] [--seconds 60] [--only t1|t1-faults|five] [--profile FILE]

Three kinds of run, each with heartbeats of 100 ms and six clients that ask about 50 times a
simulated second while there is work: `t1`, a controller of 3 and 3 groups of 3 with 12 shards and
24 keys, without faults; `t1-faults`, the same under the faults that the seed draws; `five`, one
group of five nodes under the faults that the seed draws, its controller on the same five. Each is
played whole: birth, work, healing, coming to rest, judging what clients saw.

The seconds are CPU time of this process, so that others on the machine matter little; they do
matter somewhat (caches are shared), so the best seed of a kind is told beside the median.

Compare only runs of one length. A simulated second of work costs ten times what one at rest does,
and each run ends with some twenty at rest or nearly so: the longer it is, the more of it is work.
On one core of an AMD EPYC with Python 3.11.7, others at work on the other one:

    seconds of work           20        60
    t1                     49-56        45
    five                   49-59     39-41

While there is work, at 40 to 60 operations a second: 25 to 40 ms of CPU a second of `t1`, 31 to
44 ms of `five`; at rest 3 to 4 ms. So an operation costs 0.6 ms in groups of three and 0.8 ms in a
group of five, which takes it through some fifty callbacks: eight frames, five disks, five state
machines. No part stands out: some 15 % are watchers; the loop itself, the collector and the judge
at the end take a few hundredths. No part grows with the run either: in the fourth minute of `t1`
each costs what it did in the first, a call.
"""

import argparse
import cProfile
import itertools
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from labrpc.sim.chance import Chance
from labs.knobs import Knobs
from labs.scenario import ScenarioConfig, drawn_faults, play
from labs.topology import topology
from labs.workload import WorkloadConfig

KINDS = ("t1", "t1-faults", "five")
WORKLOAD = WorkloadConfig(clients=4, readers=2)
"""Six clients. Two of them read from any replica, keep sessions and list: without them C6, C9 and
R14 on followers would have nothing to look at."""


def seeds_of(kind: str) -> Iterator[int]:
    """All, or those whose T0 is a group of five."""
    for seed in itertools.count(1):
        if kind != "five" or topology("T0", Chance(seed).rng("topology")).nodes == 5:
            yield seed


def config_of(kind: str, seed: int, seconds: float) -> ScenarioConfig:
    faults = () if kind == "t1" else drawn_faults(seed)
    return ScenarioConfig(
        seconds=seconds,
        topology="T0" if kind == "five" else "T1",
        workload=WORKLOAD,
        knobs=Knobs(),
        faults=tuple(fault for fault in faults if fault != "ruin"),
    )


def measure(kind: str, seed: int, seconds: float) -> float:
    """Simulated seconds for each second of CPU."""
    began = time.process_time()
    outcome, _ = play(seed, config_of(kind, seed, seconds))
    took = time.process_time() - began
    asked = outcome.acknowledged + outcome.unknown + outcome.refused
    print(
        f"{kind}, seed {seed}: {outcome.seconds:.0f} simulated s in {took:.2f} s of CPU, "
        f"{outcome.seconds / took:.1f} x; {outcome.events / took:,.0f} events/s, "
        f"{asked / outcome.seconds:.0f} operations a simulated s",
        flush=True,
    )
    return outcome.seconds / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="so many of each kind")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated, of work")
    parser.add_argument("--only", choices=KINDS, help="one kind of run")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="of cProfile: slows it down")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what faults make the parts say

    profile = cProfile.Profile(time.process_time) if args.profile else None
    for kind in KINDS if args.only is None else (args.only,):
        with profile or nullcontext():
            rates = [
                measure(kind, seed, args.seconds)
                for seed in itertools.islice(seeds_of(kind), args.seeds)
            ]
        print(
            f"{kind}: {statistics.median(rates):.1f} simulated s per s and core, "
            f"{max(rates):.1f} at best",
            flush=True,
        )
    if profile is not None:
        profile.dump_stats(args.profile)


if __name__ == "__main__":
    main()
