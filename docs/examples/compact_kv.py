"""A whole key/value server for the kvraft tests, written to docs/labs-interface.md.

    python -m labs run kvraft --impl docs/examples/compact_kv.py:CompactKv

It stands on the Raft of compact_raft.py. Every request goes through the log, reads too, so that
whoever answers has heard of everything before it. A clerk numbers its requests, and each server
remembers, as part of the replicated state, the last number of every clerk and what was answered:
a repeated request is answered again and not done again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

import msgpack
from compact_raft import CompactRaft

from labs.raft import ApplyMsg

WAIT_SECONDS = 1.0
"""A request that has no outcome after so long is answered by nothing; its clerk asks again."""
PAUSE_SECONDS = 0.02
"""Of a clerk that has found no leader."""


class Clerk:
    """One client. `ends` lead to the servers, and no request is open beside another."""

    def __init__(self, ends: Sequence[Any], rng: Random) -> None:
        self.ends, self.me, self.number = ends, rng.getrandbits(62), 0
        self.leader = 0

    async def ask(self, what: str, key: str, value: str = "", version: int = 0) -> Any:
        """The answer, however often it takes: the number makes repetitions harmless."""
        self.number += 1
        request = msgpack.packb([self.me, self.number, what, key, value, version])
        while True:
            answer = await self.ends[self.leader].call("KV.Ask", request)
            reply = None if answer is None else msgpack.unpackb(answer)
            if reply is not None:
                return reply[0]
            self.leader = (self.leader + 1) % len(self.ends)
            if self.leader == 0:
                await asyncio.sleep(PAUSE_SECONDS)


class StringsClerk(Clerk):
    """2024: a value is a string, "" at first."""

    async def get(self, key: str) -> str:
        value: str = (await self.ask("get", key))[0]
        return value

    async def put(self, key: str, value: str) -> None:
        await self.ask("set", key, value)

    async def append(self, key: str, value: str) -> None:
        await self.ask("append", key, value)


class VersionedClerk(Clerk):
    """2025: a value has a version, counted from 1. A put says which one it replaces."""

    async def get(self, key: str) -> tuple[str, int, str]:
        value, version = await self.ask("get", key)
        return value, version, "OK" if version else "ErrNoKey"

    async def put(self, key: str, value: str, version: int) -> str:
        err: str = await self.ask("put", key, value, version)
        return err


class CompactKv:
    """One server.

    `data` maps a key to its value and version, `last` a clerk to its last number and answer: both
    are what the log has made of them, and both are in the snapshot.
    """

    clerks: ClassVar = {"2024": StringsClerk, "2025": VersionedClerk}

    def __init__(self, peers: Any, me: int, persister: Any, maxraftstate: int, rng: Random) -> None:
        self.persister, self.maxraftstate = persister, maxraftstate
        self.data: dict[str, list[Any]] = {}
        self.last: dict[int, list[Any]] = {}
        self.waiting: dict[int, tuple[list[Any], asyncio.Future[Any]]] = {}  # by index
        if persister.snapshot:
            self.data, self.last = unpack(persister.snapshot)
        queue: asyncio.Queue[ApplyMsg] = asyncio.Queue(1)
        self.raft = CompactRaft(peers, me, persister, queue, rng)
        self.raft.begin(self.apply_all(queue))

    @property
    def handlers(self) -> Mapping[str, Any]:
        return {**self.raft.handlers, "KV.Ask": self.answer}

    def get_state(self) -> tuple[int, bool]:
        return self.raft.get_state()

    def kill(self) -> None:
        self.raft.kill()

    # Asking

    async def answer(self, body: bytes) -> bytes:
        """[answer], or nil: not the leader, or it is not known what became of the request."""
        request = msgpack.unpackb(body)
        index, _, leads = self.raft.start(request)
        if not leads:
            return msgpack.packb(None)
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting[index] = (request, outcome)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return msgpack.packb(await outcome)
        except TimeoutError:
            return msgpack.packb(None)

    # Applying

    async def apply_all(self, queue: "asyncio.Queue[ApplyMsg]") -> None:
        while True:
            message = await queue.get()
            if message.snapshot_valid:
                self.data, self.last = unpack(message.snapshot)
                continue
            index, request = message.command_index, message.command
            reply = self.apply(request)
            asked, outcome = self.waiting.pop(index, (None, None))
            if outcome is not None and not outcome.done():
                # Another leader's entry may stand where ours should have been.
                outcome.set_result([reply] if asked == request else None)
            if 0 < self.maxraftstate < len(self.persister.state):
                self.raft.snapshot(index, msgpack.packb([self.data, self.last]))

    def apply(self, request: list[Any]) -> Any:
        """Do what is new; of what is not, give the answer again."""
        clerk, number, what, key, value, version = request
        if what == "get":  # to read again harms nobody, and a value need not be remembered
            return self.data.get(key, ["", 0])
        if self.is_repeated(clerk, number):
            return self.last[clerk][1]
        reply = self.write(what, key, value, version)
        self.last[clerk] = [number, reply]
        return reply

    def is_repeated(self, clerk: int, number: int) -> bool:
        done: int = self.last.get(clerk, [0])[0]
        return number <= done

    def write(self, what: str, key: str, value: str, version: int) -> str:
        before, now = self.data.get(key, ["", 0])
        if what == "put" and version != now:
            return "ErrVersion" if now else "ErrNoKey"
        self.data[key] = [before + value if what == "append" else value, now + 1]
        return "OK"


def unpack(snapshot: bytes) -> list[Any]:
    state: list[Any] = msgpack.unpackb(snapshot, strict_map_key=False)
    return state
