"""What does HTTP carry through one node, and what does it add to a get?

64 connections by wrk (Debian's package) against n1 of three nodes, with what a request costs in CPU
time, which other work on the machine moves less than the rate; then one connection, a get at a
time, in turn with a clerk of its own; and a node's memory, before and after the document was asked
for: `python bench/front_door.py [seconds]`.
"""

import asyncio
import http.client
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster import cluster
from shardkv import aio

CONNECTIONS = 64
KEYS = 5000
GETS = 2000
SCRIPTS = {
    "durable puts of 100 bytes": """
        local n = 0
        local body = string.format('{"value":"%s"}', string.rep("v", 100))
        local json = {["Content-Type"] = "application/json"}
        request = function()
            n = n + 1
            return wrk.format("PUT", "/kv/key" .. (n % KEYS), json, body)
        end
    """,
    "gets": """
        local n = 0
        request = function() n = n + 1 return wrk.format("GET", "/kv/key" .. (n % KEYS)) end
    """,
}


def play(script: str, address: str, seconds: float) -> tuple[str, int]:
    """What wrk says of a script, and how many requests it sent."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script.replace("KEYS", str(KEYS)))
        file.flush()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", "-s", file.name,
             f"http://{address}/"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    rate = re.search(r"Requests/sec:\s+(\S+)", done.stdout)
    median, slow = (re.search(rf"\n\s+{p}%\s+(\S+)", done.stdout) for p in (50, 99))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    assert rate and median and slow, done.stdout
    more = f", {refused[1]} refused" if refused else ""
    total = re.search(r"(\d+) requests in", done.stdout)
    assert total
    return f"{rate[1]}/s, p50 {median[1]}, p99 {slow[1]}{more}", int(total[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """What is resident of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def fill(endpoints: Sequence[str]) -> None:
    """Every key there is, so that a get finds it."""
    async with aio.connect(endpoints) as kv:
        for at in range(0, KEYS, 100):
            await asyncio.gather(*(kv.put(f"key{n}", b"v" * 100) for n in range(at, at + 100)))


async def one_by_one(client: str, address: str) -> tuple[float, float]:
    """Median seconds of a get by a clerk and over HTTP, in turn: both see the same noise."""
    host, _, port = address.partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    by_clerk, by_http = [], []
    async with aio.connect([client]) as kv:
        for number in range(GETS):
            key = f"key{number % KEYS}"
            begun = time.perf_counter()
            await kv.get(key)
            by_clerk.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            connection.request("GET", f"/kv/{key}")
            connection.getresponse().read()
            by_http.append(time.perf_counter() - begun)
    connection.close()
    return statistics.median(by_clerk), statistics.median(by_http)


if __name__ == "__main__":
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing; on Debian: apt-get install wrk")
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    with cluster() as running:
        host, _, port = running.endpoints[0].partition(":")
        address = f"{host}:{int(port) + 2}"
        pids = running.pids
        asyncio.run(fill(running.endpoints))
        for what, script in SCRIPTS.items():
            before = [cpu_seconds(pid) for pid in pids]
            said, requests = play(script, address, seconds)
            used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
            each = " + ".join(f"{share / requests * 1e6:.0f}" for share in used)
            print(f"{what}: {said}; CPU of n1 + n2 + n3 a request: {each} us")
        clerk, over_http = asyncio.run(one_by_one(running.endpoints[0], address))
        print(
            f"one get at a time, p50: {clerk * 1e3:.2f} ms by a clerk, "
            f"{over_http * 1e3:.2f} ms over HTTP"
        )
        memory = memory_mb(pids[1])
        shown = http.client.HTTPConnection(host, int(port) + 12)
        shown.request("GET", "/openapi.json")
        shown.getresponse().read()
        shown.close()
        print(f"memory of n2: {memory:.0f} MB, {memory_mb(pids[1]):.0f} MB with the document")
