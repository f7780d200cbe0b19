"""The drivers that the key/value labs' tests share: clients under faults, and what must come out.

`many_strings` and `many_versioned` are the official GenericTest of either edition. The originals'
clients ask as fast as their machine answers, and share it: some 100 to 300 operations a second
together, however many they are. In virtual time answers cost a few milliseconds and nothing else
bounds them, so a client here works a little between two calls.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple, TypeVar

from labs.harness.clerks import Strings, Versioned
from labs.harness.edition import LabFailure
from labs.harness.kv_cluster import ELECTION_SECONDS, KvCluster
from labs.kv import Err

T = TypeVar("T")

ITERATIONS: Final = 3
STRINGS_SECONDS: Final = 5.0
VERSIONED_SECONDS: Final = 1.0
PARTITIONS_SECONDS: Final = 2.0
"""Partitions begin after a second, when the original's clients of 2025 have already been told to
stop and only those that are stuck see any. Ours go on for so long."""
STRINGS_WORK_SECONDS_MAX: Final = 0.08
VERSIONED_WORK_SECONDS_MAX: Final = 0.05
"""Of a client's work between two calls, when they are `CLIENTS_ALIKE` or fewer; else more."""
CLIENTS_ALIKE: Final = 5
RANDOM_KEYS: Final = 100
SPEED_CALLS: Final = 1000
CALL_SECONDS_MAX: Final = 0.1 / 3
"""Of the speed test: three calls a heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong around the clients, and how they choose keys."""

    clients: int
    crash: bool = False
    partitions: bool = False
    random_keys: bool = False


class Clients:
    """Clients that run side by side until they are told to stop, between two of their calls."""

    def __init__(self, count: int, work_seconds_max: float = VERSIONED_WORK_SECONDS_MAX) -> None:
        self.stopped = False
        self._work_seconds_max = work_seconds_max * max(1.0, count / CLIENTS_ALIKE)

    async def run(self, bodies: Sequence[Awaitable[T]], seconds: float) -> list[T]:
        """Let them run for so long, and wait for each one's last call."""
        running = asyncio.gather(*bodies)
        await asyncio.sleep(seconds)
        self.stopped = True
        return await running

    async def work(self, rng: Random) -> None:
        """What a client does between two calls."""
        await asyncio.sleep(rng.uniform(0, self._work_seconds_max))


class Partitioner:
    """Puts each server on one side or the other, anew every second or so, until it is stopped."""

    def __init__(self, cluster: KvCluster) -> None:
        self._cluster = cluster
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        group, rng = self._cluster.group, self._cluster.rng
        await asyncio.sleep(1.0)
        while True:
            sides: tuple[list[int], list[int]] = ([], [])
            for i in range(group.count):
                sides[rng.randrange(2)].append(i)
            group.partition(*sides)
            await asyncio.sleep(ELECTION_SECONDS + rng.randrange(200) / 1000)

    async def stop(self) -> None:
        """Mend all links, and give the servers a second to elect a leader."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._cluster.group.connect_all()
        await asyncio.sleep(ELECTION_SECONDS)


async def _under(cluster: KvCluster, partitions: bool, clients: Awaitable[T]) -> T:
    """Run the clients to the last call of each, with or without partitions meanwhile."""
    partitioner = Partitioner(cluster) if partitions else None
    results = await clients
    if partitioner is not None:
        await partitioner.stop()
    return results


async def restart_all(cluster: KvCluster) -> None:
    cluster.group.shutdown_all()
    await asyncio.sleep(ELECTION_SECONDS)
    await cluster.group.start_all()


# 2024: strings


def element(client: int, number: int) -> str:
    return f"x {client} {number} y"


def check_elements(client: int, value: str, count: int) -> None:
    """A client's elements 0 to count - 1 are there, once each, in order."""
    last = -1
    for number in range(count):
        wanted = element(client, number)
        at = value.find(wanted)
        if at < 0:
            raise LabFailure(f"client {client} misses its element {wanted!r} in {value!r:.200}")
        if value.rfind(wanted) != at:
            raise LabFailure(f"client {client}: {wanted!r} is there twice")
        if at <= last:
            raise LabFailure(f"client {client}: {wanted!r} is out of order")
        last = at


