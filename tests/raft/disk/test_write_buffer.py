"""What gathers in memory before the database is told: one test for each claim that no reader of a
whole database shows (`test_leveldb.py` has those)."""

from raft.disk.write_buffer import MISSING, WriteBuffer


def test_bytes_are_those_of_what_gathers() -> None:
    """Each key once, with its last value; what is being handed over counts no more."""
    buffer = WriteBuffer()
    buffer.put([(b"a", b"12345"), (b"b", b"1"), (b"a", b"12"), (b"b", None)])
    assert (buffer.bytes, len(buffer)) == (len(b"a12b"), 2)

    buffer.freeze()
    assert (buffer.bytes, len(buffer)) == (0, 0)

    buffer.put([(b"b", b"123"), (b"c", None), (b"c", b"1")])
    assert (buffer.bytes, len(buffer)) == (len(b"b123c1"), 2)


def test_only_the_batch_that_the_database_holds_is_forgotten() -> None:
    buffer = WriteBuffer()
    buffer.put([(b"a", b"old"), (b"b", b"old")])
    first = buffer.freeze()
    buffer.put([(b"a", b"new")])
    second = buffer.freeze()
    assert first is not None and second is not None and buffer.freeze() is None

    buffer.forget(first)

    assert buffer.get(b"a") == b"new" and buffer.get(b"b") is MISSING
    assert buffer.written(b"", b"z") == [(b"a", b"new")]
    buffer.forget(second)
    assert buffer.get(b"a") is MISSING and buffer.batches == ()
