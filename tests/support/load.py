"""Clients of a real cluster, all at once, and what each of them was told and when."""

import asyncio
from contextlib import AsyncExitStack
from random import Random
from typing import Self

from shardkv import aio
from shardkv.clerk import Clerk
from shardkv.errors import OutcomeUnknown, Unavailable, VersionMismatch
from tests.support.judge import Operation, judge


class Load:
    """Clients that append to lists and put, read and delete registers until told to stop.

    A client waits for each answer before it asks again. One of them is impatient, so that there
    are operations of which the outcome is unknown.

    Args:
        endpoints: Of the cluster.
        pause: A client waits so many seconds at most between two operations. By default all of
            them ask for some 300 a second, and leave the nodes and other tests a part of two cores.
    """

    def __init__(
        self,
        endpoints: list[str],
        *,
        seed: int = 1,
        clients: int = 6,
        lists: int = 4,
        registers: int = 8,
        pause: float = 0.03,
        timeout: float = 15.0,
        impatience: float = 0.25,
    ) -> None:
        self.history: list[Operation] = []
        self._endpoints = endpoints
        self._seed, self._clients, self._pause = seed, clients, pause
        self._timeout, self._impatience = timeout, impatience
        self._lists = [b"list %d" % number for number in range(lists)]
        self._registers = [b"register %d" % number for number in range(registers)]
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._begun: set[bytes] = set()
        self._acknowledged = asyncio.Condition()
        self.acknowledged = 0

    async def __aenter__(self) -> Self:
        clerks = [
            await self._stack.enter_async_context(aio.connect(self._endpoints))
            for _ in range(self._clients)
        ]
        self._tasks = [
            asyncio.create_task(self._client(number, clerk)) for number, clerk in enumerate(clerks)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def some(self, operations: int, seconds: float = 20) -> None:
        """Until so many more operations were acknowledged: the load is worth its name."""
        goal = self.acknowledged + operations
        async with asyncio.timeout(seconds), self._acknowledged:
            while self.acknowledged < goal:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await self._acknowledged.wait()

    async def finish(self) -> None:
        """Let each client end its operation, read every key once more, and judge it all."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        async with aio.connect(self._endpoints) as clerk:
            for key in self._lists + self._registers:
                final = self._begin(-1, "get", key)
                await self._do(final, clerk, self._timeout)
                assert final.outcome == "ok", final
        judge(self.history)

    def longest_gap(self, since: float, until: float) -> float:
        """The longest time between two answers of the store."""
        answered = (o.ret for o in self.history if o.outcome in ("ok", "refused"))
        answers = [since, *sorted(ret for ret in answered if since < ret <= until)]
        return max(b - a for a, b in zip(answers, [*answers[1:], until], strict=True))

    async def _client(self, number: int, clerk: Clerk) -> None:
        rng = Random(f"{self._seed}/{number}")
        versions: dict[bytes, int] = {}
        impatient = number == 0
        written = 0
        while not self._stopping:
            draw = rng.random()
            if draw < 0.45:
                key = rng.choice(self._lists)
                kind = "append" if rng.random() < 0.7 else "get"
            else:
                key = rng.choice(self._registers)
                kind = rng.choice(["put", "put", "get", "get", "get", "cas", "delete"])
                # A key made anew starts above any version that was deleted in its shard, and the
                # judge wants lists to count from 1: none is deleted before all of them exist.
                if kind == "delete" and len(self._begun) < len(self._lists):
                    kind = "get"
            operation = self._begin(number, kind, key)
            if kind in ("put", "cas", "append"):
                written += 1
                operation.value = b"%d.%d" % (number, written)
            if kind == "append":
                operation.value = operation.value + b";"  # type: ignore[operator]
            operation.expected = versions.get(key, 0)
            await self._do(operation, clerk, self._impatience if impatient else self._timeout)
            if operation.outcome != "unknown":
                versions[key] = operation.version
            await asyncio.sleep(rng.uniform(0, self._pause))

    def _begin(self, client: int, kind: str, key: bytes) -> Operation:
        now = asyncio.get_running_loop().time()
        operation = Operation(client, kind, key, None, now)
        self.history.append(operation)
        return operation

    async def _do(self, operation: Operation, clerk: Clerk, timeout: float) -> None:
        key, value = operation.key, operation.value or b""
        operation.call = asyncio.get_running_loop().time()
        try:
            match operation.kind:
                case "get":
                    row = await clerk.get_row(key, timeout=timeout)
                    operation.result, operation.version = row
                case "put":
                    operation.version = await clerk.put(key, value, timeout=timeout)
                case "append":
                    operation.version = await clerk.append(key, value, timeout=timeout)
                    self._begun.add(key)
                case "delete":
                    await clerk.delete(key, timeout=timeout)
                case "cas":
                    operation.version = await clerk.put(
                        key, value, if_version=operation.expected, timeout=timeout
                    )
        except OutcomeUnknown:
            return  # it has no end
        except VersionMismatch as mismatch:
            operation.outcome, operation.version = "refused", mismatch.version
        except Unavailable:
            operation.outcome = "failed"
        else:
            operation.outcome = "ok"
        operation.ret = asyncio.get_running_loop().time()
        if operation.outcome != "failed":
            async with self._acknowledged:
                self.acknowledged += 1
                self._acknowledged.notify_all()
