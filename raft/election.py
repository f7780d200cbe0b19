"""Campaigns, votes, and when a vote is refused.

Sources: Raft (extended), sections 5.2 and 5.4.1; dissertation, sections 4.2.3 (disruptive servers),
6.4.1 and 9.6 (PreVote). A pre-vote changes nothing at the voter and nothing durable at the
candidate: it only learns whether a campaign could be won.
"""

from raft.messages import RequestVote, VoteReply
from raft.quorum import Verdict
from raft.state import State
from raft.types import NOBODY, ReplicaId, Role, Term


class Candidacy:
    """One campaign: lives and dies with the role (pre-)candidate.

    A voter's first answer counts and a repeated one changes nothing (octo-im#43).
    """

    def __init__(self, *, pre: bool) -> None:
        self.pre = pre
        self.votes: dict[ReplicaId, bool] = {}

    def counts(self, state: State, reply: VoteReply) -> Verdict:
        """Record an answer and judge. Only voters of the membership in force count."""
        self.votes.setdefault(reply.source, reply.granted)
        return state.electorate.tally(self.votes)


def ask_for_votes(state: State, *, pre: bool, transfer: bool) -> None:
    """Ask every other voter, of both electorates during a joint change, in order of ids.

    The candidate's vote for itself goes to itself through `messages`: like everybody's vote it
    counts only once it is durable. A pre-vote promises nothing, so its own needs no disk.
    """
    term = Term(state.term + 1) if pre else state.term
    for voter in state.electorate.everyone:
        if voter != state.id:
            request = RequestVote(state.id, voter, term, state.log.last, pre, transfer)
            state.messages.append(request)
        elif not pre:
            state.messages.append(VoteReply(state.id, state.id, term, granted=True))


def hears_leader(state: State, now: float) -> bool:
    """Whether this replica knows of a leader that is alive (dissertation, section 4.2.3).

    A leader itself counts: CheckQuorum makes it step down when it is not one any more. A
    pre-candidate has given up on its leader, so it never refuses (openraft#1796).
    """
    if not state.config.checks_quorum or state.leader == NOBODY:
        return False
    if state.role is Role.LEADER:
        return True
    return now - state.heard_at < state.config.election_seconds_min


def would_vote(state: State, request: RequestVote) -> bool:
    """Whether the rules allow this vote in `request.term`, which is not below ours.

    A vote is given whether or not this replica, or the candidate, is a voter in its own view:
    that view may be old (etcd#12359).
    """
    free = request.term > state.term or state.vote in (NOBODY, request.source)
    if request.term == state.term and not request.pre and state.vote == NOBODY:
        # Whoever knows this term's leader has no vote left to give in it.
        free = state.leader in (NOBODY, request.source)
    return free and request.last.is_up_to_date_with(state.log.last)


def answer(state: State, request: RequestVote, now: float) -> None:
    """Answer a request whose term is settled: equal to ours, or above it for a pre-vote."""
    granted = would_vote(state, request)
    if request.pre:
        # A grant echoes the term asked about; a refusal tells ours, which the asker adopts if
        # it is higher, so that a term cannot stay unknown for ever (openraft#1796).
        term = request.term if granted else state.term
        state.messages.append(VoteReply(state.id, request.source, term, granted, pre=True))
        return
    if granted:
        state.vote = request.source
        # Only a vote that was given restarts the timer: a candidate that nobody may vote for
        # must not keep the others from campaigning (safeguard A14).
        state.restart_election_timer(now)
    state.messages.append(VoteReply(state.id, request.source, state.term, granted))


def refuse(state: State, request: RequestVote) -> None:
    """Answer a request of a lower term, or a pre-vote while a leader is heard, with our term."""
    state.messages.append(VoteReply(state.id, request.source, state.term, False, request.pre))
