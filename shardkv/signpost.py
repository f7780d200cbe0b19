"""Where a node has no replica of the controller: it names one that may, instead of refusing.

So a client finds the controller from any node's address, wherever its replicas have moved. The hint
is whoever answered this node's own questions last, else the nodes that it knows of, in turn.
"""

from typing import Final

from labrpc.transport import Address, Transport
from shardctrler.client import ControllerClient
from shardctrler.protocol import CHANGE, QUERY, WATCH, Reply, Status, encode_reply

METHODS: Final = (QUERY, CHANGE, WATCH)


class Signpost:
    """Answers the controller's calls by naming somebody else."""

    def __init__(self, client: ControllerClient, own: Address) -> None:
        self._client = client
        self._own = own
        self._turn = 0

    def serve(self, transport: Transport) -> None:
        """Answer on a transport, until something else serves these methods there."""
        for method in METHODS:
            transport.serve(method, self._answer)

    async def _answer(self, body: bytes) -> bytes:
        """Nothing was done, whatever was asked."""
        hint = self._client.leader
        if hint is None or hint == self._own:
            others = [endpoint for endpoint in self._client.endpoints if endpoint != self._own]
            self._turn += 1
            hint = others[self._turn % len(others)] if others else self._own
        return encode_reply(Reply(Status.NOT_LEADER, hint.encode()))
