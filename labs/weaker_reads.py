"""Simulated clients that read from any replica, keep sessions and list; and what judges them.

- R14 a read barrier on any replica, leader or not: when it resolves, that replica holds whatever
      anybody had applied when it was asked for. (`watch_barriers`, at every barrier of a run.)
- C1, C2  spread reads are in the history like any other: they are linearizable.
- C6  a *stale* read shows no state that had been replaced more than its bound before the call. In
      a *session* a read shows the session's own writes and nothing older than it was shown before,
      key by key, also when its token goes on with another clerk, and after moves of the shard.
- C9  a *list* is in order, none twice; a key present from its begin to its end is in it; and what
      it shows of a key stood at some moment in between.
- C10 whoever sees both halves of a pair at one moment sees what one batch made of them.

States are those of `StoreInvariants`: a state begins when the first replica applies its write, so
it is committed by then, and whoever asks the leader later is told of an index behind it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

from labrpc.sim.loop import true_clock
from labs.checkers import RaftInvariants
from labs.history import History, Kind
from labs.memory import State
from labs.store_invariants import StoreInvariants
from labs.workload import Workload, WorkloadConfig
from raft.errors import NotLeader
from raft.replica import Replica
from shardkv.clerk import Clerk
from shardkv.errors import OutcomeUnknown, TooStale, Unavailable
from shardkv.listing import Listed
from shardkv.routing import SlotRouting
from shardkv.tokens import ReadSession
from shardkv.types import Row

BOUNDS: Final = (0.0, 0.4, 1.5, 5.0)
"""Of stale reads, in seconds."""
UNBOUNDED_SECONDS: Final = 86_400.0
"""The bound of a session's reads: only the session says how new they must be."""
PREFIXES: Final = (b"", b"list ", b"register ", b"{pair ")
KINDS: Final = {"spread": 4, "stale": 4, "session": 6, "list": 1}
"""How often each is asked, among each other."""


def watch_barriers(watcher: RaftInvariants, node: str, replica: Replica) -> None:
    """R14: see the module's text. Only barriers that resolve are judged."""
    ask = replica.read_barrier

    def read_barrier() -> "asyncio.Future[None]":
        known, core = watcher.applied_anywhere, replica.core
        # In what a leader has of earlier terms may be what it does not know to be committed.
        early = replica.leads and core.log.term(core.commit) != core.term
        future = ask()
        future.add_done_callback(partial(judge, known, replica.applied, replica.leads, early))
        return future

    def judge(
        known: int, applied: int, led: bool, early: bool, future: "asyncio.Future[None]"
    ) -> None:
        probe = watcher.observer.probe
        if future.cancelled() or future.exception() is not None:
            if led and not future.cancelled() and isinstance(future.exception(), NotLeader):
                probe("read failed by a step-down")
            return
        if early:
            probe("read waited for the term's first commit")
        if replica.applied > applied and applied < known:
            probe("read waited for apply")
        if replica.applied < known:
            watcher.observer.broke(
                "R14",
                f"group {watcher.gid}: {node} lets a read be served at {replica.applied}, when it "
                f"was asked for {known} was applied",
            )
        if not replica.leads:
            watcher.observer.probe("read confirmed on a follower")

    replica.read_barrier = read_barrier  # type: ignore[method-assign]


@dataclass(slots=True)
class _Seen:
    """A session, and the oldest state of each key that it may still be shown."""

    session: ReadSession
    states: dict[bytes, int] = field(default_factory=dict)


