"""Each scenario of `test_field_bugs_*.py` can fail: its safeguard is broken, and it must notice.

A table: the scenario, and what is taken away from this code, from outside. What the field's bug was
made of is taken away where this code has the same part.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import raft.core
import raft.election
from labrpc.sim.loop import SimulationError
from raft.config import Mode, RaftConfig
from raft.core import Raft
from raft.disk.records import ReplicaRecord
from raft.election import Candidacy
from raft.errors import Compacted
from raft.leader import Leader
from raft.log import Log
from raft.membership import leave_joint
from raft.messages import (
    AppendReply,
    HeartbeatReply,
    RequestVote,
    VoteReply,
)
from raft.progress import Progress
from raft.quorum import Electorate, Verdict
from raft.reads import ForwardedReads
from raft.ready import ReadState, Ready
from raft.state import State
from raft.types import EntryId, Index, ReplicaId, Term
from tests.raft import test_field_bugs_elections as elections
from tests.raft import test_field_bugs_fuzzy as fuzzy
from tests.raft import test_field_bugs_reads as reads
from tests.raft import test_field_bugs_replication as replication
from tests.raft import test_field_bugs_snapshots as snapshots
from tests.raft import test_field_bugs_storage as storage
from tests.raft import test_field_bugs_transfer as transfer
from tests.raft import test_safeguards as safeguards
from tests.scorecard import shell
from tests.support.chaos import ChaosNode
from tests.support.hosts import GID, UUID

ROOT = Path(__file__).parents[2]
Patch = pytest.MonkeyPatch
NOTICED = (AssertionError, SimulationError, LookupError, ValueError, TypeError, TimeoutError)


def small_terms_say_nothing(patch: Patch) -> None:
    """A request of a low term is ignored, and a pre-vote is granted in the voter's own term."""
    answer = raft.election.answer

    def broken(state: State, request: RequestVote, now: float) -> None:
        answer(state, request, now)
        said = state.messages[-1]
        if request.pre and isinstance(said, VoteReply) and said.granted:
            state.messages[-1] = said._replace(term=state.term)

    patch.setattr(raft.election, "answer", broken)
    patch.setattr(raft.election, "refuse", lambda state, request: None)


def old_leaders_hear_nothing(patch: Patch) -> None:
    settle = Raft._settle_term

    def broken(self: Raft, message: Any, now: float) -> bool:
        return False if message.term < self.term else settle(self, message, now)

    patch.setattr(Raft, "_settle_term", broken)


def a_step_down_leaves_the_leader_at_work(patch: Patch) -> None:
    become = Raft._become_follower

    def broken(self: Raft, *args: Any) -> None:
        led = self._leader
        become(self, *args)
        self._leader = led

    patch.setattr(Raft, "_become_follower", broken)


def no_vote_for_oneself_when_leaving(patch: Patch) -> None:
    counts = Candidacy.counts

    def broken(self: Candidacy, state: State, reply: VoteReply) -> Verdict:
        voters = [member.id for member in state.log.membership.voters]
        if reply.source == state.id and state.id not in voters:
            return Verdict.PENDING
        return counts(self, state, reply)

    patch.setattr(Candidacy, "counts", broken)


def no_prevote_and_no_check_of_the_quorum(patch: Patch) -> None:
    patch.setattr(RaftConfig, "checks_quorum", property(lambda self: False))


def everybody_must_agree(patch: Patch) -> None:
    def broken(self: Electorate, acked: Callable[[ReplicaId], int]) -> int:
        return min((acked(voter) for voter in self.everyone), default=0)

    patch.setattr(Electorate, "committed", broken)


def a_blank_node_gets_its_old_name(patch: Patch) -> None:
    """An operator, or a start script, makes the replica anew that was there."""
    start = ChaosNode.start

    async def broken(self: ChaosNode, *, create: bool = False) -> Any:
        host = await start(self, create=create)
        if create and len(self.world.nodes) == 3 and self._boot > 1:
            number = ReplicaId(int(self.name.removeprefix("n")))
            await host.create_replica(ReplicaRecord(GID, UUID, number, incarnation=1))
            await self.start_replica(GID)
        return host

    patch.setattr(ChaosNode, "start", broken)


