"""Reads from any replica, and lists, for all groups that a node has replicas of."""

from collections.abc import Awaitable, Callable

from labrpc.errors import Refused
from labrpc.transport import Transport
from shardctrler.types import ConfigNumber, View
from shardkv.last_view import (
    PAGE,
    VIEW,
    Page,
    decode_page_request,
    encode_last,
    encode_page,
)
from shardkv.listing import LIST, ListReply, answer_list, decode_list, encode_list_reply
from shardkv.protocol import BadFrame, Status
from shardkv.reading import READ, ReadReply, ReplicaReads, decode_read, encode_read_reply
from shardkv.service import INVALID, StoreService


class ReadService:
    """Hands each question to the replica of the group that it names.

    Args:
        service: Whose groups they are; reads count as its operations in flight.
        view: The newest configuration that this node knows.
        page: A configuration of the history, if this node has it.
    """

    def __init__(
        self,
        transport: Transport,
        service: StoreService,
        view: Callable[[], View | None],
        page: Callable[[ConfigNumber], Page],
    ) -> None:
        self._service = service
        self._view = view
        self._page = page
        transport.serve(VIEW, self.view)
        transport.serve(PAGE, self.page)
        transport.serve(READ, self.read)
        transport.serve(LIST, self.list_)

    async def view(self, _: bytes) -> bytes:
        """A clerk's question for the configuration that this node knows, confirmed by nobody."""
        return encode_last(self._view())

    async def page(self, body: bytes) -> bytes:
        """A question for a page of the history, confirmed by nobody either."""
        try:
            number = decode_page_request(body)
        except BadFrame as error:
            raise Refused(INVALID, str(error)) from None
        return encode_page(self._page(number))

    async def read(self, body: bytes) -> bytes:
        """A clerk's questions to this replica, leader or not."""
        try:
            frame = decode_read(body)
        except BadFrame as error:
            raise Refused(INVALID, str(error)) from None
        server = self._service.groups.get(frame.gid)
        if server is None:
            return encode_read_reply(ReadReply(Status.NO_SUCH_GROUP))

        async def answer() -> bytes:
            return encode_read_reply(await ReplicaReads(server).answer(frame))

        return await self._counted(
            len(frame.questions), answer, encode_read_reply(ReadReply(Status.BUSY))
        )

    async def list_(self, body: bytes) -> bytes:
        """A clerk's question for pages of keys."""
        try:
            frame = decode_list(body)
        except BadFrame as error:
            raise Refused(INVALID, str(error)) from None
        server = self._service.groups.get(frame.gid)
        if server is None:
            return encode_list_reply(ListReply(Status.NO_SUCH_GROUP))

        async def answer() -> bytes:
            try:
                return encode_list_reply(await answer_list(server, frame))
            except BadFrame as error:
                raise Refused(INVALID, str(error)) from None

        return await self._counted(
            len(frame.starts), answer, encode_list_reply(ListReply(Status.BUSY))
        )

    async def _counted(
        self, operations: int, answer: Callable[[], Awaitable[bytes]], busy: bytes
    ) -> bytes:
        service = self._service
        if not service.has_room(operations):
            service.meter.reject("node_full", operations)
            return busy
        service.operations += operations
        begun = service.meter.clock()
        try:
            reply = await answer()
            service.meter.answered(operations, 0, begun)
            return reply
        finally:
            service.operations -= operations
