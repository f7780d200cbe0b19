"""Clerks whose every call is written down, for both editions of the key/value labs."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from labrpc.sim.labnet import LabEnd, LabNetwork
from labrpc.transport import Address
from labs.harness.edition import LabFailure
from labs.harness.figures import note_operations
from labs.harness.kv_history import Asked, Call
from labs.kv import Err, Read


class StringsClient(Protocol):
    """A clerk of 2024. An append may say what was there before it."""

    async def get(self, key: str) -> str: ...

    async def put(self, key: str, value: str) -> object: ...

    async def append(self, key: str, value: str) -> str | None: ...

    async def close(self) -> None: ...


class VersionedClient(Protocol):
    """A clerk of 2025."""

    async def get(self, key: str) -> Read: ...

    async def put(self, key: str, value: str, version: int) -> Err: ...

    async def close(self) -> None: ...


class Recorder:
    """The calls of one test, in the order in which they began."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.clerks = 0
        self._moments = 0
        self._loop = asyncio.get_running_loop()

    def begin(self, clerk: int, asked: Asked, key: str, value: str = "", version: int = 0) -> Call:
        self._moments += 1
        note_operations(1)
        call = Call(clerk, asked, key, value, version, self._moments, self._loop.time())
        self.calls.append(call)
        return call

    def end(self, call: Call) -> None:
        self._moments += 1
        call.ended, call.ended_at = self._moments, self._loop.time()


class Strings:
    """A clerk of 2024, written down."""

    def __init__(self, inner: StringsClient, recorder: Recorder) -> None:
        self._inner, self._recorder = inner, recorder
        recorder.clerks += 1
        self.number = recorder.clerks

    async def get(self, key: str) -> str:
        call = self._recorder.begin(self.number, Asked.GET, key)
        call.result = await self._inner.get(key)
        self._recorder.end(call)
        return call.result

    async def put(self, key: str, value: str) -> None:
        call = self._recorder.begin(self.number, Asked.PUT, key, value)
        await self._inner.put(key, value)
        self._recorder.end(call)

    async def append(self, key: str, value: str) -> str:
        """What was there before, or "" if the server does not say."""
        call = self._recorder.begin(self.number, Asked.APPEND, key, value)
        call.result = await self._inner.append(key, value)
        self._recorder.end(call)
        return call.result or ""

    async def check_get(self, key: str, value: str) -> None:
        found = await self.get(key)
        if found != value:
            raise LabFailure(f"Get({key!r}) brought {found!r:.60}, expected {value!r:.60}")

    async def close(self) -> None:
        await self._inner.close()


class Versioned:
    """A clerk of 2025, written down."""

    def __init__(self, inner: VersionedClient, recorder: Recorder) -> None:
        self._inner, self._recorder = inner, recorder
        recorder.clerks += 1
        self.number = recorder.clerks

    async def get(self, key: str) -> Read:
        call = self._recorder.begin(self.number, Asked.GET, key)
        read = await self._inner.get(key)
        call.result, call.result_version, call.err = read
        self._recorder.end(call)
        return read

    async def put(self, key: str, value: str, version: int) -> Err:
        call = self._recorder.begin(self.number, Asked.PUT, key, value, version)
        call.err = await self._inner.put(key, value, version)
        self._recorder.end(call)
        return call.err

    async def check_get(self, key: str, value: str, version: int) -> None:
        found = await self.get(key)
        if found != (value, version, Err.OK):
            raise LabFailure(f"Get({key!r}) brought {found}, expected {value!r} v{version}")

    async def put_at_least_once(self, key: str, value: str, version: int) -> int:
        """Put until it is done, at the version asked for or a later one; returns the version
        after the last put. The value may be written twice."""
        while True:
            err = await self.put(key, value, version)
            if err is Err.OK:
                return version + 1
            if err not in (Err.MAYBE, Err.VERSION) and version != 0:
                raise LabFailure(f"Put({key!r}, v{version}) says {err.value}")
            version += 1

    async def close(self) -> None:
        await self._inner.close()


class ClerkEnds:
    """One clerk's ways to the servers: all made, and those enabled that it may use."""

    def __init__(self, network: LabNetwork, clerk: int, servers: Sequence[str]) -> None:
        self.ends: dict[Address, LabEnd] = {}
        self._network = network
        self._names = {server: f"c{clerk}->{server}" for server in servers}
        for server, name in self._names.items():
            self.ends[Address(server)] = network.make_end(name)
            network.connect(name, server)

    def connect(self, servers: Sequence[str]) -> None:
        """Let the clerk reach these servers and no others."""
        for server, name in self._names.items():
            self._network.enable(name, server in servers)

    def delete(self) -> None:
        """What is still asked on them fails."""
        for name in self._names.values():
            self._network.delete_end(name)
