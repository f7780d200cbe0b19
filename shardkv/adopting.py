"""The controller goes on from a survivor: what it lacks is taken over from those who know of it.

Every node has heard of configurations, and every group holds the last one that it applied. What one
of them knows was committed by the majority that is lost. Were its number given again, the groups
that have it would never take the other one, and those that have not would never take this: so all
that anybody knows of is written into the history again, before anything new is decided
(`shardctrler.machine.ControllerMachine`, at `_adopt`).

Nodes that do not answer may know of more. Nothing can be done about what nobody tells; the operator
was told to bring every machine up first.
"""

from collections.abc import Iterable
from typing import NamedTuple

from labrpc.transport import Address, Transport
from shardctrler.types import ConfigNumber, Directory, ShardConfig, View
from shardkv.errors import ShardKVError
from shardkv.last_view import pages_of, views_of


class HistoryParted(ShardKVError):
    """What nodes know is not what the controller can go on from."""


class Lacking(NamedTuple):
    """What the controller's survivor has not heard of."""

    configs: tuple[ShardConfig, ...]  # the next one first
    directory: Directory | None  # None: nobody knows a later one

    def __bool__(self) -> bool:
        return bool(self.configs) or self.directory is not None


class Missed(NamedTuple):
    """What a survivor that the controller may go on from has missed, before anybody decides."""

    stands_at: int  # its newest configuration, were all its entries committed
    newest: int  # that any node knows of
    nowhere: tuple[int, ...]
    """Between the two, and no node that answers has them."""


async def missed(transport: Transport, nodes: Iterable[Address], stands_at: int) -> Missed:
    """Ask the nodes; see `lacking`, which asks once more when it is decided."""
    asked = tuple(dict.fromkeys(nodes))
    pages = await pages_of(transport, asked, ConfigNumber(stands_at))
    newest = max((page.newest for page in pages), default=0)
    nowhere = []
    for number in range(stands_at + 1, newest + 1):
        found = await pages_of(transport, asked, ConfigNumber(number))
        if all(page.config is None for page in found):
            nowhere.append(number)
    return Missed(stands_at, newest, tuple(nowhere))


def explained(what: Missed) -> list[str]:
    """In words, a line each."""
    stands_at, newest, nowhere = what
    if newest <= stands_at:
        return [f"configurations: it has all that a node which answers knows of, up to {stands_at}"]
    lines = [
        f"configurations {stands_at + 1} to {newest}: nodes know of them and it does not; they are "
        "taken over"
    ]
    lines += [
        f"MISSING: configuration {number}, which no node that answers has: start the nodes that "
        "are down first"
        for number in nowhere
    ]
    return lines


async def lacking(transport: Transport, nodes: Iterable[Address], survivor: View) -> Lacking:
    """Ask the nodes what the controller lacks.

    Args:
        nodes: Where every node takes clients' calls; those that are silent are passed over.
        survivor: The newest that the controller knows.

    Raises:
        HistoryParted: a page between is known to nobody who answers, or the newest is another one
            somewhere.
    """
    asked = tuple(dict.fromkeys(nodes))
    newest = survivor.config
    pages = await pages_of(transport, asked, newest.number)
    if any(page.config is not None and page.config != newest for page in pages):
        raise HistoryParted(
            f"configuration {newest.number} is another one where groups have taken it than it is "
            "at the controller: a number was given twice"
        )
    last = max((page.newest for page in pages), default=0)
    configs = []
    for number in range(newest.number + 1, last + 1):
        found = [page.config for page in await pages_of(transport, asked, ConfigNumber(number))]
        config = next((config for config in found if config is not None), None)
        if config is None:
            raise HistoryParted(
                f"configuration {number} was decided, and nobody who answers has it: start the "
                "nodes that are down, and run this again"
            )
        configs.append(config)
    directories = [view.directory for view in await views_of(transport, asked)]
    later = max(directories, key=lambda directory: directory.version, default=None)
    if later is not None and later.version <= survivor.directory.version:
        later = None
    return Lacking(tuple(configs), later)