def no_term_is_zero(patch: Patch) -> None:
    term = Log.term

    def broken_term(self: Log, index: Index) -> Term:
        try:
            return term(self, index) if index <= self.last.index else Term(0)
        except Compacted:
            return Term(0)

    def broken_holds(self: Log, entry: EntryId) -> bool:
        return broken_term(self, entry.index) == entry.term

    patch.setattr(Log, "term", broken_term)
    patch.setattr(Log, "holds", broken_holds)


def a_late_rejection_is_believed(patch: Patch) -> None:
    patch.setattr(Progress, "expects_rejection", lambda self, prev: True)


def acknowledged_before_the_save(patch: Patch) -> None:
    ready = Raft.ready

    def broken(self: Raft) -> Ready:
        told = ready(self)
        acks = tuple(m for m in told.messages if isinstance(m, AppendReply))
        rest = tuple(m for m in told.messages if not isinstance(m, AppendReply))
        early: Any = (*told.early, *acks)
        return told._replace(early=early, messages=rest)

    patch.setattr(Raft, "ready", broken)


def joint_is_left_at_once(patch: Patch) -> None:
    become = Raft._become_leader

    def broken(self: Raft, now: float) -> None:
        become(self, now)
        at = self._state.log.membership
        if at.outgoing and self._leader is not None:
            self._leader._append_membership(leave_joint(at))

    patch.setattr(Raft, "_become_leader", broken)


def a_transfer_never_expires(patch: Patch) -> None:
    start = Leader.start_transfer

    def broken(self: Leader, to: ReplicaId) -> None:
        start(self, to)
        if self.transfer is not None:
            self.transfer = self.transfer._replace(expires_at=float("inf"))

    patch.setattr(Leader, "start_transfer", broken)


def early_reads_are_dropped(patch: Patch) -> None:
    read = Leader.read

    def broken(self: Leader, asked: Any) -> None:
        if self.commits_own_term:
            read(self, asked)

    patch.setattr(Leader, "read", broken)


def any_answer_confirms_reads(patch: Patch) -> None:
    def broken(self: Leader, reply: HeartbeatReply, now: float) -> None:
        self.reads.start(self.replication.round)
        self.reads.confirm(2**62)

    patch.setattr(Leader, "on_heartbeat_reply", broken)


def any_answer_is_the_answer(patch: Patch) -> None:
    def broken(self: ForwardedReads, reply: Any) -> None:
        for context in self._asked:
            self._state.reads.append(ReadState(context, reply.index))
        self._asked = {}

    patch.setattr(ForwardedReads, "answered", broken)


def restored_by_half_and_going_on(patch: Patch) -> None:
    shell.go_on(patch)


def quorum_of_one_for_reads(patch: Patch) -> None:
    safeguards.read_without_a_quorum(patch)
    shell.read_on_a_follower(patch)


@dataclass(frozen=True)
class Bug:
    scenario: Callable[..., None]
    breaks: Callable[[Patch], None]
    arguments: tuple[Any, ...] = ()
    tries: Sequence[tuple[Any, ...]] = ()
    """Instead of `arguments`: seeds of which one must notice."""

    def __str__(self) -> str:
        return f"{self.scenario.__name__.removeprefix('test_')}-{self.breaks.__name__}"


ONE_WAY = elections.test_three_nodes_of_which_one_is_isolated_one_way
SLOW_VOTES = fuzzy.test_hashicorp_fuzzy_slow_votes

