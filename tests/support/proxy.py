"""A TCP proxy for each way from one node to another: what hurts a link without root.

A node writes only to connections that it dialled itself, so what is done to the connections from A
to B is done to what A says to B, and B's answers, which travel on B's own, are left alone: a link
cut one way. `dialled.py` sends each node's connections through the proxies of its links.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from random import Random
from typing import Final

from labrpc.transport import Address

CHUNK_BYTES: Final = 16 * 1024
CHUNKS_MAX: Final = 64
"""On their way through one direction of a connection: whoever sends more waits, as on a wire."""
GARBAGE_BYTES: Final = 300


class Link:
    """The way from `source` to `target`. Its knobs may be turned at any time.

    Attributes:
        stalled: Connections live and carry nothing; new ones are taken, and carry nothing. To the
            node it is a network that drops every packet.
        refused: Connections are reset, at once and as soon as they are made.
        delay_seconds: For each chunk, drawn between these two; order is kept, as TCP keeps it.
        bytes_per_second: 0 for no bound.
        garbled: New connections get garbage before anything else, and are closed after it.
    """

    def __init__(self, source: str, target: str, to: Address, rng: Random) -> None:
        self.source, self.target = source, target
        self.refused = self.garbled = False
        self.delay_seconds = (0.0, 0.0)
        self.bytes_per_second = 0
        self.carried = 0
        self._host, _, port = to.rpartition(":")
        self._port = int(port)
        self._rng = rng
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> Address:
        """Listen; returns where."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return Address(f"{host}:{port}")

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # Hurting

    @property
    def stalled(self) -> bool:
        return not self._open.is_set()

    def stall(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        """As it was at first; what was stalled goes on."""
        self._open.set()
        self.refused = self.garbled = False
        self.delay_seconds = (0.0, 0.0)
        self.bytes_per_second = 0

    def refuse(self) -> None:
        self.refused = True
        self.reset()

    def reset(self) -> None:
        """Break the connections that there are, in the middle of whatever they carry."""
        for connection in self._connections:
            connection.cancel()

    # Carrying

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the link broke: both ends are told by the reset below
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refused:
            return
        await self._open.wait()
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        try:
            if self.garbled:
                far_writer.write(self._rng.randbytes(GARBAGE_BYTES))
                writer.write(self._rng.randbytes(GARBAGE_BYTES))
                await far_writer.drain()
                await asyncio.sleep(0.05)
                return
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far_writer))
                both.create_task(self._pump(far_reader, writer))
        except* OSError:
            pass  # either end is gone; the other one is told by the reset
        finally:
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction: what comes in is due after the delay of its moment, in order."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)

        async def read() -> None:
            due = 0.0
            while data := await reader.read(CHUNK_BYTES):
                due = max(due, loop.time() + self._rng.uniform(*self.delay_seconds))
                await waiting.put((due, data))
            raise ConnectionResetError("an end closed it")

        async def write() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
                await self._open.wait()
                writer.write(data)
                self.carried += len(data)
                await writer.drain()

        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            both.create_task(write())


class Links:
    """A proxy for each ordered pair of nodes.

    Args:
        nodes: Each node's peer address, where it listens.
    """

    def __init__(self, nodes: Mapping[str, Address], seed: int = 1) -> None:
        self._nodes = nodes
        self._links = {
            (a, b): Link(a, b, to, Random(f"{seed}/{a}/{b}"))
            for a in nodes
            for b, to in nodes.items()
            if a != b
        }
        self._addresses: dict[tuple[str, str], Address] = {}

    def __getitem__(self, ends: tuple[str, str]) -> Link:
        return self._links[ends]

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links.values())

    async def __aenter__(self) -> "Links":
        for ends, link in self._links.items():
            self._addresses[ends] = await link.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.mend()
        for link in self._links.values():
            with suppress(asyncio.CancelledError):
                await link.close()

    def map_of(self, name: str) -> dict[str, str]:
        """Where a node finds the others: peer address -> address of the link's proxy."""
        return {
            str(self._nodes[b]): str(address)
            for (a, b), address in self._addresses.items()
            if a == name
        }

    def mend(self) -> None:
        for link in self._links.values():
            link.mend()

    def stall_one_way(self, source: str, targets: Iterable[str]) -> None:
        """`source` is not heard by these; it hears them."""
        for target in targets:
            self._links[source, target].stall()

    def keep_only(self, *pairs: tuple[str, str]) -> None:
        """Stall every link but those between these, which work both ways."""
        kept = {*pairs, *((b, a) for a, b in pairs)}
        for ends, link in self._links.items():
            if ends not in kept:
                link.stall()
