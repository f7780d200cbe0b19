"""What does a client notice when something happens: a kill, a restart, a newcomer, a compaction?

Three nodes with one group, fsync on, clients that put 256-byte values all the while.

- `kill`: kill -9 of the leader, again and again. Time without service is the longest stretch
  around the kill in which no put was answered.
- `restart`: a node that holds many keys is killed (-9), or stopped (SIGTERM), and started again:
  from the start of its process to its `/readyz`, and until it has applied all that was committed.
- `newcomer`: a fresh node takes a replica of the group: from `ctl add-replica` to its vote.
- `compaction`: puts at a steady rate, while logs are cut and LevelDB writes and merges tables. Its
  own log files say when it did so, on any of the nodes; puts that overlap such a time are compared
  with all others of the same run.

    python -m bench.events                           all of it on 200,000 keys: three minutes
    python -m bench.events --keys 1000000 --kills 20 --seconds 60
    python -m bench.events --only kill
"""

import argparse
import asyncio
import contextlib
import re
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.cluster import PROGRAM, Running, cluster
from bench.growth import filled, on_the_loop
from bench.measuring import median, quantile, save
from shardkv import aio
from shardkv.benching import Load, Values
from shardkv.clerk import Clerk
from shardkv.errors import ShardKVError

EVENTS: Final = ("kill", "restart", "newcomer", "compaction")
CLIENTS: Final = 8
"""Of the load while nodes are killed: enough to tell service from none."""
REST_SECONDS: Final = 0.7
"""Before and after each kill, so that two do not touch each other."""
READY_SECONDS_MAX: Final = 120.0
LOOK_SECONDS: Final = 0.02
TICK_SECONDS: Final = 0.005
WARM_SECONDS: Final = 2.0