class WeakerReads(Workload):
    """Clients beside those of a `Workload`, on the same keys and in the same history.

    Args:
        first_client: The number of the first of them, in the history.
    """

    def __init__(
        self,
        clerks: list[Clerk],
        rng: Random,
        config: WorkloadConfig,
        history: History,
        oracle: StoreInvariants,
        *,
        first_client: int,
    ) -> None:
        super().__init__(clerks, rng, config, history, oracle, first_client=first_client)
        self._oracle = oracle
        self._observer = oracle.observer
        self._now = true_clock()

    async def _client(self, client: int) -> None:
        rng = self._rngs[client]
        seen = _Seen(self._clerks[client].session())
        number = 0
        while not self._stopping:
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            number += 1
            match kind:
                case "spread":
                    key = rng.choice(self.keys)
                    asked = await self.ask(client, Kind.GET, key, None, consistency="spread")
                    if asked.happened:
                        self._observer.probe("spread read")
                case "stale":
                    await self._stale(client, rng.choice(self.keys), rng.choice(BOUNDS))
                case "session":
                    if rng.random() < 0.2:  # its token goes on elsewhere
                        clerk = self._clerks[(client + number) % len(self._clerks)]
                        seen.session = clerk.session(str(seen.session))
                    await self._in_session(client, seen, number, rng)
                case "list":
                    await self._list(client, rng)
            await asyncio.sleep(rng.uniform(0, self._config.pause_max))

    # Stale reads

    async def _stale(self, client: int, key: bytes, bound: float) -> None:
        began = self._now()
        try:
            row = await self._clerks[client].get_row(
                key, consistency="stale", max_age=bound, timeout=self._config.timeout
            )
        except TooStale:
            self._observer.probe("stale read refused")
            return
        except Unavailable:
            return
        states = self._oracle.states(key)
        at = _newest(states, row)
        told = f"{key!r} is {row.value!r:.60} v{row.version} for a read at {began:.6f}"
        if at is None:
            self._observer.broke("C6", f"no such value ever stood: {told}")
        elif at + 1 < len(states) and states[at + 1].since <= began - bound:
            self._observer.broke(
                "C6", f"replaced at {states[at + 1].since:.6f}, bound {bound:g} s: {told}"
            )
        elif at + 1 < len(states) and states[at + 1].since < began:
            self._observer.probe("stale read that showed an old state")
        self._observer.probe("stale read")

    # Sessions

    async def _in_session(self, client: int, seen: _Seen, number: int, rng: Random) -> None:
        if rng.random() < self._config.writes:
            await self._write(client, seen, rng.choice(self.written_alone), number)
        else:
            await self._read(client, seen, rng.choice(self.keys))

    async def _write(self, client: int, seen: _Seen, key: bytes, number: int) -> None:
        kind = Kind.APPEND if key in self.lists else Kind.PUT
        value = b"%d.%d" % (self.first_client + client, number)
        value += b" " if kind is Kind.APPEND else b""
        asked = await self.ask(client, kind, key, value, session=seen.session)
        if asked.happened:
            seen.states[key] = self._oracle.effects[key, value]

    def _epoch(self, seen: _Seen, key: bytes) -> int:
        """Under which the session saw the key's shard last; 0: never."""
        config = self._clerks[0].config
        if config is None:
            return 0
        return seen.session.mark(SlotRouting(len(config.shards))(key)).epoch

    async def _read(self, client: int, seen: _Seen, key: bytes) -> None:
        before = self._epoch(seen, key)
        try:
            row = await self._clerks[client].get_row(
                key,
                consistency="stale",
                max_age=UNBOUNDED_SECONDS,
                session=seen.session,
                timeout=self._config.timeout,
            )
        except (TooStale, Unavailable):
            return
        states, least = self._oracle.states(key), seen.states.get(key, 0)
        at = _oldest(states, row, least)
        if at is None:
            self._observer.broke(
                "C6",
                f"{key!r} is {row.value!r:.60} v{row.version} in a session that has seen state "
                f"{least}: {states[least].value!r:.60} v{states[least].version}",
            )
            return
        seen.states[key] = at
        self._observer.probe("session read")
        if 0 < before < self._epoch(seen, key):
            self._observer.probe("session read after a move")
        if at + 1 < len(states):
            self._observer.probe("session read that showed an old state")

    # Lists

    async def _list(self, client: int, rng: Random) -> None:
        prefix = rng.choice(PREFIXES)
        consistency = rng.choice(("linearizable", "spread"))
        keys = [key for key in self.keys if key.startswith(prefix)]
        standing = {key: len(self._oracle.states(key)) - 1 for key in keys}
        rows: list[Listed] = []
        found = self._clerks[client].list(
            prefix, values=True, consistency=consistency, timeout=self._config.timeout
        )
        try:
            async for row in found:
                rows.append(row)
                if rng.random() < 0.1:
                    await asyncio.sleep(rng.uniform(0, self._config.pause_max))
        except (Unavailable, OutcomeUnknown):
            return
        self._observer.probe("list")
        listed = [row.key for row in rows]
        if listed != sorted(set(listed)):
            self._observer.broke("C9", f"a list of {prefix!r} is out of order: {listed}")
        for row in rows:
            states = self._oracle.states(row.key)[standing.get(row.key, 0) :]
            if _newest(states, Row(row.value, row.version)) is None:
                self._observer.broke("C9", f"what a list shows did not stand during it: {row}")
        self._look_at_pairs(rows, prefix, consistency)
        for key in _missing(keys, listed):
            if all(state.value is not None for state in self._oracle.states(key)[standing[key] :]):
                self._observer.broke("C9", f"{key!r} was there all the time, and a list lacks it")

    def _look_at_pairs(self, rows: Sequence[Listed], prefix: bytes, consistency: str) -> None:
        """C10: the rows of a pair lie beside each other in one shard, and so come from one page,
        which shows one moment: both halves have one value, or both are absent."""
        shown = {row.key: row.value for row in rows}
        for left, right, _ in self.pairs:
            if not left.startswith(prefix):
                continue
            if shown.get(left) != shown.get(right):
                self._observer.broke(
                    "C10",
                    f"a {consistency} list shows half a batch: {left!r} is {shown.get(left)!r}, "
                    f"{right!r} is {shown.get(right)!r}",
                )
            elif left in shown:
                self._observer.probe("list that showed a whole batch")


def _missing(keys: Sequence[bytes], without: Sequence[bytes]) -> list[bytes]:
    """The keys that are not in `without`, in their order."""
    known = dict.fromkeys(without)
    return [key for key in keys if key not in known]


def _newest(states: Sequence[State], row: Row) -> int | None:
    """The place of the newest state that looks like `row`."""
    for at in range(len(states) - 1, -1, -1):
        if (states[at].value, states[at].version) == row:
            return at
    return None


def _oldest(states: Sequence[State], row: Row, least: int) -> int | None:
    """The place of the oldest state from `least` on that looks like `row`."""
    for at in range(least, len(states)):
        if (states[at].value, states[at].version) == row:
            return at
    return None
