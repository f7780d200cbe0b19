"""The promise's own format: what counts as whole, which of two slots speaks, when it is written."""

import asyncio
from zlib import crc32

import pytest

from labrpc.sim.disk import SimDrive
from labrpc.sim.loop import run
from raft.disk.promise import (
    Promise,
    PromiseKeeper,
    Vow,
    decode_promise,
    encode_promise,
    encode_vow,
    find_promise,
)
from raft.errors import DataUnusable
from raft.ports import Slot
from raft.types import ReplicaId
from tests.support.storage import G1, G2, IDENTITY, Storage, vote

VOWS = (Vow(G1, ReplicaId(1), vote(3, 2)), Vow(G2, ReplicaId(4), vote(2**63 - 1, 0)))


def packed(sequence: int = 5, number: int = 40) -> bytes:
    return encode_promise(sequence, IDENTITY, number, [encode_vow(*vow) for vow in VOWS])


class Fixed:
    """A slot that holds these bytes."""

    def __init__(self, held: bytes) -> None:
        self._held = held

    def read(self) -> bytes:
        return self._held

    def write(self, record: bytes) -> "asyncio.Future[None]":
        raise AssertionError("nothing is written here")


def test_a_promise_is_read_as_it_was_written() -> None:
    assert decode_promise(packed()) == Promise(5, IDENTITY, 40, VOWS)


def test_what_a_longer_record_left_behind_is_no_part_of_it() -> None:
    assert decode_promise(packed() + b"the end of a longer one") == Promise(5, IDENTITY, 40, VOWS)


def test_every_bit_and_every_length_is_covered() -> None:
    raw = packed()
    for length in range(len(raw)):
        assert decode_promise(raw[:length]) is None
        assert decode_promise(raw[:length] + b"\xff" * (len(raw) - length)) is None
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_promise(bytes(flipped)) is None


def test_a_torn_write_is_damage_wherever_it_tears() -> None:
    old, new = packed(4, 30), packed(5, 40)
    read = {decode_promise(new[:cut] + old[cut:]) for cut in range(len(new) + 1)}
    assert read == {None, decode_promise(old), decode_promise(new)}


def test_a_newer_format_is_not_damage() -> None:
    body = b"\x02whatever it holds"
    raw = b"vow\n" + len(body).to_bytes(4, "big") + crc32(body).to_bytes(4, "big") + body
    with pytest.raises(DataUnusable, match=r"format 2, .* Start the newer version"):
        decode_promise(raw)


@pytest.mark.parametrize(
    ("first", "second", "found", "slot"),
    [
        pytest.param(packed(5), packed(6), 6, 1, id="the second is newer"),
        pytest.param(packed(7), packed(6), 7, 0, id="the first is newer"),
        pytest.param(packed(7), b"torn", 7, 0, id="the second is torn"),
        pytest.param(b"", packed(6), 6, 1, id="the first is gone"),
    ],
)
def test_the_newer_whole_slot_speaks(first: bytes, second: bytes, found: int, slot: int) -> None:
    chosen = find_promise([Fixed(first), Fixed(second)])
    assert chosen.promise is not None
    assert (chosen.promise.sequence, chosen.slot) == (found, slot)


def test_two_damaged_slots_say_nothing() -> None:
    assert find_promise([Fixed(b"torn"), Fixed(b"")]).promise is None


def test_a_vow_made_while_a_promise_is_written_waits_for_the_next_one() -> None:
    """What is being written does not name it."""

    async def main() -> None:
        drive: SimDrive = Storage().drive
        slots: tuple[Slot, Slot] = (drive.slot("0"), drive.slot("1"))
        keeper = PromiseKeeper(slots, IDENTITY, find_promise(slots), 1)
        loop = asyncio.get_running_loop()
        done = [loop.create_future() for _ in range(3)]

        keeper.when(keeper.vow(G1, ReplicaId(1), vote(1)), done[0])
        await asyncio.sleep(drive.sync_seconds / 2)
        keeper.when(keeper.vow(G1, ReplicaId(1), vote(2)), done[1])
        keeper.when(keeper.vow(G2, ReplicaId(1), vote(1)), done[2])
        await done[0]
        assert not done[1].done()
        assert not done[2].done()
        await asyncio.gather(*done)

        assert drive.syncs == 2
        promise = find_promise(slots).promise
        assert promise is not None
        assert promise.vows == (Vow(G1, ReplicaId(1), vote(2)), Vow(G2, ReplicaId(1), vote(1)))

    run(main())