TABLE = (
    Bug(
        elections.test_etcd_8243_a_node_with_a_small_term_does_not_hold_up_the_election,
        small_terms_say_nothing,
    ),
    Bug(
        elections.test_etcd_8501_a_node_with_a_large_term_and_a_short_log_is_taken_back,
        old_leaders_hear_nothing,
    ),
    Bug(
        elections.test_hashicorp_695_a_heartbeat_changes_no_term_behind_the_leaders_back,
        a_step_down_leaves_the_leader_at_work,
    ),
    Bug(
        elections.test_hashicorp_695_partitions_that_heal_while_clients_write,
        a_step_down_leaves_the_leader_at_work,
        (0,),
    ),
    Bug(
        elections.test_scylladb_10618_a_leader_that_leaves_votes_for_itself,
        no_vote_for_oneself_when_leaving,
    ),
    Bug(
        elections.test_howard_2020_five_nodes_of_which_some_hear_only_one,
        no_prevote_and_no_check_of_the_quorum,
    ),
    Bug(ONE_WAY, no_prevote_and_no_check_of_the_quorum, ("leader", True, "all")),
    Bug(ONE_WAY, everybody_must_agree, ("leader", True, "one")),
    Bug(ONE_WAY, everybody_must_agree, ("leader", False, "all")),
    Bug(ONE_WAY, no_prevote_and_no_check_of_the_quorum, ("leader", False, "one")),
    Bug(ONE_WAY, no_prevote_and_no_check_of_the_quorum, ("follower", True, "all")),
    Bug(ONE_WAY, no_prevote_and_no_check_of_the_quorum, ("follower", True, "one")),
    Bug(ONE_WAY, everybody_must_agree, ("follower", False, "all")),
    Bug(ONE_WAY, everybody_must_agree, ("follower", False, "one")),
    Bug(
        elections.test_rethinkdb_a_wiped_node_does_not_vote_and_returns_as_another_replica,
        a_blank_node_gets_its_old_name,
    ),
    Bug(fuzzy.test_hashicorp_fuzzy_leader_partitions, safeguards.commit_the_highest, (0,)),
    Bug(SLOW_VOTES, safeguards.vote_twice, tries=[(n, VoteReply, Mode.LAB) for n in range(5)]),
    Bug(SLOW_VOTES, safeguards.vote_twice, tries=[(n, RequestVote, Mode.LAB) for n in range(5)]),
    Bug(
        fuzzy.test_hashicorp_fuzzy_add_and_remove_members,
        safeguards.change_twice_at_once,
        tries=[(n,) for n in range(5)],
    ),
    Bug(
        replication.test_figure_8_an_entry_of_an_old_term_on_a_majority_is_not_committed,
        safeguards.commit_by_counting,
    ),
    Bug(replication.test_figure_8_with_disks_and_elections, safeguards.commit_by_counting),
    Bug(replication.test_etcd_raft_76f1249_a_compacted_term_matches_nothing, no_term_is_zero),
    Bug(
        replication.test_etcd_raft_8ecce32_a_page_of_entries_does_not_stand_for_all,
        safeguards.skip_pages,
    ),
    Bug(
        replication.test_openraft_1501_a_late_rejection_is_no_sign_of_a_lost_log,
        a_late_rejection_is_believed,
    ),
    Bug(
        replication.test_tikv_994_an_acknowledged_entry_survives_the_machine,
        acknowledged_before_the_save,
    ),
    Bug(
        replication.test_camunda_60086_a_recovered_joint_membership_is_committed_before_it_is_left,
        joint_is_left_at_once,
    ),
    Bug(
        transfer.test_hashicorp_696_a_transfer_that_was_broken_off_binds_no_later_leadership,
        shell.a_transfer_outlives_its_term,
    ),
    Bug(
        transfer.test_hashicorp_493_a_transfer_that_fails_gives_the_leader_back,
        a_transfer_never_expires,
    ),
    Bug(
        snapshots.test_hashicorp_697_a_conflicting_tail_goes_with_the_snapshot,
        safeguards.keep_the_tail,
    ),
    Bug(
        snapshots.test_scylladb_9551_the_membership_in_force_is_the_snapshots,
        safeguards.keep_the_tail,
    ),
    Bug(
        snapshots.test_redisraft_43_no_gap_between_the_snapshot_and_the_log,
        safeguards.compact_before_flush,
        (False,),
    ),
    Bug(
        snapshots.test_redisraft_52_no_two_histories_after_crashes_and_partitions,
        safeguards.two_batches,  # duplicate elements
        tries=[(n,) for n in range(6)],
    ),
    Bug(
        snapshots.test_redisraft_52_no_two_histories_after_crashes_and_partitions,
        safeguards.append_without_sync,  # lost ones
        tries=[(n,) for n in range(6)],
    ),
    Bug(
        snapshots.test_rqlite_2759_a_failed_restore_is_the_replicas_end_and_nobody_elses,
        restored_by_half_and_going_on,
    ),
    Bug(
        reads.test_etcd_7331_a_new_leader_answers_no_read_by_its_old_commit_index,
        safeguards.read_before_an_own_commit,
    ),
    Bug(
        reads.test_tikv_6340_a_followers_read_waits_for_the_new_leaders_first_commit,
        safeguards.read_before_an_own_commit,
    ),
    Bug(
        reads.test_etcd_12680_a_read_that_comes_too_early_is_kept_and_not_dropped,
        early_reads_are_dropped,
    ),
    Bug(
        reads.test_etcd_20418_answers_from_before_a_pause_confirm_no_read_after_it,
        any_answer_confirms_reads,
    ),
    Bug(
        reads.test_etcd_20418_a_late_answer_serves_the_question_that_it_was_given_to_alone,
        any_answer_is_the_answer,
    ),
    Bug(
        reads.test_redisraft_18_a_minority_that_has_started_again_reads_nothing,
        quorum_of_one_for_reads,
    ),
    Bug(
        reads.test_redisraft_19_a_leader_that_was_replaced_reads_nothing,
        safeguards.read_without_a_quorum,
    ),
    Bug(
        storage.test_etcd_13766_the_applied_index_and_the_data_are_one_batch,
        safeguards.two_batches,
    ),
    Bug(storage.test_etcd_14685_a_background_commit_tears_no_entry_apart, safeguards.two_batches),
    Bug(
        storage.test_tikv_994_power_goes_while_the_log_is_synced,
        safeguards.acknowledge_before_sync,
        (0.05,),
    ),
)


