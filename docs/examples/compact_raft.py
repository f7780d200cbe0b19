"""A whole Raft for the raft lab's tests, written to docs/labs-interface.md and nothing else.

    python -m labs run raft --impl docs/examples/compact_raft.py:CompactRaft

It follows Raft (extended), figures 2 and 13. State and log are one msgpack value that is saved
whole before anything is said that depends on it.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Coroutine, Mapping
from random import Random
from typing import Any

import msgpack

from labs.raft import ApplyMsg

HEARTBEAT_SECONDS = 0.1
ELECTION_SECONDS = (0.4, 0.8)
FOLLOWER, CANDIDATE, LEADER = "follower", "candidate", "leader"


class CompactRaft:
    """One server. `log[0]` stands for the snapshot's last entry; indexes count from 1."""

    def __init__(self, peers: Any, me: int, persister: Any, apply_queue: Any, rng: Random) -> None:
        self.peers, self.me, self.persister, self.queue, self.rng = (
            peers, me, persister, apply_queue, rng
        )  # fmt: skip
        self.others = [peer for peer in range(len(peers)) if peer != me]
        self.loop = asyncio.get_running_loop()
        self.role, self.dead = FOLLOWER, False
        self.term, self.vote, self.base = 0, -1, 0
        self.log: list[list[Any]] = [[0, None]]  # [term, command]
        if persister.state:
            self.term, self.vote, self.base, self.log = msgpack.unpackb(persister.state)
        self.commit = self.applied = self.base  # the service has read the snapshot itself
        self.next: dict[int, int] = {}
        self.match: dict[int, int] = {}
        self.votes: dict[int, bool] = {}
        self.news = asyncio.Event()
        self.gathering = False
        self.tasks: dict[asyncio.Task[None], None] = {}
        self.heard()
        self.begin(self.watch_the_clock())
        self.begin(self.apply_all())

    # What the service calls

    def start(self, command: Any) -> tuple[int, int, bool]:
        if self.dead or self.role != LEADER:
            return -1, self.term, False
        self.log.append([self.term, command])
        self.save()
        if not self.gathering:  # the commands of one loop turn share an append
            self.gathering = True
            self.loop.call_soon(self.send_gathered)
        return self.last, self.term, True

    def get_state(self) -> tuple[int, bool]:
        return self.term, self.role == LEADER and not self.dead

    def snapshot(self, index: int, snapshot: bytes) -> None:
        if not self.dead and index > self.base:
            self.cut(index, snapshot)

    def kill(self) -> None:
        self.dead = True
        for task in self.tasks:
            task.cancel()

    @property
    def handlers(self) -> Mapping[str, Any]:
        return {
            "Raft.Vote": self.on_vote,
            "Raft.Append": self.on_append,
            "Raft.Snapshot": self.on_snapshot,
        }

    # State

    @property
    def last(self) -> int:
        return self.base + len(self.log) - 1

    def term_at(self, index: int) -> int:
        term: int = self.log[index - self.base][0]
        return term

    def save(self, snapshot: bytes | None = None) -> None:
        state = [self.term, self.vote, self.base, self.log]
        self.persister.save(msgpack.packb(state), snapshot)

    def cut(self, index: int, snapshot: bytes) -> None:
        self.log = [[self.term_at(index), None], *self.log[index - self.base + 1 :]]
        self.base = index
        self.save(snapshot)

    def see_term(self, term: int) -> None:
        """A higher term makes a follower of anybody, without a vote."""
        if term > self.term:
            self.term, self.vote, self.role = term, -1, FOLLOWER
            self.save()

    def heard(self) -> None:
        self.deadline = self.loop.time() + self.rng.uniform(*ELECTION_SECONDS)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(self.ended)

    def ended(self, task: "asyncio.Task[None]") -> None:
        del self.tasks[task]
        if not task.cancelled():
            task.result()  # a mistake of ours must be heard

    # Time

    async def watch_the_clock(self) -> None:
        while True:
            if self.role == LEADER:
                self.send_to_all()
                await asyncio.sleep(HEARTBEAT_SECONDS)
            elif self.loop.time() >= self.deadline:
                self.campaign()
            else:
                await asyncio.sleep(min(self.deadline - self.loop.time(), 0.02))

    def campaign(self) -> None:
        self.term, self.vote, self.role = self.term + 1, self.me, CANDIDATE
        self.votes = {self.me: True}
        self.save()
        self.heard()
        for peer in self.others:
            self.begin(self.ask_for_vote(peer))

    # Votes (figure 2, RequestVote)

    async def ask_for_vote(self, peer: int) -> None:
        term = self.term
        answer = await self.ask(peer, "Raft.Vote", [term, self.me, self.last, self.log[-1][0]])
        if answer is None or self.role != CANDIDATE or self.term != term:
            return
        if answer[1]:
            self.votes[peer] = True
        if 2 * len(self.votes) > len(self.peers):
            self.role = LEADER
            self.next = dict.fromkeys(self.others, self.last + 1)
            self.match = dict.fromkeys(self.others, 0)

    def on_vote(self, body: bytes) -> bytes:
        term, candidate, last, last_term = msgpack.unpackb(body)
        self.see_term(term)
        up_to_date = (last_term, last) >= (self.log[-1][0], self.last)
        granted = term == self.term and self.vote in (-1, candidate) and up_to_date
        if granted:
            self.vote = candidate
            self.save()
            self.heard()
        return msgpack.packb([self.term, granted])

    # Appends (figure 2, AppendEntries)

    def send_gathered(self) -> None:
        self.gathering = False
        if self.role == LEADER and not self.dead:
            self.send_to_all()

    def send_to_all(self) -> None:
        for peer in self.others:
            self.begin(self.send(peer))

    async def send(self, peer: int) -> None:
        if self.dead or self.role != LEADER:
            return
        term, prev = self.term, self.next[peer] - 1
        if prev < self.base:
            await self.send_snapshot(peer)
            return
        entries = self.log[prev - self.base + 1 :]
        self.next[peer] = self.last + 1  # each entry is sent once, unless it gets lost
        request = [term, self.me, prev, self.term_at(prev), entries, self.commit]
        answer = await self.ask(peer, "Raft.Append", request)
        if self.role != LEADER or self.term != term:
            return
        if answer is None:
            self.next[peer] = self.match[peer] + 1
        elif answer[1]:
            self.acknowledged(peer, prev + len(entries))
        else:  # never below what is known to be there: the answer may be an old one
            self.next[peer] = max(self.match[peer] + 1, min(answer[2], prev))

    def on_append(self, body: bytes) -> bytes:
        term, _, prev, prev_term, entries, commit = msgpack.unpackb(body)
        self.see_term(term)
        if term < self.term:
            return msgpack.packb([self.term, False, 0])
        self.role = FOLLOWER
        self.heard()
        if prev < self.base:  # what the snapshot holds is committed, so it is the same
            entries, prev = entries[self.base - prev :], self.base
        elif prev > self.last:
            return msgpack.packb([self.term, False, self.last + 1])
        elif self.term_at(prev) != prev_term:
            first = bisect_left(self.log, self.term_at(prev), key=lambda entry: entry[0])
            return msgpack.packb([self.term, False, max(self.base + first, self.base + 1)])
        for index, entry in enumerate(entries, prev + 1):
            if index > self.last or self.term_at(index) != entry[0]:
                self.log[index - self.base :] = entries[index - prev - 1 :]
                self.save()
                break  # an entry that is there already stays, with all behind it
        self.commit_to(min(commit, prev + len(entries)))
        return msgpack.packb([self.term, True, 0])

    def acknowledged(self, peer: int, index: int) -> None:
        self.match[peer] = max(self.match[peer], index)
        self.next[peer] = max(self.next[peer], self.match[peer] + 1)
        self.advance_commit()

    def advance_commit(self) -> None:
        """What a majority has, if its last entry is of this term (section 5.4.2)."""
        agreed = sorted([*self.match.values(), self.last])[(len(self.peers) - 1) // 2]
        if agreed > self.commit and self.term_at(agreed) == self.term:
            self.commit_to(agreed)

    def commit_to(self, index: int) -> None:
        if index > self.commit:
            self.commit = index
            self.news.set()

    # Snapshots (figure 13, in one piece)

    async def send_snapshot(self, peer: int) -> None:
        term, base = self.term, self.base
        request = [term, base, self.log[0][0], self.persister.snapshot]
        answer = await self.ask(peer, "Raft.Snapshot", request)
        if answer is not None and self.role == LEADER and self.term == term:
            self.acknowledged(peer, base)

    def on_snapshot(self, body: bytes) -> bytes:
        term, index, last_term, snapshot = msgpack.unpackb(body)
        self.see_term(term)
        if term < self.term:
            return msgpack.packb([self.term])
        self.role = FOLLOWER
        self.heard()
        if index > self.commit:  # an older one would take the service back
            if index >= self.last or self.term_at(index) != last_term:
                self.log = [[last_term, None]]
                self.base = index
                self.save(snapshot)
            else:
                self.cut(index, snapshot)
            self.commit_to(index)
        return msgpack.packb([self.term])

    # Applying, and asking

    async def apply_all(self) -> None:
        """One message after the other, each when the service has taken the last."""
        while True:
            if self.applied < self.base:
                self.applied = self.base
                await self.queue.put(
                    ApplyMsg(
                        snapshot_valid=True,
                        snapshot=self.persister.snapshot,
                        snapshot_term=self.log[0][0],
                        snapshot_index=self.base,
                    )
                )
            elif self.applied < self.commit:
                self.applied += 1
                command = self.log[self.applied - self.base][1]
                await self.queue.put(
                    ApplyMsg(command_valid=True, command=command, command_index=self.applied)
                )
            else:
                self.news.clear()
                await self.news.wait()

    async def ask(self, peer: int, method: str, request: list[Any]) -> list[Any] | None:
        """None: no answer, which says nothing about what happened."""
        answer = await self.peers[peer].call(method, msgpack.packb(request))
        if answer is None or self.dead:
            return None
        decoded: list[Any] = msgpack.unpackb(answer)
        self.see_term(decoded[0])
        return decoded
