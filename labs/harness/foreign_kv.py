"""Somebody else's key/value server under the kvraft tests: `--impl module:Class`.

The class is a `ForeignKv`; docs/labs-interface.md says the same in words. It knows the lab
network's ends and a persister, and brings clerks of its own: how the two speak is their affair.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Final, Protocol

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import Handler, LabEnd, LabServer
from labrpc.transport import Address
from labs.harness.edition import Edition
from labs.harness.foreign import Persister, Unfit, shape
from labs.kv import Err, Read
from labs.loading import load
from labs.node import Watcher
from labs.transport import LabTransport

SERVER_METHODS: Final = ("get_state", "kill")
CLERK_METHODS: Final[Mapping[Edition, tuple[str, ...]]] = {
    Edition.E2024: ("get", "put", "append"),
    Edition.E2025: ("get", "put"),
}


class ForeignKv(Protocol):
    """One server. Made, and called, within the running loop; nothing here may block."""

    clerks: ClassVar[Mapping[str, Any]]
    """Its clerk's class for each edition that it serves, "2024" or "2025"."""

    def __init__(
        self,
        peers: Sequence[LabEnd],
        me: int,
        persister: Persister,
        maxraftstate: int,
        rng: Random,
    ) -> None: ...

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What answers peers and clerks, by the name that `LabEnd.call` is given."""
        ...

    def get_state(self) -> tuple[int, bool]:
        """The term, and whether this server believes that it leads."""
        ...

    def kill(self) -> None:
        """Be silent from now on."""
        ...


class ForeignKvServer:
    """One of them, as the kvraft tester has its servers."""

    def __init__(self, inner: ForeignKv, persister: Persister) -> None:
        self._inner, self._persister = inner, persister

    @property
    def server(self) -> LabServer:
        return LabServer(self._inner.handlers)

    def get_state(self) -> tuple[int, bool]:
        return self._inner.get_state()

    def persist_bytes(self) -> int:
        return len(self._persister.state)

    def snapshot_bytes(self) -> int:
        return len(self._persister.snapshot)

    def kill(self) -> None:
        self._inner.kill()


class _Clerk:
    """A clerk of theirs: made of ends in the order in which it is to ask."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def close(self) -> None:
        """Let it end what it began, if it says how."""
        close = getattr(self._inner, "close", None)
        if close is not None:
            await close()


class ForeignStrings(_Clerk):
    """A clerk of 2024."""

    async def get(self, key: str) -> str:
        value: str = await self._inner.get(key)
        return value

    async def put(self, key: str, value: str) -> None:
        await self._inner.put(key, value)

    async def append(self, key: str, value: str) -> str | None:
        before: str | None = await self._inner.append(key, value)
        return before


class ForeignVersioned(_Clerk):
    """A clerk of 2025, whose errors are the labs' words or `labs.kv.Err`."""

    async def get(self, key: str) -> Read:
        value, version, err = await self._inner.get(key)
        return Read(value, version, Err(err))

    async def put(self, key: str, value: str, version: int) -> Err:
        return Err(await self._inner.put(key, value, version))


class ForeignKvMaker:
    """Makes the servers and clerks of one run, and keeps what each server has saved.

    Each life gets a copy of the last one's persister: whatever a killed server still saves is lost,
    as in the labs. The simulated drive is not used.

    Args:
        found: The class of the server.
        edition: Whose clerks are asked for.

    Raises:
        Unfit: it has none.
    """

    def __init__(self, found: Any, edition: Edition) -> None:
        check_server(found)
        if edition not in editions(found):
            have = ", ".join(one.value for one in editions(found))
            raise Unfit(f"{found.__name__} has no clerk of {edition.value}, only of {have}")
        self._make, self._clerk = found, found.clerks[edition.value]
        self._persisters: dict[int, Persister] = {}

    async def __call__(
        self,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        rng: Random,
        *,
        maxraftstate: int,
        watcher: Watcher | None,
    ) -> ForeignKvServer:
        last = self._persisters.get(me, Persister())
        persister = self._persisters[me] = Persister(last.state, last.snapshot)
        return ForeignKvServer(self._make(peers, me, persister, maxraftstate, rng), persister)

    def strings(
        self, transport: LabTransport, servers: Sequence[str], rng: Random
    ) -> ForeignStrings:
        return ForeignStrings(self._clerk(self._in_order(transport, servers), rng))

    def versioned(
        self, transport: LabTransport, servers: Sequence[str], rng: Random
    ) -> ForeignVersioned:
        return ForeignVersioned(self._clerk(self._in_order(transport, servers), rng))

    def _in_order(self, transport: LabTransport, servers: Sequence[str]) -> list[LabEnd]:
        return [transport.ends[Address(name)] for name in servers]


def maker_of(name: str, edition: Edition) -> ForeignKvMaker:
    """Of `module:Class` or `file.py:Class`. Raises LookupError; Unfit is one."""
    return ForeignKvMaker(load(name), edition)


def is_server(found: Any) -> bool:
    """Whether a class means to be a server: one that brings clerks."""
    return hasattr(found, "clerks")


def editions(found: Any) -> list[Edition]:
    """Those that a server has clerks of."""
    return [edition for edition in Edition if edition.value in found.clerks]


def check_server(found: Any) -> None:
    """See that the class has what a server needs, as far as a class shows it.

    Raises:
        Unfit: and what is missing.
    """
    if not is_server(found):
        raise Unfit(
            f"{_name(found)} has no clerks: a server brings them, {{'2024': MyClerk}} or "
            "{'2025': MyClerk}; see docs/labs-interface.md"
        )
    shape(found, SERVER_METHODS, "a key/value server")
    known = [edition.value for edition in Edition]
    if not isinstance(found.clerks, Mapping) or not editions(found):
        raise Unfit(f"{_name(found)}.clerks must map {' or '.join(known)} to a class")
    if strange := sorted(set(found.clerks) - set(known)):
        raise Unfit(f"{_name(found)}.clerks names {strange[0]!r}; there are {', '.join(known)}")
    for edition in editions(found):
        shape(found.clerks[edition.value], CLERK_METHODS[edition], f"a clerk of {edition.value}")


def _name(found: Any) -> str:
    return getattr(found, "__name__", repr(found))
