"""The codec's tests, on what our commands travel in: msgpack, which has no types of its own.

The labs' codec drops in silence what a type hides, and leaves what a target held before; so it has
to count such mistakes. Here the first is refused, and there is no target to decode into.
"""

import pytest

from labs.raft import decode_command, encode_command


def test_gob() -> None:
    """Nested values of any kind survive, each apart from what it was made of."""
    pair = {"int": 1, "text": "6.5840"}
    value = [0, 1, pair, {"pairs": [pair, dict(pair)]}, {"99": [1, 2, "x", "y"]}, ["kind", 999]]

    data = encode_command(value)
    pair["int"] = 2
    first, second = decode_command(data), decode_command(data)

    assert first[:3] == [0, 1, {"int": 1, "text": "6.5840"}]
    assert [len(first[3]["pairs"]), first[3]["pairs"][1]["int"]] == [2, 1]
    assert first[4:] == [{"99": [1, 2, "x", "y"]}, ["kind", 999]]
    assert first == second


def test_capital() -> None:
    """What cannot travel is refused each time, not dropped and reported once."""

    class Hidden:
        visible, hidden = 1, 2

    for _ in range(2):
        with pytest.raises(TypeError):
            encode_command([{"key": Hidden()}])


def test_default() -> None:
    """A zero travels like any value, and a value decoded earlier leaves no trace in a later one."""
    used = decode_command(encode_command({"x": 99, "y": 1}))
    later = decode_command(encode_command({"x": 0}))

    assert later == {"x": 0}
    assert used == {"x": 99, "y": 1}