@pytest.mark.parametrize("bug", TABLE, ids=str)
def test_a_scenario_notices_its_bug(bug: Bug, monkeypatch: Patch) -> None:
    bug.breaks(monkeypatch)

    for arguments in bug.tries or (bug.arguments,):
        try:
            bug.scenario(*arguments)
        except NOTICED:
            return
    pytest.fail("nothing was noticed")


def test_every_scenario_is_in_the_table() -> None:
    modules = (elections, fuzzy, reads, replication, snapshots, storage, transfer)
    tests = [
        test
        for module in modules
        for name, test in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and test.__module__ == module.__name__
    ]

    assert len(tests) > 25
    missing = {test.__name__ for test in tests} - {bug.scenario.__name__ for bug in TABLE}
    assert not missing


def test_the_page_names_every_scenario_and_nothing_else() -> None:
    """docs/field-bugs.md; a `::name` without a file is of the one before it."""
    page = (ROOT / "docs/field-bugs.md").read_text()
    named: dict[str, list[str]] = {}
    for row in page.splitlines():
        file = ""
        for path, name in re.findall(r"`(tests/\S+?\.py)?(?:::(\w+))?`", row):
            file = path or file
            if file:
                named.setdefault(file, []).extend([name] if name else [])

    for file, names in named.items():
        source = (ROOT / file).read_text()
        for name in names:
            assert f"def {name}(" in source, f"{file}::{name}"
    for path in sorted(ROOT.glob("tests/*/test_field_bugs_*.py")):
        if path.stem.endswith(("can_fail", "membership")):
            continue
        tests = set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
        missing = tests - {*named[str(path.relative_to(ROOT))], "test_a_scenario_notices_its_bug"}
        assert not missing, f"not in docs/field-bugs.md: {missing}"