class StringsClient:
    """One client of the 2024 test, and how many elements it has written.

    Args:
        keys: With random keys, how many there are; 0: it has one of its own, and knows its value.
        old_values: Whether the servers say what was there before an append.
    """

    def __init__(
        self, number: int, clerk: Strings, rng: Random, *, keys: int, old_values: bool
    ) -> None:
        self.elements = 0
        self._number, self._clerk, self._rng = number, clerk, rng
        self._keys, self._old_values = keys, old_values
        self._last = ""

    async def run(self, clients: Clients) -> int:
        """Ask until the clients are stopped; returns how many elements were written."""
        if not self._keys:
            await self._clerk.put(str(self._number), "")
        while not clients.stopped:
            await (self._on_random_key() if self._keys else self._on_own_key(str(self._number)))
            await clients.work(self._rng)
        return self.elements

    async def _on_own_key(self, key: str) -> None:
        if self._rng.random() < 0.5:
            added = element(self._number, self.elements)
            before = await self._clerk.append(key, added)
            if self._old_values and before != self._last:
                raise LabFailure(f"an append to {self._last!r:.60} says it was {before!r:.60}")
            self._last += added
            self.elements += 1
        else:
            await self._clerk.check_get(key, self._last)

    async def _on_random_key(self) -> None:
        rng = self._rng
        key, written = str(rng.randrange(self._keys)), element(self._number, self.elements)
        if rng.random() < 0.5:
            await self._clerk.append(key, written)
            self.elements += 1
        elif rng.random() < 0.1:
            await self._clerk.put(key, written)
            self.elements += 1
        else:
            await self._clerk.get(key)


async def many_strings(cluster: KvCluster, trouble: Trouble) -> None:
    """GenericTest of 2024."""
    checker = cluster.strings()
    for _ in range(ITERATIONS):
        clients = Clients(trouble.clients, STRINGS_WORK_SECONDS_MAX)
        clerks = [cluster.strings() for _ in range(trouble.clients)]
        bodies = [
            StringsClient(
                number,
                clerk,
                Random(cluster.rng.random()),
                keys=trouble.clients if trouble.random_keys else 0,
                old_values=False,
            ).run(clients)
            for number, clerk in enumerate(clerks)
        ]
        running = asyncio.gather(*bodies)
        partitioner = Partitioner(cluster) if trouble.partitions else None
        await asyncio.sleep(STRINGS_SECONDS)
        clients.stopped = True
        # Their last calls are under way while the network heals, and while all servers are down:
        # one that was cut off is done after the healing, one that was begun before is done once.
        if partitioner is not None:
            await partitioner.stop()
        if trouble.crash:
            await restart_all(cluster)
        written = await running
        for clerk in clerks:
            await cluster.delete(clerk)
        for number, count in enumerate(written):
            value = await checker.get(str(number))
            if not trouble.random_keys:
                check_elements(number, value, count)
        cluster.check_sizes()


async def strings_speed(cluster: KvCluster) -> None:
    """GenericTestSpeed of 2024: appends one after the other, three a heartbeat."""
    clerk = cluster.strings()
    await clerk.get("x")  # there is a leader
    async with _in_time("appends"):
        for number in range(SPEED_CALLS):
            await clerk.append("x", element(0, number))
    value = await clerk.get("x")
    if value != "".join(element(0, number) for number in range(SPEED_CALLS)):
        raise LabFailure("the appends are not there, once each and in order")


