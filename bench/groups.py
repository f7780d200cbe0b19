"""What do many groups cost that have nothing to do? 1, 10 and 100 of them on three nodes.

CPU time and memory by the kernel's account, frames and messages that leave a node by its own, for a
while in which no client asks anything. `BENCH_PORT` moves the ports.

    python -m bench.groups                       10 seconds each
    python -m bench.groups --groups 1 100 --seconds 30
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any, Final

from bench.cluster import Running, cluster
from bench.measuring import cpu_seconds, memory_megabytes, save

SETTLE_SECONDS: Final = 5.0
SHARDS: Final = 128
"""One at least for each group."""
FRAMES, MESSAGES = "shardkv_raft_frames_sent_total", "shardkv_raft_messages_sent_total"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", default="groups", help="name of the result file")
    options = parser.parse_args(arguments)
    rows = []
    for groups in options.groups:
        begun = time.monotonic()
        with cluster("--groups", str(groups), "--shards", str(SHARDS)) as running:
            started = time.monotonic() - begun
            time.sleep(SETTLE_SECONDS)
            rows.append(
                {"groups": groups, "started_seconds": started, "nodes": idle(running, options)}
            )
        shown(rows[-1])
    save(options.out, options, rows=rows)


def idle(running: Running, options: argparse.Namespace) -> list[dict[str, float]]:
    """Of each node: share of a core, messages a second, memory."""
    nodes = range(len(running.pids))

    def look() -> list[tuple[float, float, float]]:
        return [
            (cpu_seconds(running.pid(n)), running.metric(n, FRAMES), running.metric(n, MESSAGES))
            for n in nodes
        ]

    before = look()
    time.sleep(options.seconds)
    # The second scrape comes after the CPU time was read, the first one's falls before: neither
    # counts. What the health of the cluster costs does.
    after = look()
    return [
        {
            "cpu_share": (now[0] - then[0]) / options.seconds,
            "frames_per_second": (now[1] - then[1]) / options.seconds,
            "messages_per_second": (now[2] - then[2]) / options.seconds,
            "anonymous_mb": memory_megabytes(running.pid(number)),
        }
        for number, then, now in zip(nodes, before, after, strict=True)
    ]


def shown(row: dict[str, Any]) -> None:
    nodes = row["nodes"]
    print(f"{row['groups']} groups, started in {row['started_seconds']:.1f} s; of each node:")
    for title, name, form in (
        ("CPU, of a core", "cpu_share", "{:.2%}"),
        ("frames sent, 1/s", "frames_per_second", "{:.0f}"),
        ("messages sent, 1/s", "messages_per_second", "{:.0f}"),
        ("anonymous memory, MB", "anonymous_mb", "{:.0f}"),
    ):
        print(f"  {title:22} {', '.join(form.format(node[name]) for node in nodes)}", flush=True)


if __name__ == "__main__":
    main()
