"""What does a call, and what does a frame, cost between two processes over gRPC?

    python bench/transport.py [--loop asyncio|uvloop] [--seconds 3] [--body 300]

One process asks, one answers, both on this machine. Prints the round trip of one call at a time
(milliseconds), calls a second with many in flight, and frames a second through a channel.
"""

import argparse
import asyncio
import sys
import time

from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address

CLUSTER = b"bench".ljust(16, b"\0")
PATIENCE = 10.0  # seconds


def loop_factory(name: str) -> type[asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.Loop


async def answer() -> None:
    """The other process: echoes calls, counts frames, until it is killed."""
    frames = 0

    def count(_: bytes) -> None:
        nonlocal frames
        frames += 1

    async def echo(body: bytes) -> bytes:
        return body

    async def counted(_: bytes) -> bytes:
        return b"%d" % frames

    transport = GrpcTransport(CLUSTER, "answers", address=Address("127.0.0.1:0"))
    transport.serve("echo", echo)
    transport.serve("counted", counted)
    transport.listen(count)
    print(await transport.start(), flush=True)
    await asyncio.Event().wait()


async def ask(args: argparse.Namespace) -> None:
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--answer", "--loop", args.loop), stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout
    to = Address((await other.stdout.readline()).decode().strip())
    me = GrpcTransport(CLUSTER, "asks")
    try:
        await measure(me, to, bytes(args.body), args.seconds)
    finally:
        await me.close()
        other.kill()
        await other.communicate()


async def measure(me: GrpcTransport, to: Address, body: bytes, seconds: float) -> None:
    await me.call(to, "echo", body, timeout=PATIENCE)
    for in_flight in (1, 10, 100, 500):
        took: list[float] = []
        end = time.perf_counter() + seconds

        async def caller(took: list[float] = took, end: float = end) -> None:
            while (begun := time.perf_counter()) < end:
                await me.call(to, "echo", body, timeout=PATIENCE)
                took.append(time.perf_counter() - begun)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        took.sort()
        p50, p99 = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.99))
        rate = len(took) / seconds
        print(f"calls, {in_flight:3} in flight: {rate:8.0f}/s  p50 {p50:.2f} ms  p99 {p99:.2f} ms")

    for size, label in ((len(body), "frames"), (1024 * 1024, "bulk frames")):
        channel = me.channel(to, bulk=size > len(body))
        before = int(await me.call(to, "counted", b"", timeout=PATIENCE))
        sent, begun = 0, time.perf_counter()
        while time.perf_counter() < begun + seconds:
            if channel.send(bytes(size)):
                sent += 1
                if sent % 64 == 0:
                    await asyncio.sleep(0)
            else:
                await channel.drained()
        arrived = before
        while arrived < before + sent:
            arrived = int(await me.call(to, "counted", b"", timeout=PATIENCE))
        rate = sent / (time.perf_counter() - begun)
        mebibytes = rate * size / 1024 / 1024
        print(f"{label} of {size} bytes: {rate:8.0f}/s  {mebibytes:.0f} MiB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--body", type=int, default=300)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
        runner.run(answer() if args.answer else ask(args))


if __name__ == "__main__":
    main()
