"""Which disks may be damaged: so few that whoever is left still holds all that was promised.

Of any record at most `(n - 1) // 2` copies are ever damaged, where n is the number of voters of any
membership that a replica of its group may hold (TigerBeetle's fault atlas). What is damaged counts
until its node has been replaced; so a cluster that does not come to rest is at fault itself.
"""

from labs.cluster import SimCluster, SimNode
from raft.types import GroupId, Member, Membership, NodeId


class Atlas:
    """The damage done so far."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster

    def may_lose(self, victim: SimNode) -> bool:
        """Whether every group can do without what this node stores."""
        lost = {node.name for node in self._cluster.nodes.values() if node.condemned}
        lost.add(victim.name)
        return all(
            sum(self._is_lost(gid, member, lost) for member in voters) <= (len(voters) - 1) // 2
            for gid in self._cluster.placement
            for membership in self._memberships(gid)
            for voters in (membership.voters, membership.outgoing)
            if any(member.node == victim.name for member in voters)
        )

    def _is_lost(self, gid: GroupId, member: Member, nodes: set[NodeId]) -> bool:
        """Whether a voter's node is not trusted, or has lost what that very voter stored."""
        return member.node in nodes or member.id in self._cluster.watchers[gid].lost

    def _memberships(self, gid: GroupId) -> list[Membership]:
        return self._cluster.watchers[gid].memberships()