async def strings_one_partition(cluster: KvCluster) -> None:
    """A minority neither writes nor reads; what it was asked is done after the healing."""
    clerk = cluster.strings()
    await clerk.put("1", "13")

    leader = cluster.group.leader()
    if leader is None:
        raise LabFailure("nobody leads right after a put")
    p1, p2 = cluster.group.make_partition(leader)
    cluster.group.partition(p1, p2)
    ckp1, ckp2a, ckp2b = cluster.strings(p1), cluster.strings(p2), cluster.strings(p2)
    await ckp1.put("1", "14")
    await ckp1.check_get("1", "14")

    putting = asyncio.ensure_future(ckp2a.put("1", "15"))
    getting = asyncio.ensure_future(ckp2b.get("1"))
    await asyncio.sleep(1.0)
    if putting.done() or getting.done():
        raise LabFailure("a minority has put or got")
    await ckp1.check_get("1", "14")
    await ckp1.put("1", "16")
    await ckp1.check_get("1", "16")

    cluster.group.connect_all()
    cluster.connect_clerk(ckp2a)
    cluster.connect_clerk(ckp2b)
    await asyncio.sleep(ELECTION_SECONDS)
    async with asyncio.timeout(3.0):
        await putting
    async with asyncio.timeout(3.0):
        read = await getting
    if read not in ("15", "16"):
        raise LabFailure(f"the get of the minority brought {read!r}")
    await clerk.check_get("1", "15")


class _in_time:
    """`SPEED_CALLS` calls must take at most `CALL_SECONDS_MAX` each, on average."""

    def __init__(self, what: str) -> None:
        self._what, self._loop = what, asyncio.get_running_loop()

    async def __aenter__(self) -> None:
        self._began = self._loop.time()

    async def __aexit__(self, kind: object, *_: object) -> None:
        took, most = self._loop.time() - self._began, SPEED_CALLS * CALL_SECONDS_MAX
        if kind is None and took > most:
            raise LabFailure(f"{SPEED_CALLS} {self._what} took {took:.1f} s, more than {most:.1f}")


# 2025: versions


class Puts(NamedTuple):
    """What a client's puts came to."""

    ok: int = 0
    maybe: int = 0

    def plus(self, other: "Puts") -> "Puts":
        return Puts(self.ok + other.ok, self.maybe + other.maybe)


async def one_put(
    client: int, clerk: Versioned, key: str, version: int, work: Callable[[], Awaitable[None]]
) -> tuple[int, bool]:
    """Put until it is done, or may be; returns the version now, and whether it is done for sure."""
    while True:
        err = await clerk.put(key, json.dumps({"Id": client, "V": version}), version)
        if err not in (Err.OK, Err.VERSION, Err.MAYBE):
            raise LabFailure(f"Put({key!r}, v{version}) says {err.value}")
        found = await clerk.get(key)
        if found.err is not Err.OK:
            raise LabFailure(f"Get({key!r}) after a put says {found.err.value}")
        value: dict[str, Any] = json.loads(found.value)
        ours = value["Id"] == client and value["V"] == version
        if err is Err.OK and found.version == version + 1 and not ours:
            raise LabFailure(f"put {version} of client {client} was OK, and {value} is there")
        version = found.version
        if err in (Err.OK, Err.MAYBE):
            return version, err is Err.OK
        await work()


async def one_client_put(
    client: int, clerk: Versioned, keys: Sequence[str], rng: Random, clients: Clients
) -> Puts:
    """Put on the first key, or on random ones, until the clients are stopped."""
    versions = dict.fromkeys(keys, 0)
    puts = Puts()
    work = partial(clients.work, rng)
    while not clients.stopped:
        key = keys[0] if len(keys) == 1 else keys[rng.randrange(len(keys))]
        versions[key], ok = await one_put(client, clerk, key, versions[key], work)
        puts = puts.plus(Puts(ok=1) if ok else Puts(maybe=1))
        await work()
    return puts


async def spawn_putters(
    make_clerk: Callable[[], Versioned],
    delete: Callable[[Versioned], Awaitable[None]],
    count: int,
    keys: Sequence[str],
    rng: Random,
    seconds: float,
) -> Puts:
    """SpawnClientsAndWait with OneClientPut: `count` fresh clerks put for so long."""
    clients = Clients(count, VERSIONED_WORK_SECONDS_MAX)
    clerks = [make_clerk() for _ in range(count)]
    bodies = [
        one_client_put(number, clerk, keys, Random(rng.random()), clients)
        for number, clerk in enumerate(clerks)
    ]
    total = Puts()
    for puts in await clients.run(bodies, seconds):
        total = total.plus(puts)
    for clerk in clerks:
        await delete(clerk)
    return total


