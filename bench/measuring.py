"""What the benches share: the kernel's account of processes, figures over rounds, result files.

Asks nothing by itself.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS: Final = 0.05


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def memory_megabytes(pid: int, name: str = "RssAnon") -> float:
    """Resident memory of a process in MB (10^6 bytes), by its name in /proc/PID/status.

    `RssAnon` is what the process made for itself; `RssFile` are mapped files, which the kernel
    takes back when it needs room; `VmHWM` is the most that both together ever were.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(name)


class CpuWatch:
    """Samples the CPU time of processes in a thread, to tell it for a stretch of time afterwards.

    A load generator says when its load began and ended (`time.time()`, which all processes of a
    machine share); what it takes to start it is then not counted.

    Args:
        pids: Asked anew at each sample: nodes may come and go.
    """

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self._samples: dict[str, list[tuple[float, float]]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "CpuWatch":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        for name, pid in self._pids().items():
            try:
                self._samples.setdefault(name, []).append((time.time(), cpu_seconds(pid)))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended

    def between(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds of each process from one moment to another."""
        return {
            name: max(0.0, _at(samples, end) - _at(samples, begin))
            for name, samples in self._samples.items()
        }


def _at(samples: Sequence[tuple[float, float]], moment: float) -> float:
    """The CPU time at a moment, between two samples on the line through them."""
    place = bisect_left(samples, (moment, 0.0))
    if place == 0:
        return samples[0][1]
    if place == len(samples):
        return samples[-1][1]
    (before, low), (after, high) = samples[place - 1], samples[place]
    return low + (high - low) * (moment - before) / (after - before)


def median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def save(name: str, options: argparse.Namespace | Mapping[str, Any], **fields: Any) -> Path:
    """Write `bench/results/NAME.json`: what was measured, on what, and how it was asked."""
    given = vars(options) if isinstance(options, argparse.Namespace) else dict(options)
    out = RESULTS / f"{name}.json"
    out.parent.mkdir(exist_ok=True)
    said = {"about": about(given), **fields}
    out.write_text(json.dumps(_rounded(said), indent=1) + "\n")
    print(f"\nwritten to {out.relative_to(RESULTS.parents[1])}", flush=True)
    return out


def about(options: Mapping[str, Any]) -> dict[str, Any]:
    commit = _said("git", "rev-parse", "--short", "HEAD")
    changed = bool(_said("git", "status", "--porcelain", "--untracked-files=no"))
    return {
        "commit": commit + ("+" if changed else ""),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "options": {key: _plain(value) for key, value in options.items()},
    }


def _said(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)


def _rounded(value: Any) -> Any:
    """Four digits after the point are more than any figure here means."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
