"""What one port has in flight: what is given back is free again."""

import asyncio
from typing import Any

import pytest

from labrpc.errors import Refused
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.answering import _ANSWERS_QUEUED_MAX, Exchange
from labrpc.grpc.work import Share, Work
from labrpc.limits import PACK_ITEMS_MAX, PortLimits


def test_what_is_over_takes_no_room_any_more() -> None:
    work = Work(PortLimits(connection_bytes_max=100, connection_operations_max=2))
    share = Share()

    for _ in range(10):
        work.admit(share, 60)
        with pytest.raises(Refused, match="100 bytes of one connection"):
            work.admit(share, 60)
        work.admit(share, 40)
        with pytest.raises(Refused, match="2 operations of one connection"):
            work.admit(share, 0)
        work.release(share, 60)
        work.release(share, 40)

    assert (work.operations, share.operations, share.bytes, work.refused) == (0, 0, 0, 20)


def test_who_does_not_read_its_answers_is_not_read_any_more() -> None:
    """Also where each of them is a refusal, which takes no operation's place."""

    class Deaf:
        asked = 0

        async def read(self) -> Any:
            await asyncio.sleep(0)
            if self.asked == 99:
                return None
            self.asked += 1
            requests = [wire.Request(id=n, method="none") for n in range(PACK_ITEMS_MAX)]
            return wire.Requests(requests=requests).SerializeToString()

        async def write(self, message: bytes) -> None:
            await asyncio.Event().wait()

    async def main() -> int:
        deaf = Deaf()
        exchange = Exchange(deaf, {}, Work(PortLimits()))  # type: ignore[arg-type]
        reading = asyncio.ensure_future(exchange.read())
        for _ in range(300):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return deaf.asked

    assert asyncio.run(main()) <= _ANSWERS_QUEUED_MAX // PACK_ITEMS_MAX + 2