async def check_puts(clerk: Versioned, key: str, puts: Puts, *, reliable: bool) -> None:
    """CheckPutConcurrent: every version of the key is a put that somebody made."""
    found = await clerk.get(key)
    if reliable and found.version != puts.ok:
        raise LabFailure(f"{puts.ok} puts were OK, and {key!r} is at version {found.version}")
    if not puts.ok <= found.version <= puts.ok + puts.maybe:
        raise LabFailure(f"{puts}, and {key!r} is at version {found.version}")


async def many_versioned(cluster: KvCluster, trouble: Trouble) -> None:
    """GenericTest of 2025."""
    keys = [f"k{number}" for number in range(RANDOM_KEYS)] if trouble.random_keys else ["k"]
    checker = cluster.versioned()
    total = Puts()
    reliable = cluster.network.reliable and not trouble.crash and not trouble.partitions
    for _ in range(ITERATIONS):
        asking = spawn_putters(
            cluster.versioned,
            cluster.delete,
            trouble.clients,
            keys,
            cluster.rng,
            VERSIONED_SECONDS + (PARTITIONS_SECONDS if trouble.partitions else 0.0),
        )
        total = total.plus(await _under(cluster, trouble.partitions, asking))
        if not trouble.random_keys:
            await check_puts(checker, "k", total, reliable=reliable)
        cluster.check_linearizable()
        if trouble.crash:
            await restart_all(cluster)
        cluster.check_sizes()


async def versioned_speed(cluster: KvCluster) -> None:
    """GenericTestSpeed of 2025: puts one after the other, each of them certain."""
    clerk = cluster.versioned()
    await clerk.get("x")  # there is a leader
    async with _in_time("puts"):
        for number in range(SPEED_CALLS):
            if (err := await clerk.put("k", str(number), number)) is not Err.OK:
                raise LabFailure(f"put {number} says {err.value}")
    await clerk.check_get("k", str(SPEED_CALLS - 1), SPEED_CALLS)


async def versioned_one_partition(cluster: KvCluster) -> None:
    """As `strings_one_partition`, with the versions that each step must bring."""
    clerk = cluster.versioned()
    ver0 = await clerk.put_at_least_once("1", "13", 0)

    leader = cluster.group.leader()
    if leader is None:
        raise LabFailure("nobody leads right after a put")
    p1, p2 = cluster.group.make_partition(leader)
    cluster.group.partition(p1, p2)
    ckp1, ckp2a, ckp2b = cluster.versioned(p1), cluster.versioned(p2), cluster.versioned(p2)
    ver1 = await ckp1.put_at_least_once("1", "14", ver0)
    await ckp1.check_get("1", "14", ver1)

    putting = asyncio.ensure_future(ckp2a.put_at_least_once("1", "15", ver1))
    getting = asyncio.ensure_future(ckp2b.get("1"))
    await asyncio.sleep(1.0)
    if putting.done() or getting.done():
        raise LabFailure("a minority has put or got")
    await ckp1.check_get("1", "14", ver1)
    ver2 = await ckp1.put_at_least_once("1", "16", ver1)
    await ckp1.check_get("1", "16", ver2)

    cluster.group.connect_all()
    cluster.connect_clerk(ckp2a)
    cluster.connect_clerk(ckp2b)
    await asyncio.sleep(ELECTION_SECONDS)
    async with asyncio.timeout(3.0):
        ver15 = await putting
    async with asyncio.timeout(3.0):
        read = await getting
    if read not in (("15", ver15, Err.OK), ("16", ver2, Err.OK)):
        raise LabFailure(f"the get of the minority brought {read}")
    await clerk.check_get("1", "15", ver15)
