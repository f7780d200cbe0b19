"""The transport of an embedded store, where it differs from a network: nothing."""

import asyncio

import pytest

from labrpc.errors import Unknown
from labrpc.inproc import InprocTransport
from labrpc.sim.loop import run
from labrpc.transport import Address

HERE = Address("here")


def test_a_handler_runs_on_when_its_caller_gives_up() -> None:
    """What it has proposed runs its course, as on a network."""

    async def main() -> list[str]:
        transport = InprocTransport(HERE)
        done: list[str] = []

        async def slow(body: bytes) -> bytes:
            await asyncio.sleep(0.05)
            done.append(body.decode())
            return b""

        transport.serve("slow", slow)
        with pytest.raises(Unknown):
            await transport.call(HERE, "slow", b"timed out", timeout=0.01)
        cancelled = asyncio.ensure_future(transport.call(HERE, "slow", b"gone", timeout=1.0))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        await asyncio.sleep(0.1)
        await transport.close()
        return done

    assert run(main()) == ["timed out", "gone"]
