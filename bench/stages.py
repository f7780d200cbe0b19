"""Where does each microsecond of an operation go? CPU time by process, thread, library and stage.

A load runs on three nodes with one group; the leader, a follower and the client are watched. First
by `perf` (Debian's linux-perf), which sees threads, libraries and the kernel and disturbs nobody;
then, under the same load again, by `py-spy` (from the package index), which sees Python's stacks:
the stage of a sample is the innermost place of ours in its stack, by the table below. What the
kernel counted as the CPU time of a process, divided by operations, is split in these shares.

    python -m bench.stages                              puts and gets at 100 clients: a minute
    python -m bench.stages --loads 0:1 0:100 0.5:100 1:100 --seconds 10

The folded stacks stay beside the figures, in `bench/results/stages/`: flame graph tools read them.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.cluster import PROGRAM, Running, cluster
from bench.measuring import RESULTS, CpuWatch, save
from bench.peers.ours import Ours
from shardkv.benching import Figures, Load, Measured

STARTUP_SECONDS: Final = 2.0
"""Until a client process has begun to measure; what comes before must not be in the profile."""
MARGIN_SECONDS: Final = 2.0
"""A profiler takes a while to attach, and must end before the client does."""
HERTZ: Final = 400
SPY_HERTZ: Final = 100
STACKS: Final = RESULTS / "stages"
STACKS_KEPT: Final = 150
"""Of a role, the heaviest ones."""

# The first pattern that fits the innermost file of ours names the stage.
STAGES: Final[tuple[tuple[str, str], ...]] = (
    (r"codec|protocol\.py|frames\.py|commands\.py|parcel\.py|_pb2", "serialisation"),
    (r"raft/disk/(leveldb|overlay|data_store)", "LevelDB"),
    (r"raft/disk/(log_store|records)", "log records: chain, checksum"),
    (r"raft/disk/promise", "promise"),
    (r"raft/sessions|once\.py|client_sessions", "sessions"),
    (r"shardkv/(machine|rows|held|changes|copying|steps|phases)", "apply"),
    (r"raft/rsm|raft/replica", "apply and answer"),
    (r"raft/(courier|host)", "turns and outboxes"),
    (r"raft/", "Raft"),
    (r"labrpc/|grpc/", "gRPC"),
    (r"shardkv/(server|service|reading|read_|load|signpost|holding|giving)", "the node's door"),
    (r"shardkv/(clerk|operations|pending|group_link|backoff|routing|detours|tokens)", "clerk"),
    (r"shardkv/benching", "load generator"),
    (r"asyncio|uvloop|shardkv/node|cli/", "event loop"),
)
OURS: Final = re.compile(r"\b(raft|labrpc|shardkv|shardctrler|grpc|google)/")

LIBRARIES: Final[tuple[tuple[str, str], ...]] = (
    (r"cygrpc", "gRPC (C++)"),
    (r"leveldb|plyvel|snappy", "LevelDB (C++)"),
    (r"_cmsgpack|msgpack", "msgpack"),
    (r"uvloop", "uvloop"),
    (r"upb|_message", "protobuf (upb)"),
    (r"zlib|libz\b|hashlib|_blake2|libcrypto|_sha", "checksums and hashes"),
    (r"python", "Python interpreter"),
    (r"libc|ld-linux|libstdc|libm\b|libpthread|vdso", "libc"),
)
SYSCALLS: Final[tuple[tuple[str, str], ...]] = (
    (r"sync", "kernel: fsync"),
    (r"send|recv|tcp|sock", "kernel: sockets"),
    (r"epoll|poll|select", "kernel: poll"),
    (r"futex|sched|schedule", "kernel: locks and switches"),
    (r"write|read|openat|mmap|brk|page_fault", "kernel: files and memory"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--loads", nargs="+", default=["0:100", "1:100"], help="share of gets:clients"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each profile")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256, help="bytes of a value")
    parser.add_argument("--out", default="stages", help="name of the result file")
    options = parser.parse_args(arguments)
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if shutil.which("perf") is None or spy is None:
        sys.exit("needs perf (apt-get install linux-perf) and py-spy (pip install py-spy)")
    STACKS.mkdir(parents=True, exist_ok=True)
    rows = []
    with cluster("--groups", "1") as running:
        Ours(running).fill(Load(clients=1, seconds=0, keys=options.keys, value_bytes=options.size))
        for text in options.loads:
            gets, _, clients = text.partition(":")
            load = Load(
                clients=int(clients), seconds=options.seconds + STARTUP_SECONDS + MARGIN_SECONDS,
                gets=float(gets), keys=options.keys, value_bytes=options.size,
            )  # fmt: skip
            rows.append(profiled(running, load, options, spy))
            shown(rows[-1])
    save(options.out, options, rows=rows)


def profiled(running: Running, load: Load, options: argparse.Namespace, spy: str) -> dict[str, Any]:
    leader = running.leader()
    follower = next(n for n in range(len(running.pids)) if n != leader)
    nodes = {"leader": running.pid(leader), "follower": running.pid(follower)}
    name = f"{load.gets:g}-{load.clients}"
    with tempfile.TemporaryDirectory(prefix="shardkv-stages-") as directory:
        place = Path(directory)

        def perf(role: str, pid: int) -> list[str]:
            return [
                "perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-g",
                "-o", str(place / f"{role}.perf"), "-p", str(pid),
                "--", "sleep", str(options.seconds),
            ]  # fmt: skip

        def py_spy(role: str, pid: int) -> list[str]:
            return [
                spy, "record", "--gil", "--nonblocking", "--threads", "-r", str(SPY_HERTZ),
                "-d", str(int(options.seconds)), "-f", "raw", "-o", str(place / f"{role}.folded"),
                "--pid", str(pid),
            ]  # fmt: skip

        measured, cpu = _watched(running, load, nodes, perf)
        _watched(running, load, nodes, py_spy)
        figures = Figures.of(measured)
        roles = {}
        for role in (*nodes, "client"):
            samples = _perf_samples(place / f"{role}.perf")
            stacks = _folded(place / f"{role}.folded")
            kept = "".join(f"{stack} {n}\n" for stack, n in stacks.most_common(STACKS_KEPT))
            (STACKS / f"{name}-{role}.folded").write_text(kept)
            us = cpu[role] / figures.operations * 1e6
            roles[role] = _split(us, samples, stacks)
    return {"gets": load.gets, "clients": load.clients, **figures.as_dict(), "roles": roles}


def _watched(
    running: Running, load: Load, nodes: Mapping[str, int], command: Any
) -> tuple[Measured, dict[str, float]]:
    """Put the load on, and run the profiler of each process meanwhile."""
    client = subprocess.Popen(
        [
            *PROGRAM, "bench", "--raw", "--endpoints", ",".join(running.endpoints),
            "--timeout", "60", "--clients", str(load.clients), "--seconds", str(load.seconds),
            "--gets", str(load.gets), "--keys", str(load.keys), "--size", str(load.value_bytes),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = {**nodes, "client": client.pid}
    with CpuWatch(lambda: pids) as watch:
        time.sleep(STARTUP_SECONDS)
        profilers = [
            subprocess.Popen(command(role, pid), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for role, pid in pids.items()
        ]
        printed, _ = client.communicate()
        for profiler in profilers:
            _, said = profiler.communicate()
            if profiler.returncode:
                raise RuntimeError(f"{profiler.args!r} failed: {said.decode()[-500:]}")
    measured = Measured.read(printed.splitlines()[-1])
    cpu = watch.between(measured.began, measured.began + measured.seconds)
    return measured, {**cpu, "client": measured.cpu_seconds}


# perf


def _perf_samples(path: Path) -> Counter[tuple[bool, str]]:
    """How many samples fell where: (the main thread, library or kind of system call)."""
    done = subprocess.run(
        ["perf", "script", "-i", str(path), "-F", "pid,tid,ip,sym,dso"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    found: Counter[tuple[bool, str]] = Counter()
    for block in done.stdout.split("\n\n"):
        lines = block.strip().splitlines()
        if len(lines) < 2:
            continue
        pid, _, tid = lines[0].strip().partition("/")
        found[pid == tid.split()[0], _library(lines[1:])] += 1
    return found


def _library(frames: Sequence[str]) -> str:
    """Of the innermost frame: its library; in the kernel, what it was called for."""
    if "kernel" not in frames[0] and "[unknown]" not in frames[0].rpartition("(")[2]:
        return _first(LIBRARIES, frames[0].rpartition("(")[2], "other")
    inside = " ".join(line for line in frames if "kernel" in line)
    calls = re.findall(r"__x64_sys_(\w+)|asm_exc_(\w+)", inside)
    text = " ".join(part for call in calls for part in call if part)
    return _first(SYSCALLS, text or inside, "kernel: other")


# py-spy


def _folded(path: Path) -> Counter[str]:
    """Stacks of the main thread, and how many samples each."""
    found: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if "MainThread" in stack.partition(";")[0]:
            found[stack] += int(count)
    return found


def _stage(stack: str) -> str:
    for frame in reversed(stack.split(";")):
        if OURS.search(frame):
            return _first(STAGES, frame, "other")
    return "event loop"


def _first(table: Iterable[tuple[str, str]], text: str, otherwise: str) -> str:
    return next((name for pattern, name in table if re.search(pattern, text)), otherwise)


# Together


def _split(
    us: float, samples: Mapping[tuple[bool, str], int], stacks: Mapping[str, int]
) -> dict[str, Any]:
    """A process's CPU time an operation in shares: by library, and by stage."""
    total = sum(samples.values()) or 1
    libraries: Counter[str] = Counter()
    stages: dict[str, float] = {}
    main_us = 0.0
    for (main_thread, library), count in samples.items():
        part = us * count / total
        libraries[library] += part  # type: ignore[assignment]
        if main_thread:
            main_us += part
        else:
            where = library if library.startswith(("kernel: fsync", "LevelDB", "gRPC")) else "other"
            name = f"other threads: {where}"
            stages[name] = stages.get(name, 0.0) + part
    spied = sum(stacks.values()) or 1
    for stack, count in stacks.items():
        name = _stage(stack)
        stages[name] = stages.get(name, 0.0) + main_us * count / spied
    return {
        "cpu_us": us,
        "samples": total,
        "stacks": spied,
        "libraries": dict(sorted(libraries.items(), key=lambda item: -item[1])),
        "stages": dict(sorted(stages.items(), key=lambda item: -item[1])),
    }


def shown(row: dict[str, Any]) -> None:
    kind = {0.0: "puts", 1.0: "gets"}.get(row["gets"], f"{row['gets']:.0%} gets")
    print(f"{kind}, {row['clients']} clients, {row['per_second']:,.0f}/s; us of CPU an operation:")
    for role, split in row["roles"].items():
        print(f"  {role}: {split['cpu_us']:.1f}")
        for table in ("stages", "libraries"):
            words = [f"{name} {us:.1f}" for name, us in split[table].items() if us >= 0.1]
            print(f"    by {table}: {', '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
