"""Snapshots, as far as the core decides them; the bytes travel beside it, driver to driver.

Source: Raft (extended), section 7. The rules, each paid for by somebody: a snapshot older than what
is committed changes nothing (or state would go back in time); one whose last entry the log already
holds is not needed; over any other log it drops *everything*, tail and memberships, because the
tail contradicts it (hashicorp/raft#697, openraft#1808).
"""

from raft.messages import AppendReply, InstallSnapshot
from raft.progress import Progress, Sending
from raft.state import State
from raft.types import Index


def take_snapshot(state: State, install: InstallSnapshot) -> bool:
    """Judge a snapshot that lies staged here; whether it is to be installed.

    The acknowledgement leaves through `messages`, so after the installation is durable.
    """
    snapshot = install.snapshot
    installs = False
    if snapshot.last.index <= state.commit:
        match = state.commit
    elif state.log.holds(snapshot.last):
        state.commit_to(snapshot.last.index)  # a snapshot holds only what is committed
        match = snapshot.last.index
    else:
        state.log.reset(snapshot)
        state.restored_to(snapshot.last.index)
        state.installing = snapshot
        match = snapshot.last.index
        installs = True
    state.messages.append(AppendReply(state.id, install.source, state.term, match=match))
    return installs


def stream_ended(progress: Progress, *, complete: bool, heartbeat_round: int) -> None:
    """The driver's stream to a follower ended. An incomplete one is tried again after the next
    sign of life, not at once: a follower that cannot take it must not be flooded."""
    if progress.sending is not Sending.SNAPSHOT:
        return
    if complete:
        progress.staged_round = heartbeat_round
    else:
        progress.become_probe(Index(progress.match + 1))
        progress.pause(heartbeat_round)
