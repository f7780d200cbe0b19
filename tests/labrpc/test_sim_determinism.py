"""The same seed gives the same trace, byte for byte, in every process."""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from labrpc.errors import RpcError
from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.loop import run
from labrpc.sim.network import HEALTHY, SimNetwork
from labrpc.transport import Address

ROOT = Path(__file__).resolve().parents[2]


def trace(seed: int) -> str:
    """A digest of a run with four nodes that talk, store, fail and come back."""
    lines: list[str] = []

    async def node(network: SimNetwork, drive: SimDrive, name: str, peers: list[str]) -> None:
        loop = asyncio.get_running_loop()
        transport = network.transport(Address(name))
        disk = drive.disk("log")

        async def store(body: bytes) -> bytes:
            await disk.sync([(body, name.encode())])
            return body

        transport.serve("store", store)
        transport.listen(lambda frame: lines.append(f"{loop.time()!r} {name} {frame!r}"))
        for number in range(50):
            for peer in peers:
                transport.channel(Address(peer)).send(f"{name} {number}".encode())
            body = f"{name}{number}".encode()
            calls = [transport.call(Address(peer), "store", body, timeout=0.1) for peer in peers]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            for peer, answer in zip(peers, answers, strict=True):
                assert isinstance(answer, bytes | RpcError)
                lines.append(f"{loop.time()!r} {name}->{peer} {answer!r}")

    async def main() -> None:
        chance = Chance(seed)
        faults = HEALTHY.with_(loss=0.05, duplication=0.05, reordering=0.05, long_delay=0.01)
        network = SimNetwork(chance, faults)
        names = ["n1", "n2", "n3", "n4"]
        drives = {name: SimDrive(chance.rng(f"disk/{name}")) for name in names}
        rng = chance.rng("faults")
        loop = asyncio.get_running_loop()
        tasks = {
            name: loop.create_task(
                node(network, drives[name], name, [peer for peer in names if peer != name])
            )
            for name in names
        }
        for _ in range(20):
            await asyncio.sleep(rng.uniform(0, 0.1))
            network.heal()
            network.isolate(Address(rng.choice(names)), map(Address, names))
        victim = rng.choice(names)
        tasks[victim].cancel()
        network.crash(Address(victim))
        drives[victim].crash()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for name in names:
            lines.append(f"{name} {sorted(drives[name].durable('log').items())!r}")

    run(main(), seed=seed)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def trace_in_a_new_process(seed: int, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, __file__, str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_the_same_seed_is_the_same_run() -> None:
    assert trace(1) == trace(1)


def test_another_seed_is_another_run() -> None:
    assert trace(1) != trace(2)


def test_a_new_process_with_another_hash_seed_changes_nothing() -> None:
    here = trace(4711)

    assert [trace_in_a_new_process(4711, "0"), trace_in_a_new_process(4711, "99")] == [here, here]


if __name__ == "__main__":
    print(trace(int(sys.argv[1])))
