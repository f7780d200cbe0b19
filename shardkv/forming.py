"""How a cluster forms itself of nodes that were only told of each other: the next step. Pure.

Each node has a name, an address, and the same list of *seeds*: the addresses of the nodes that the
cluster is founded with, in one order. `shardkv auto` reads what is there, asks here what is next,
does it, and looks again; so it may be cut off anywhere, and whoever is started again goes on.

1. A node without a directory asks the seeds which cluster they are of. If one says so, it makes its
   directory for that cluster, empty: a stranger, whatever its name held before.
2. If all say that they are blank, too, the *first* seed draws the cluster's id. Nobody else does,
   and it does only when every other seed has said so: who is silent may hold a cluster.
   Before that it finds itself at its own address: of two processes that believe to be the first
   seed, the one that the others cannot reach founds nothing.
3. The first seed, running, gives birth to the controller's group and the founding groups, lets them
   grow over the seeds, and joins the groups in configuration 1 (`growth`, `control.join_founders`).
   From configuration 1 on the cluster is founded, for ever, and none of this is done again:
   a cluster whose controller is lost is mended by `shardkv ctl recover`, never born anew.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from shardkv.admin import NodeStatus
from shardkv.growth import CONTROLLER_GID, Wait, Wish, spread


class Said(NamedTuple):
    """What a node said at its address for clients."""

    cluster: bytes  # empty: it is blank, and waits like us
    boot: int = 0  # of a blank one: which process it is


Answers: TypeAlias = Mapping[str, Said | None]
"""By address; None: silent."""


class Adopt(NamedTuple):
    """Make the directory for this cluster, which a node at `address` is of."""

    cluster: bytes
    address: str


class Found(NamedTuple):
    """Draw the id of a new cluster, and make the directory."""


class Conflict(NamedTuple):
    """The settings cannot be right; the text says why. Nothing may be done."""

    reason: str


BirthStep: TypeAlias = Adopt | Found | Wait | Conflict


def next_for_blank(own: str, boot: int, seeds: Sequence[str], answers: Answers) -> BirthStep:
    """What a node without a directory does next.

    Args:
        own: Where it takes clients' calls.
        boot: Which process it is.
        seeds: At least one.
        answers: Of every seed, itself too if it is one.
    """
    found = {address: said for address, said in answers.items() if said and said.cluster}
    if found:
        address, first = next(iter(found.items()))
        for other, said in found.items():
            if said.cluster != first.cluster:
                return Conflict(
                    f"{address} belongs to cluster {first.cluster.hex()}, {other} to cluster "
                    f"{said.cluster.hex()}: seeds must be nodes of one cluster"
                )
        return Adopt(first.cluster, address)
    if own != seeds[0]:
        return Wait(f"no cluster yet: {seeds[0]}, the first seed, founds it")
    silent = [address for address in seeds if answers.get(address) is None]
    if silent:
        return Wait(
            f"no cluster yet: {', '.join(silent)} must answer before it is founded: who is silent "
            "may hold one"
        )
    myself = answers[own]
    if myself is not None and myself.boot != boot:
        return Wait(f"another process answers at {own}, which is this node's own address")
    return Found()


def next_for_founder(
    seeds: Sequence[str],
    statuses: Mapping[str, NodeStatus | None],
    *,
    groups: int,
    replicas: int,
) -> tuple[Wish, ...] | Wait | Conflict:
    """What the first seed lets be born and grow, while there is no configuration 1.

    Args:
        statuses: By address, of every seed.
        groups: How many the cluster is founded with.
        replicas: Voters of each, the controller's too.

    Returns:
        The controller's group, then the founding groups; each with its nodes, the founder first.
    """
    silent = [address for address in seeds if statuses.get(address) is None]
    if silent:
        return Wait(f"{', '.join(silent)} must answer before the cluster is founded")
    found = [status for address in seeds if (status := statuses[address]) is not None]
    starting = [status.node for status in found if status.state != "running"]
    if starting:
        return Wait(f"{', '.join(starting)} must run before the cluster is founded")
    names = [status.node for status in found]
    if len(dict.fromkeys(names)) < len(names):
        return Conflict(f"two seeds have one name: {', '.join(names)}")
    held = {replica.gid for status in found for replica in status.replicas}
    if held and CONTROLLER_GID not in held:
        return Conflict(
            "there are replicas of groups and none of the controller: it was lost, and is not born "
            "anew; see `shardkv ctl recover`"
        )
    return spread(names, groups, min(replicas, len(names)))
