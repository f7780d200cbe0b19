"""Where a node has no replica of the controller: it names one that may, instead of refusing.

So a client finds the controller from any node's address. The hint is whoever answered this node's
own questions last, else the nodes that it was told of, in turn.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Final

from labrpc.transport import Address, Transport
from shardctrler.client import ControllerClient
from shardctrler.protocol import CHANGE, QUERY, WATCH, Reply, Status, encode_reply

METHODS: Final = (QUERY, CHANGE, WATCH)


class Signpost:
    """Answers the controller's calls by naming somebody else."""

    def __init__(
        self, client: ControllerClient, endpoints: Sequence[Address], own: Address
    ) -> None:
        self._client = client
        self._others = cycle([endpoint for endpoint in endpoints if endpoint != own] or [own])
        self._own = own

    def serve(self, transport: Transport) -> None:
        """Answer on a transport, until something else serves these methods there."""
        for method in METHODS:
            transport.serve(method, self._answer)

    async def _answer(self, body: bytes) -> bytes:
        """Nothing was done, whatever was asked."""
        hint = self._client.leader
        if hint is None or hint == self._own:
            hint = next(self._others)
        return encode_reply(Reply(Status.NOT_LEADER, hint.encode()))
