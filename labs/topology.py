"""How large a simulated cluster is, and who holds a replica of what.

T0  one group of 1, 3 or 5 nodes, and its controller on the same ones: the protocol in depth.
T1  a controller of 3 and 3 groups of 3 on 6 nodes, 12 shards.
T2  a controller of 3 and 4 groups of 1 to 5 on 8 nodes, 1 to 32 shards.
T3  a controller of 3 and one group of 7 voters and 2 learners on 9 nodes.
T4  one node for everything.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Final

from raft.types import GroupId

WEIGHTS: Final = {"T0": 20, "T1": 50, "T2": 15, "T3": 10, "T4": 5}
"""Of a hundred seeds so many have each."""
NODES_MAX: Final = 64
GROUPS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Who holds what."""

    name: str
    nodes: int
    nshards: int
    placement: dict[GroupId, list[str]] = field(hash=False)
    """By group, 0 is the controller: the nodes of its voters."""
    learners: dict[GroupId, list[str]] = field(default_factory=dict, hash=False)


def drawn(rng: Random) -> str:
    """The name of a seed's topology."""
    return rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]


def topology(name: str, rng: Random) -> Topology:
    """The topology of that name; what it leaves open is drawn."""
    match name:
        case "T0":
            nodes = rng.choice([1, 3, 5])
            return _of(name, nodes, rng.choice([1, 4]), [nodes, nodes])
        case "T1":
            return _of(name, 6, 12, [3, 3, 3, 3])
        case "T2":
            sizes = [rng.randint(1, 5) for _ in range(4)]
            return _of(name, 8, rng.randint(1, 32), [3, *sizes])
        case "T3":
            made = _of(name, 9, 8, [3, 7], spread=False)
            made.learners[GroupId(1)] = ["n8", "n9"]
            return made
        case "T4":
            return _of(name, 1, 4, [1, 1, 1])
    raise ValueError(f"no such topology: {name}; there are {', '.join(WEIGHTS)}")


def custom(nodes: int, groups: int, nshards: int, replicas: int = 3) -> Topology:
    """So many nodes, and so many groups beside the controller."""
    return _of("custom", nodes, nshards, [min(replicas, nodes)] * (groups + 1))


def _of(name: str, nodes: int, nshards: int, sizes: list[int], *, spread: bool = True) -> Topology:
    names = [f"n{number + 1}" for number in range(nodes)]
    placement: dict[GroupId, list[str]] = {}
    at = 0
    for gid, size in enumerate(sizes):
        placement[GroupId(gid)] = [names[(at + number) % nodes] for number in range(size)]
        at += size if spread else 0
    return Topology(name=name, nodes=nodes, nshards=nshards, placement=placement)
