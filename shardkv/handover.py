"""Carries out what is due for configurations and copies while this replica leads its group.

One task a step; when it ends, what is due is read off the applied state anew (`migration.todo`).
So nothing has to be remembered: a new leader starts where the log stands, and a step done twice,
by two leaders or after a lost answer, is done once by the state machine. A chunk is asked for,
proposed, and only then the next one is asked for: one in flight a shard, `COPIES_MAX` shards a
group, and all copies that arrive at a node share one rate. The last chunk and the install that
follows it travel in one entry: between the freeze and the install lie one call and one commit.

No step waits for another group with anything held: it asks, and asks again after a pause.
"""

import asyncio
import logging
from itertools import islice
from random import Random
from typing import Final

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from raft.chores import begin_chore
from raft.errors import RaftError
from raft.types import GroupId
from shardctrler.codec import encode_config
from shardctrler.types import ConfigNumber, ShardId
from shardkv import copies
from shardkv.backoff import Backoff
from shardkv.commands import (
    Configure,
    Drop,
    ExpireSessions,
    Freeze,
    PassTime,
    Renew,
    Restart,
    encode,
)
from shardkv.feed import ConfigFeed
from shardkv.giving_up import waits_for_lost, what_to_propose
from shardkv.limits import (
    CHANGE_ROWS_MAX,
    CHUNK_BYTES_MAX,
    COPIES_MAX,
    COPY_BYTES_PER_SECOND,
    EXPIRE_SESSIONS_MAX,
    SESSIONS_MAX,
)
from shardkv.migration import (
    Advance,
    Ask,
    GiveUp,
    Pull,
    Step,
    answers,
    install,
    owners_since,
    todo,
)
from shardkv.once import PASS_MS_MAX, PASS_SECONDS
from shardkv.progress import Meter, Progress
from shardkv.protocol import BadFrame
from shardkv.rows import ShardRecord, counter_at
from shardkv.server import GroupServer
from shardkv.types import Answer, Code, CopyId, SessionId

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 1.0
"""How long another group has for an answer."""
ATTEMPTS: Final = 3
"""Members that one pull asks before it pauses, when each names another."""
LOOK_SECONDS: Final = 1.0
"""How often the applied state is looked at when nothing said that it changed."""
SURVEY_SECONDS: Final = 60.0
"""How often a leader looks for idle sessions."""
SURVEY_SESSIONS_MAX: Final = 256
"""Sessions looked at in one turn of the loop: a millisecond or two."""
SESSION_IDLE_SECONDS: Final = 1800.0
"""A session unused for so long is forgotten. A write that was under way in it ends as unknown."""
SESSION_IDLE_SECONDS_WHEN_FULL: Final = 120.0
"""The same for a shard whose table is three quarters full."""

CALM_SECONDS: Final = 0.02
"""What a chunk takes, from the question to its commit, on nodes that have time for it."""
REST_SECONDS_MAX: Final = 0.5

_ADVANCE, _GIVE_UP = ShardId(-1), ShardId(-2)
"""In place of a shard, for steps of the whole group."""


def rest_seconds(took: float) -> float:
    """How long a copy rests after a chunk of rows that took so long, for clients to come first.

    As long as the chunk took where nodes are calm, and a growing multiple where they are not: a
    chunk that takes long says that the source, the destination or their disks are busy.
    """
    return min(took * (1 + took / CALM_SECONDS), REST_SECONDS_MAX)


class RateLimit:
    """Bytes a second, for all copies that arrive at one node."""

    def __init__(self, bytes_per_second: float = COPY_BYTES_PER_SECOND) -> None:
        self._rate = bytes_per_second
        self.taken = 0  # bytes, since the start
        self._free_at = 0.0  # loop seconds at which what was taken so far is paid for

    def charge(self, size: int) -> float:
        """Book `size` bytes that came; returns how long to wait for one's turn, in seconds."""
        self.taken += size
        now = asyncio.get_running_loop().time()
        wait = self._free_at - now
        self._free_at = max(self._free_at, now) + size / self._rate
        return max(wait, 0.0)

    async def take(self, size: int) -> None:
        """Wait for one's turn to have received `size` bytes."""
        if wait := self.charge(size):
            await asyncio.sleep(wait)


