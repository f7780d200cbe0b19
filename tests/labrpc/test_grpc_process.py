"""A peer that is a process of its own: stopped, killed, started again."""

import asyncio
import signal
import sys
from pathlib import Path

from labrpc.errors import RpcError, Unknown
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from tests.support.wire import CLUSTER, SOON, client, closed_port, run, until

ROOT = Path(__file__).parents[2]

PEER = f"""
import asyncio, sys
from labrpc.grpc.transport import GrpcTransport

async def echo(body):
    return body

async def never(body):
    await asyncio.Event().wait()

async def main():
    frames = 0
    def count(frame):
        nonlocal frames
        frames += 1
    async def counted(body):
        return b"%d" % frames
    transport = GrpcTransport({CLUSTER!r}, "peer", address=sys.argv[1])
    transport.serve("echo", echo)
    transport.serve("never", never)
    transport.serve("counted", counted)
    transport.listen(count)
    await transport.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Peer:
    """The process, killed at the end."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def __aenter__(self) -> "Peer":
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PEER, self.address),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout
        assert await self._process.stdout.readline() == b"ready\n"
        return self

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


async def fails_with(me: GrpcTransport, to: Address, timeout: float) -> type[RpcError] | None:
    try:
        await me.call(to, "echo", b"", timeout=timeout)
    except RpcError as error:
        return type(error)
    return None


def test_a_stopped_process_makes_calls_unknown_and_costs_frames_until_it_goes_on() -> None:
    async def scenario() -> None:
        bound = 1024 * 1024
        async with Peer(closed_port()) as peer, client(channel_queued_bytes_max=bound) as me:
            channel = me.channel(peer.address)
            assert await fails_with(me, peer.address, SOON) is None
            channel.send(b"first")
            await until(lambda: channel.connected)

            peer.signal(signal.SIGSTOP)
            begun = asyncio.get_running_loop().time()
            assert await fails_with(me, peer.address, 0.3) is Unknown
            assert asyncio.get_running_loop().time() - begun < 1
            await until(lambda: not channel.send(bytes(64 * 1024)))
            assert channel.queued_bytes <= bound

            peer.signal(signal.SIGCONT)
            assert await fails_with(me, peer.address, SOON) is None
            await until(lambda: channel.queued_bytes == 0)
            heard = await me.call(peer.address, "counted", b"", timeout=SOON)
            assert int(heard) > 1

    run(scenario())


def test_a_killed_process_makes_calls_unknown_at_once_and_is_found_again() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with client() as me:
            async with Peer(closed_port()) as peer:
                await me.call(peer.address, "echo", b"", timeout=SOON)
                call = asyncio.create_task(me.call(peer.address, "never", b"", timeout=SOON))
                await me.call(peer.address, "echo", b"", timeout=SOON)  # so it was sent before

                peer.signal(signal.SIGKILL)

                begun = loop.time()
                ends = await asyncio.gather(call, return_exceptions=True)
                assert [type(end) for end in ends] == [Unknown]
                assert loop.time() - begun < 1

            async with Peer(peer.address):
                begun = loop.time()
                while await fails_with(me, peer.address, 1):  # noqa: ASYNC110 - paces itself
                    await asyncio.sleep(0.02)
                assert loop.time() - begun < 2

    run(scenario())
