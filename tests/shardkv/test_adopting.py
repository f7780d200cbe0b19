"""What the controller lacks after it went on from a survivor, gathered from nodes."""

from typing import Any, cast

import pytest

from labrpc.errors import Unreachable
from labrpc.sim.loop import run
from labrpc.transport import Address
from shardctrler.types import ConfigNumber, Directory, ShardConfig, View
from shardkv.adopting import HistoryParted, Lacking, Missed, explained, lacking, missed
from shardkv.last_view import (
    PAGE,
    Page,
    decode_page,
    decode_page_request,
    encode_last,
    encode_page,
    encode_page_request,
)
from shardkv.protocol import BadFrame, pack
from tests.support.stores import A, B, History

HISTORY = History()
ONE = HISTORY.then(A, A, B, B)
TWO = HISTORY.then(A, B, B, B)
THREE = HISTORY.then(B, B, B, B)
OTHER_TWO = History()
OTHER_TWO.then(A, A, B, B)
OTHER_TWO.then(B, A, B, B)


class Node:
    """What one node knows: pages, and the directory of the newest view that it heard."""

    def __init__(self, *configs: ShardConfig, version: int | None = None) -> None:
        self._configs = {config.number: config for config in configs}
        heard = None if version is None else View(configs[-1], Directory(version))
        self._view = encode_last(heard)

    def answer(self, method: str, body: bytes) -> bytes:
        if method != PAGE:
            return self._view
        page = self._configs.get(decode_page_request(body))
        return encode_page(Page(max(self._configs, default=0), page))


class Network:
    def __init__(self, **nodes: Node | None) -> None:
        self.nodes = nodes

    async def call(self, to: str, method: str, body: bytes, *, timeout: float) -> bytes:
        node = self.nodes[to]
        if node is None:
            raise Unreachable("nobody is there")
        return node.answer(method, body)


def ask(survivor: View, **nodes: Node | None) -> Lacking:
    network = Network(**nodes)
    return run(lacking(cast(Any, network), [Address(name) for name in nodes], survivor))


def test_pages_come_from_whoever_has_them() -> None:
    """One node has heard of the newest, another has a group at the one between, a third nothing."""
    found = ask(
        View(ONE, Directory(4)), n1=Node(THREE, version=9), n2=Node(ONE, TWO), n3=Node(), n4=None
    )

    assert found.configs == (TWO, THREE)
    assert found.directory == Directory(9)


def test_nothing_is_lacking_where_nobody_knows_more() -> None:
    assert not ask(View(TWO, Directory(4)), n1=Node(TWO, version=4), n2=Node(ONE), n3=None)


def test_a_plan_says_what_would_be_taken_over_and_what_nobody_has() -> None:
    def plan(stands_at: int, **nodes: Node | None) -> tuple[Missed, list[str]]:
        network = Network(**nodes)
        addresses = [Address(name) for name in nodes]
        found = run(missed(cast(Any, network), addresses, stands_at))
        return found, explained(found)

    found, lines = plan(1, n1=Node(ONE, TWO, THREE), n2=Node(), n3=None)
    assert found == Missed(1, 3, ())
    assert lines == [
        "configurations 2 to 3: nodes know of them and it does not; they are taken over"
    ]
    found, lines = plan(1, n1=Node(ONE), n2=Node(THREE))
    assert found == Missed(1, 3, (2,))
    assert "MISSING: configuration 2" in lines[1] and "start the nodes" in lines[1]
    found, lines = plan(3, n1=Node(THREE), n2=None)
    assert found == Missed(3, 3, ())
    assert lines == ["configurations: it has all that a node which answers knows of, up to 3"]


def test_a_later_directory_alone_is_lacking_too() -> None:
    found = ask(View(TWO, Directory(4)), n1=Node(TWO, version=5))

    assert found == Lacking((), Directory(5)) and found


def test_a_page_that_nobody_has_stops_it_and_says_what_to_do() -> None:
    with pytest.raises(HistoryParted, match=r"configuration 2 was decided.*start the nodes"):
        ask(View(ONE, Directory(4)), n1=Node(ONE), n2=Node(THREE))


def test_a_number_that_means_two_configurations_is_said_aloud() -> None:
    with pytest.raises(HistoryParted, match="configuration 2 is another one"):
        ask(View(OTHER_TWO.configs[2], Directory(4)), n1=Node(TWO))


BAD = [
    pytest.param(decode_page_request, (1, -1), id="a negative number"),
    pytest.param(decode_page_request, (1, "2"), id="a number as text"),
    pytest.param(decode_page, (1, 2), id="no configuration"),
    pytest.param(decode_page, (1, 2, "text"), id="a configuration as text"),
    pytest.param(decode_page, (1, 2, b"\x00"), id="a damaged configuration"),
]


@pytest.mark.parametrize(("decode", "fields"), BAD)
def test_what_is_no_page_is_refused(decode: Any, fields: tuple[object, ...]) -> None:
    with pytest.raises(BadFrame):
        decode(pack(fields))


def test_pages_travel_whole() -> None:
    for page in (Page(7, None), Page(0, None), Page(7, THREE)):
        assert decode_page(encode_page(page)) == page
    assert decode_page_request(encode_page_request(7)) == ConfigNumber(7)