class Handover:
    """The steps of one group, done by this replica while it leads."""

    def __init__(
        self,
        server: GroupServer,
        feed: ConfigFeed,
        transport: Transport,
        rng: Random,
        rate: RateLimit,
    ) -> None:
        self._server = server
        self._feed = feed
        self._transport = transport
        self._rng = rng
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._steps: dict[ShardId, tuple[Step, asyncio.Task[None]]] = {}
        self._backoffs: dict[ShardId, Backoff] = {}
        self._turns: dict[ShardId, int] = {}  # which member of the source to ask next
        self._leaders: dict[GroupId, Address] = {}  # of other groups, as they said last
        self._meters: dict[ShardId, Meter] = {}
        self._survey: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        server.rsm.on_change = self.look
        feed.listen(self.look)
        self.look()

    async def close(self) -> None:
        self._closed = True
        self._stop_timer()
        tasks = [task for _, task in self._steps.values()]
        tasks += [self._survey] if self._survey is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Begin every step that is due and not under way; end them all where this replica does
        not lead."""
        if self._closed:
            return
        if not self._server.rsm.leads:
            self._rest()
            return
        if self._survey is None:
            self._survey = begin_chore(self._forget_old(), "sessions that nobody uses stay")
        machine = self._server.machine
        unsettled = machine.unsettled
        recovered = self._recovered()
        for step in todo(machine.number, unsettled, machine.changes, CHANGE_ROWS_MAX, recovered):
            self._begin(step)
        if waits_for_lost(unsettled, self._feed.view):
            self._begin(GiveUp(machine.number))
        self._stop_timer()
        self._timer = self._loop.call_later(LOOK_SECONDS, self.look)

    def _recovered(self) -> ConfigNumber | None:
        """See `todo`: a replica of the group that this one took the place of is not meant, nor one
        whose controller has not been heard."""
        machine, view = self._server.machine, self._feed.view
        if machine.is_named or view is None:
            return None
        known = view.directory.groups.get(machine.gid)
        meant = known is not None and known.uuid == machine.uuid
        return view.config.number if meant else None

    def _rest(self) -> None:
        self._stop_timer()
        for _, task in self._steps.values():
            task.cancel()
        self._backoffs.clear()
        self._meters.clear()
        self._server.holds.end_all()
        if self._survey is not None:
            self._survey.cancel()
            self._survey = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, step: Step) -> None:
        match step:
            case Advance():
                shard = _ADVANCE
            case GiveUp():
                shard = _GIVE_UP
            case _:
                shard = step.shard
        if shard in self._steps:
            return
        if isinstance(step, Advance) and step.number > self._feed.number:
            return  # the feed will say when there is news
        if isinstance(step, Pull) and self._copies_under_way >= COPIES_MAX:
            return  # begun when one of them ends
        task = self._loop.create_task(self._run(shard, step))
        self._steps[shard] = (step, task)
        task.add_done_callback(lambda ended: self._ended(shard, ended))

    @property
    def _copies_under_way(self) -> int:
        return sum(isinstance(step, Pull) for step, _ in self._steps.values())

    async def _run(self, shard: ShardId, step: Step) -> None:
        """Do one step; one that could not be done is followed by a pause."""
        try:
            done = await self._do(step)
        except (RaftError, RpcError, BadFrame) as error:
            log.debug("group %d, %s: %s", self._server.gid, step, error)
            done = False
        if done:
            self._backoffs.pop(shard, None)
        else:
            backoff = self._backoffs.setdefault(shard, Backoff(self._rng))
            await asyncio.sleep(backoff.next())

    async def _do(self, step: Step) -> bool:
        """Whether the step got on."""
        match step:
            case Advance():
                return await self._advance(step)
            case Pull():
                return await self._pull(step)
            case Freeze() | Restart() | Renew():
                return await self._propose(encode(step))
            case Ask():
                return await self._ask(step)
            case GiveUp():
                return await self._give_up()

    def _ended(self, shard: ShardId, task: "asyncio.Task[None]") -> None:
        del self._steps[shard]
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a mistake of ours: let the loop's handler report it
        self.look()

    async def _propose(self, command: bytes) -> bool:
        """Whether the state machine took the step, now or before."""
        answer = await self._server.rsm.submit(command)
        assert isinstance(answer, Answer), answer
        return answer.code is Code.OK

    # The steps

    async def _advance(self, advance: Advance) -> bool:
        config = await self._feed.config(advance.number)
        if config is None:
            return False
        return await self._propose(encode(Configure(encode_config(config))))

    async def _pull(self, pull: Pull) -> bool:
        """Stage the next chunk; among the change rows with the wish that the shard be frozen."""
        begun = self._loop.time()
        near = counter_at(pull.cursor) is not None
        if near:
            self._server.holds.begin(pull.shard)
        try:
            got = await self._pulled(pull, freeze=near)
            if got is None:
                return False
            if got.code is Code.OLD:
                return await self._begin_anew(pull)
            if got.end is None:
                self._server.holds.end(pull.shard)
            done = await self._stage(pull, got)
        finally:
            self._server.holds.end(pull.shard)
        if done and not near:
            await asyncio.sleep(rest_seconds(self._loop.time() - begun))
        elif done and got.end is None and got.changes_left:
            await asyncio.sleep(min(self._loop.time() - begun, REST_SECONDS_MAX))
        return done

    async def _begin_anew(self, pull: Pull) -> bool:
        """The source has dropped what this group, which was recovered, has no entry of taking."""
        recovered = self._recovered()
        if recovered is None:
            return False
        log.error(
            "group %d: shard %d had come here from group %d, by entries that no survivor holds: it "
            "begins anew, empty, unless a later owner has it",
            self._server.gid, pull.shard, pull.source,
        )  # fmt: skip
        return await self._propose(encode(Renew(pull.shard, pull.number, recovered, arriving=True)))

    async def _pulled(self, pull: Pull, *, freeze: bool) -> copies.PullReply | None:
        """What the source gives. The freeze is its leader's to grant, so that one is asked at
        once where another replica has nothing more to give."""
        for _ in range(ATTEMPTS):
            member = self._leaders.get(pull.source) if freeze else None
            member = member or self._member(pull.shard, pull.source)
            if member is None:
                self._feed.look()
                return None
            request = copies.PullRequest(
                pull.source,
                pull.shard,
                pull.number,
                pull.copy_id,
                pull.cursor,
                CHUNK_BYTES_MAX,
                freeze,
            )
            body = copies.encode_pull(request)
            reply = await self._call(member, pull.source, copies.PULL, body, pull.shard)
            got = copies.decode_pull_reply(reply)
            self._heard(pull.source, got.leader)
            if got.chunk is not None and not answers(pull, got.chunk):
                break
            gone = got.code is Code.OLD and self._recovered() is not None
            if got.chunk is not None or got.end is not None or gone:
                return got
            if not freeze or self._leaders.get(pull.source) in (None, member):
                break
        self._turns[pull.shard] = self._turns.get(pull.shard, 0) + 1
        return None

    async def _stage(self, pull: Pull, got: copies.PullReply) -> bool:
        """Propose what was given, and the install with it if that was the last of it."""
        commands = [] if got.chunk is None else [got.data]
        last = install(pull, got.chunk, got.end)
        if last is not None:
            commands.append(encode(last))
        wait = self._rate.charge(len(got.data))
        if wait and got.end is None:  # else nobody serves the shard: what follows pays for it
            await asyncio.sleep(wait)
        if got.chunk is not None:
            meter = self._meter(pull.shard, got.chunk.copy_id)
            meter.took(len(got.data), got, self._loop.time())
        outcomes = await self._server.rsm.submit_frame(commands)
        for outcome in outcomes:
            if isinstance(outcome, RaftError):
                raise outcome
            assert isinstance(outcome, Answer), outcome
            if outcome.code is not Code.OK:
                return False
        return True

    async def _ask(self, ask: Ask) -> bool:
        """Ask who may have taken the shard since; the first yes lets it be dropped here."""
        configs = []
        for number in range(ask.number, self._feed.number + 1):
            config = await self._feed.config(ConfigNumber(number))
            if config is None:
                return False
            configs.append(config)
        owners = dict.fromkeys((ask.owner, *owners_since(ask.shard, ask.number, configs)))
        for owner in owners:
            if await self._is_in(owner, ask):
                return await self._propose(encode(Drop(ask.shard, ask.number)))
        return False

    async def _give_up(self) -> bool:
        machine = self._server.machine
        command = await what_to_propose(
            machine.gid, machine.number, machine.unsettled, self._feed, self._stands_at
        )
        return command is not None and await self._propose(encode(command))

    async def _stands_at(self, gid: GroupId) -> int:
        """The number of the configuration that another group has applied; 0 if none answers."""
        member = self._leaders.get(gid) or self._member(_GIVE_UP, gid)
        if member is None:
            return 0
        question = copies.SettledRequest(gid, ShardId(0), ConfigNumber(1))
        body = copies.encode_settled(question)
        try:
            reply = await self._call(member, gid, copies.SETTLED, body, _GIVE_UP)
        except RpcError:
            return 0
        _, number, leader = copies.decode_settled_reply(reply)
        self._heard(gid, leader)
        return number

    async def _is_in(self, owner: GroupId, ask: Ask) -> bool:
        if owner == self._server.gid:
            return self._server.machine.is_in(ask.shard, ask.number)
        member = self._leaders.get(owner) or self._member(ask.shard, owner)
        if member is None:
            return False
        request = copies.SettledRequest(owner, ask.shard, ask.number)
        body = copies.encode_settled(request)
        try:
            reply = await self._call(member, owner, copies.SETTLED, body, ask.shard)
        except RpcError:
            return False  # another owner may answer
        settled, _, leader = copies.decode_settled_reply(reply)
        self._heard(owner, leader)
        if not settled:
            self._turns[ask.shard] = self._turns.get(ask.shard, 0) + 1
        return settled

    def _member(self, shard: ShardId, gid: GroupId) -> Address | None:
        """The member of a group whose turn it is to be asked about a shard."""
        members = self._feed.members(gid)
        if not members:
            return None
        return members[self._turns.get(shard, 0) % len(members)]

    async def _call(
        self, to: Address, gid: GroupId, method: str, body: bytes, shard: ShardId
    ) -> bytes:
        try:
            return await self._transport.call(to, method, body, timeout=ASK_SECONDS)
        except RpcError:
            self._turns[shard] = self._turns.get(shard, 0) + 1
            self._leaders.pop(gid, None)
            raise

    def _heard(self, gid: GroupId, leader: str) -> None:
        """A member of another group has said where its leader is; "" if it does not know."""
        if leader:
            self._leaders[gid] = Address(leader)
        else:
            self._leaders.pop(gid, None)

    # For people

    def progress(self, shard: ShardId, record: ShardRecord) -> Progress:
        """How far the copy of an arriving shard has come; rates are known where it is pulled."""
        meter = self._meters.get(shard)
        if meter is None or meter.copy_id != record.copy_id:
            meter = Meter(record.copy_id, self._loop.time())
        return meter.progress(record.cursor)

    def _meter(self, shard: ShardId, copy_id: CopyId) -> Meter:
        meter = self._meters.get(shard)
        if meter is None or meter.copy_id != copy_id:
            meter = self._meters[shard] = Meter(copy_id, self._loop.time())
        return meter

    # Sessions that nobody uses, and names of requests that are past their day

    async def _forget_old(self) -> None:
        """Forget, through the log, the sessions that were idle for the whole of a long time; and
        let shards that know names of requests grow older, so that those are forgotten."""
        seen: dict[tuple[ShardId, int], tuple[int, float]] = {}  # last sequence, and since when
        told: dict[ShardId, float] = {}  # until when a shard's age has been told
        while True:
            await asyncio.sleep(SURVEY_SECONDS)
            now = self._loop.time()
            before, seen = seen, {}
            for number in range(self._server.machine.nshards):
                shard = ShardId(number)
                used = await self._sessions_of(shard)
                idle = _idle(shard, used, now, before, seen)
                for at in range(0, len(idle), EXPIRE_SESSIONS_MAX):
                    command = ExpireSessions(shard, tuple(idle[at : at + EXPIRE_SESSIONS_MAX]))
                    try:
                        await self._propose(encode(command))
                    except RaftError as error:  # they are as idle at the next look
                        log.debug("group %d: sessions stay: %s", self._server.gid, error)
                await self._pass_time(shard, told)
                await asyncio.sleep(0)

    async def _pass_time(self, shard: ShardId, told: dict[ShardId, float]) -> None:
        """Say how much time has passed for a shard since it was said last, if that is due."""
        machine, rows = self._server.machine, self._server.replica.store.reader
        names = machine.names(rows, shard)
        now = self._loop.time()
        if names is None or not names.names:  # it begins to age with its first name
            told.pop(shard, None)
            return
        passed = now - told.setdefault(shard, now)
        if passed < PASS_SECONDS and not machine.has_old_names(rows, shard, names.age):
            return
        told[shard] = now  # said once at most: what is not heard does not count
        try:
            await self._propose(encode(PassTime(shard, min(int(passed * 1000), PASS_MS_MAX))))
        except RaftError as error:
            log.debug("group %d: shard %d grows no older: %s", self._server.gid, shard, error)

    async def _sessions_of(self, shard: ShardId) -> list[tuple[int, int]]:
        """The sessions of a shard with the highest sequence of each, looked at in slices."""
        used: list[tuple[int, int]] = []
        while True:
            rows = self._server.replica.store.reader
            after = used[-1][0] if used else 0
            found = self._server.machine.survey(rows, shard, after)
            page = list(islice(found, SURVEY_SESSIONS_MAX))
            used += page
            if len(page) < SURVEY_SESSIONS_MAX:
                return used
            await asyncio.sleep(0)


def _idle(
    shard: ShardId,
    used: list[tuple[int, int]],
    now: float,
    before: dict[tuple[ShardId, int], tuple[int, float]],
    seen: dict[tuple[ShardId, int], tuple[int, float]],
) -> list[tuple[SessionId, int]]:
    """Those sessions that were idle for long; what was seen of all goes into `seen`."""
    full = len(used) > SESSIONS_MAX * 3 // 4
    patience = SESSION_IDLE_SECONDS_WHEN_FULL if full else SESSION_IDLE_SECONDS
    idle: list[tuple[SessionId, int]] = []
    for session, last in used:
        last_before, since = before.get((shard, session), (-1, now))
        seen[shard, session] = (last, since if last == last_before else now)
        if last == last_before and now - since >= patience:
            idle.append((SessionId(session), last))
    return idle
