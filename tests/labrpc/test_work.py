"""What one port has in flight: what is given back is free again."""

import pytest

from labrpc.errors import Refused
from labrpc.grpc.work import Share, Work
from labrpc.limits import PortLimits


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