@dataclass
class Spans:
    """When each put began and was answered (`time.time()`)."""

    done: list[tuple[float, float]] = field(default_factory=list)
    errors: int = 0
    stopped: bool = False

    async def put(self, kv: Clerk, key: bytes, value: bytes) -> None:
        began = time.time()
        try:
            await kv.put(key, value)
        except ShardKVError:
            self.errors += 1
        else:
            self.done.append((began, time.time()))

    async def closed_loops(self, kv: Clerk, load: Load, rng: Random) -> None:
        """As many clients as the load says, each asks again when answered, until `stopped`."""
        values = Values(rng, load.value_bytes)

        async def client() -> None:
            while not self.stopped:
                await self.put(kv, b"%s%d" % (load.prefix, rng.randrange(load.keys)), values.draw())

        await asyncio.gather(*(client() for _ in range(load.clients)))

    async def at_a_rate(self, kv: Clerk, load: Load, rate: float, rng: Random) -> None:
        """So many puts a second, whatever becomes of them (an open loop), for `load.seconds`."""
        values, tasks = Values(rng, load.value_bytes), set[asyncio.Task[None]]()
        begun, sent = time.perf_counter(), 0
        while (passed := time.perf_counter() - begun) < load.seconds:
            for _ in range(int(passed * rate) - sent):
                key = b"%s%d" % (load.prefix, rng.randrange(load.keys))
                task = asyncio.ensure_future(self.put(kv, key, values.draw()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            await asyncio.sleep(TICK_SECONDS)
        await asyncio.gather(*tasks)

    def longest_silence(self, begin: float, end: float) -> float:
        """The longest stretch without an answer between two moments, in seconds."""
        ends = sorted(moment for _, moment in self.done if begin <= moment <= end)
        return max(after - before for before, after in pairwise([begin, *ends, end]))


# Kill


async def kills(running: Running, options: argparse.Namespace) -> dict[str, Any]:
    """Kill the leader so many times, and let it come back each time."""
    spans, rng = Spans(), Random(2)
    load = Load(clients=CLIENTS, seconds=0, keys=options.keys, value_bytes=options.size)
    async with aio.connect(running.endpoints, timeout=60) as kv:
        loading = asyncio.ensure_future(spans.closed_loops(kv, load, rng))
        silences = [await _killed(running, spans) for _ in range(options.kills)]
        spans.stopped = True
        await loading
    print(
        f"  without service after kill -9 of the leader: median {median(silences):.2f} s, "
        f"{min(silences):.2f} to {max(silences):.2f} of {len(silences)}; {spans.errors} errors",
        flush=True,
    )
    return {"seconds": silences, "errors": spans.errors, "puts": len(spans.done)}


async def _killed(running: Running, spans: Spans) -> float:
    """Kill the leader once, under load; seconds without service."""
    number = await asyncio.to_thread(running.leader)
    await asyncio.sleep(REST_SECONDS)
    moment = time.time()
    await asyncio.to_thread(running.kill, number)
    await _until(lambda: spans.done[-1][0] > moment)  # a put that began without it
    await asyncio.sleep(REST_SECONDS)
    silence = spans.longest_silence(moment - 0.2, time.time())
    running.start(number)
    await _until(lambda: running.state(number)["ready"])
    return silence


async def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        with contextlib.suppress(LookupError, OSError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {READY_SECONDS_MAX:g} s")
        await asyncio.sleep(LOOK_SECONDS)


def _applied(running: Running, number: int) -> int:
    return int(next(g for g in running.state(number)["groups"] if g["gid"] == 1)["applied"])


# Restart


async def restarts(running: Running, options: argparse.Namespace) -> dict[str, Any]:
    """One node after another is killed or stopped, and started again."""
    found: dict[str, list[dict[str, float]]] = {"SIGKILL": [], "SIGTERM": []}
    for turn in range(options.restarts):
        for how, rows in found.items():
            number = (turn + (how == "SIGTERM")) % len(running.pids)
            rows.append(await _restarted(running, number, signal.Signals[how]))
    for how, rows in found.items():
        ready = [row["ready"] for row in rows]
        print(
            f"  ready after {how} with {options.keys:,} keys: median {median(ready):.2f} s, "
            f"{min(ready):.2f} to {max(ready):.2f}; has all that was committed after "
            f"{median(row['caught_up'] for row in rows):.2f} s",
            flush=True,
        )
    return {"keys": options.keys, "seconds": found}


async def _restarted(running: Running, number: int, how: signal.Signals) -> dict[str, float]:
    await asyncio.to_thread(running.kill, number, how)
    others = [other for other in range(len(running.pids)) if other != number]
    committed = max([_applied(running, other) for other in others])
    begun = time.monotonic()
    running.start(number)
    await _until(lambda: running.state(number)["ready"])
    ready = time.monotonic() - begun
    await _until(lambda: _applied(running, number) >= committed)
    return {"ready": ready, "caught_up": time.monotonic() - begun}


# A newcomer


async def newcomer(running: Running, options: argparse.Namespace) -> dict[str, Any]:
    """A node n4, blank, takes a replica of group 1; then it goes again."""
    directory = running.data / "n4"
    join = ",".join(running.endpoints)
    words = ("init", "--data", str(directory), "--node", "n4", "--join", join)
    await asyncio.to_thread(_shardkv, *words)
    running.adopt(3, directory)
    host, _, port = running.endpoints[0].rpartition(":")
    address = f"{host}:{int(port) + 30}"
    fourth = Running((*running.endpoints, address), running.pids, running.data)
    # A node that holds nothing has no configuration; so it is enough that it answers.
    await _until(lambda: fourth.state(3)["state"] == "running")
    begun = time.monotonic()
    await asyncio.to_thread(_shardkv, "ctl", "add-replica", "1", "n4", "--endpoints", join)
    seconds = time.monotonic() - begun
    megabytes = options.keys * options.size / 1e6
    print(
        f"  a fresh replica has {options.keys:,} keys and votes after {seconds:.1f} s "
        f"({megabytes / seconds:.0f} MB of values a second)",
        flush=True,
    )
    await asyncio.to_thread(_shardkv, "ctl", "remove-replica", "1", "n4", "--endpoints", join)
    running.kill(3)
    return {"keys": options.keys, "seconds": seconds}


def _shardkv(*words: str) -> None:
    subprocess.run([*PROGRAM, *words], check=True, capture_output=True)


# Compaction

_LINE: Final = re.compile(r"(\d{4}/\d\d/\d\d-\d\d:\d\d:\d\d\.\d+) \S+ (.*)")
_BEGINS: Final = {"flush": re.compile(r"Level-0 table #\d+: started"),
                  "merge": re.compile(r"Compacting \d+@\d")}  # fmt: skip
_ENDS: Final = {"flush": re.compile(r"Level-0 table #\d+: \d+ bytes"),
                "merge": re.compile(r"Compacted \d+@\d")}  # fmt: skip


def busy_times(log: Path) -> Iterator[tuple[str, float, float]]:
    """When LevelDB wrote a table ("flush") or merged some ("merge"), by its own log."""
    begun: dict[str, float] = {}
    for line in log.read_text(errors="replace").splitlines():
        parts = _LINE.match(line)
        if parts is None:
            continue
        moment = datetime.strptime(parts[1], "%Y/%m/%d-%H:%M:%S.%f").timestamp()
        for kind in ("flush", "merge"):
            if _BEGINS[kind].match(parts[2]):
                begun[kind] = moment
            elif _ENDS[kind].match(parts[2]) and kind in begun:
                yield kind, begun.pop(kind), moment


async def compaction(running: Running, options: argparse.Namespace) -> dict[str, Any]:
    """Puts at half of what the store can do, long enough for logs to be cut and tables merged."""
    rng = Random(3)
    async with aio.connect(running.endpoints, timeout=60) as kv:
        capacity = Spans()
        load = Load(
            clients=100, seconds=options.seconds, keys=options.keys, value_bytes=options.big
        )
        loading = asyncio.ensure_future(capacity.closed_loops(kv, load, rng))
        await asyncio.sleep(WARM_SECONDS)
        capacity.stopped = True
        await loading
        rate = options.rate or 0.5 * len(capacity.done) / WARM_SECONDS
        spans, begun = Spans(), time.time()
        await spans.at_a_rate(kv, load, rate, rng)
    times = [
        (kind, begin, end)
        for number in range(len(running.pids))
        for database in ("data", "log")
        for kind, begin, end in busy_times(running.directory(number) / database / "LOG")
        if end > begun
    ]
    took = {"quiet": list[float](), "flush": list[float](), "merge": list[float]()}
    marks = {kind: _joined([(b, e) for k, b, e in times if k == kind]) for kind in _BEGINS}
    for began, ended in spans.done:
        milliseconds = (ended - began) * 1000
        kinds = [kind for kind, spells in marks.items() if _overlaps(spells, began, ended)]
        for kind in kinds or ["quiet"]:
            took[kind].append(milliseconds)
    rows = {
        kind: {
            "puts": len(all_), "p50_ms": quantile(all_, 0.5), "p99_ms": quantile(all_, 0.99),
            "p999_ms": quantile(all_, 0.999), "max_ms": max(all_, default=0.0),
            "times": sum(1 for k, _, _ in times if k == kind),
            "seconds": sum(e - b for b, e in marks.get(kind, [])),
        }
        for kind, all_ in took.items()
    }  # fmt: skip
    for kind, row in rows.items():
        print(
            f"  {kind:5}: {row['puts']:7,} puts, p50 {row['p50_ms']:.2f} ms, p99 "
            f"{row['p99_ms']:.2f} ms, worst {row['max_ms']:.1f} ms; {row['times']} times, "
            f"{row['seconds']:.1f} s in all",
            flush=True,
        )
    ratio = {
        kind: rows[kind]["p99_ms"] / rows["quiet"]["p99_ms"]
        for kind in _BEGINS
        if rows[kind]["puts"] and rows["quiet"]["puts"]
    }
    words = ", ".join(f"{kind} {one:.2f} x" for kind, one in ratio.items())
    print(f"  p99 against quiet times, at {rate:,.0f} puts/s: {words}", flush=True)
    return {"rate": rate, "value_bytes": options.big, "rows": rows, "p99_ratio": ratio}


def _joined(spells: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spells of time that overlap become one."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(spells):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return joined


def _overlaps(spells: Sequence[tuple[float, float]], begin: float, end: float) -> bool:
    """Whether a stretch touches one of the spells, which are in order and apart."""
    place = bisect_left(spells, (end, 0.0))
    return place > 0 and spells[place - 1][1] >= begin


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=EVENTS, default=list(EVENTS))
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=256, help="bytes of a value")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=3, help="of each kind")
    parser.add_argument("--seconds", type=float, default=30.0, help="of puts with compaction")
    parser.add_argument("--big", type=int, default=1000, help="bytes of a value while compacting")
    parser.add_argument("--rate", type=float, help="puts a second then; default: half of the most")
    parser.add_argument("--out", default="events", help="name of the result file")
    options = parser.parse_args(arguments)
    measures = {
        "kill": kills, "restart": restarts, "newcomer": newcomer, "compaction": compaction,
    }  # fmt: skip
    found: dict[str, Any] = {}
    with cluster("--groups", "1") as running:
        load = Load(clients=1, seconds=0, value_bytes=options.size)
        seconds = on_the_loop(filled(running, 0, options.keys, load))
        print(f"filled with {options.keys:,} keys in {seconds:.1f} s", flush=True)
        for event in options.only:
            print(event)
            found[event] = on_the_loop(measures[event](running, options))
    save(options.out, options, **found)


if __name__ == "__main__":
    main()
