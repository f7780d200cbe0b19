"""How a cluster is: standings, availability, totals. And what `shardkv top` draws of it."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from shardkv.cli.topview import render
from shardkv.cli.vitals import (
    Vital,
    availability_percent,
    health_words,
    last_seen,
    request_words,
    seen_words,
    totals,
    totals_json,
    vitals,
    vitals_json,
)
from shardkv.healing_beats import HealthReport, NodeHealth
from shardkv.load import NodeLoad

NOW = datetime(2026, 1, 15, 10, 30, 45, tzinfo=UTC)


def report(**silent: int) -> HealthReport:
    """Nodes that have been silent for so many milliseconds."""
    nodes = tuple(
        NodeHealth(node, "dead" if ms > 30_000 else "suspect", ms, 1, 1, 0, 0)
        for node, ms in silent.items()
    )
    return HealthReport(1, 1, 0, 0, nodes, "", (), ())


def test_who_answers_is_alive_whatever_was_thought_of_it() -> None:
    found = vitals(["n1"], ["n2", "n3", "n4"], report(n1=99_000, n2=32_000, n3=9_999))

    assert found == (
        Vital("n1", "ALIVE", 0.0),
        Vital("n2", "DEAD", 32.0),
        Vital("n3", "SUSPECT", 9.999),
        Vital("n4", "SUSPECT", None),
    )
    assert health_words(found) == "4 nodes: 1 alive, 2 suspect, 1 dead (25.0 % available)"
    assert [seen_words(one, NOW) for one in found] == [
        "now",
        "10:30:13Z (32 s ago)",
        "10:30:35Z (10 s ago)",
        "unknown",
    ]
    assert last_seen(found[0], NOW) == "2026-01-15T10:30:45Z"
    document = vitals_json(found, NOW)
    assert (document["total"], document["dead"], document["availability_percent"]) == (4, 1, 25.0)
    assert document["nodes"]["n4"] == {
        "standing": "SUSPECT",
        "last_seen": None,
        "silent_seconds": None,
    }


def test_without_a_leader_of_the_controller_nobody_is_called_dead() -> None:
    assert vitals([], ["n1"], None) == (Vital("n1", "SUSPECT", None),)
    assert availability_percent(()) == 0.0


def test_totals_are_of_all_nodes_that_tell() -> None:
    one = NodeLoad(1, 1000, 100, 3, (), (), 0, 0, 0, 2_000_000, 1_300_000)
    two = NodeLoad(2, 400, 0, 0, (), (), 0, 0, 0, 450_000, 0)

    found = totals([one, two])

    assert request_words(found, 3) == (
        "1,500 requests (1,400 reads, 100 writes), 3 turned away, average latency 2.5 ms; "
        "2 of 3 nodes told"
    )
    assert totals_json(found)["average_ms"] == 2.5
    assert request_words(totals([]), 0) == "0 requests (0 reads, 0 writes), 0 turned away"


# The live view


def node(name: str, **more: Any) -> dict[str, Any]:
    silent = more.get("state") == "silent"
    latency = {"p50": None, "p99": None} if silent else {"p50": 0.5, "p99": 2.0}
    figure = None if silent else 12_345.0
    return {
        "node": name,
        "state": "running",
        "last_seen_seconds": 0.0,
        "health": "alive",
        "roomy": True,
        "quick": True,
        "leads": [0, 1],
        "waiting": None if silent else 3,
        "reads_per_second": figure,
        "writes_per_second": figure,
        "read_ms": latency,
        "write_ms": latency,
        "fsync_ms": latency,
    } | more


def group(gid: int, **more: Any) -> dict[str, Any]:
    return {
        "gid": gid,
        "leader": "n1",
        "term": 7,
        "commit": 123_456,
        "voters": ["n1", "n2", "n3"],
        "learners": ["n4"],
        "phases": {"serving": 31, "moving": 1},
        "replicas": [
            {"node": "n1", "lag": 0},
            {"node": "n2", "lag": 17},
            {"node": "n4", "lag": 40},
        ],
    } | more


def move(shard: int) -> dict[str, Any]:
    arriving = {
        "gid": 3, "phase": "arriving", "other": 1, "progress": "rows",
        "bytes_left": 12 * 2**20, "bytes_per_second": 4 * 2**20,
    }  # fmt: skip
    leaving = {"gid": 1, "phase": "moving", "other": 3, "progress": "", "bytes_left": 0}
    return {"shard": shard, "holders": [leaving, arriving]}


def document(
    nodes: list[dict[str, Any]], groups: list[dict[str, Any]], shards: list[dict[str, Any]]
) -> dict[str, Any]:
    latency = {"p50": 0.5, "p99": 2.0}
    return {
        "cluster": "80292ca29bd5" * 2,
        "config": {"number": 5},
        "at": "2026-01-15T10:30:45+00:00",
        "nodes": nodes,
        "groups": groups,
        "shards": shards,
        "rates": {
            "reads_per_second": 24_690.0,
            "writes_per_second": 24_690.0,
            "rejected_per_second": 0.0,
            "read_ms": latency,
            "write_ms": latency,
            "fsync_ms": latency,
        },
    }


def drawn(found: dict[str, Any], width: int, height: int | None) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height or 100, color_system=None)
    console.print(render(found, width=width, height=height))
    return out.getvalue().splitlines()


def test_a_small_cluster_is_whole_in_80_by_24() -> None:
    serving = [{"shard": s, "holders": [{"gid": 1, "phase": "serving"}]} for s in range(62)]
    found = document(
        [
            node("n1"),
            node("n2", quick=False),
            node("n3", state="silent", health="dead", last_seen_seconds=12.4),
        ],
        [group(0, phases={}), group(1), group(2, leader=None)],
        [*serving, move(62), move(63)],
    )

    lines = drawn(found, 80, 24)

    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for wanted in (
        "nodes 2/3 alive  groups 2/3 led  shards 64/64 served, 2 on the way",
        "reads 24,690  writes 24,690  turned away 0  in flight 6",
        "reads 0.5/2  writes 0.5/2  fsync 0.5/2",
        "DEAD 12s",
        "ALIVE slow",
        "ctl 1",
        "n1 n2(-17) n3? n4+(-40)",
        "none",
    ):
        assert wanted in text, wanted
    assert lines[-1].split() == [
        "63",
        "1",
        "3",
        "moving",
        "rows",
        "12.0",
        "MiB",
        "4.0",
        "MiB/s",
        "3.0",
        "s",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 16), (60, 12), (40, 9), (200, 60)])
def test_whatever_has_no_room_is_counted(width: int, height: int) -> None:
    found = document(
        [node(f"n{at}") for at in range(1, 10)],
        [group(at) for at in range(64)],
        [move(at) for at in range(30)],
    )

    lines = drawn(found, width, height)

    assert len(lines) < height
    assert max(map(len, lines)) <= width
    if height <= 24 and width >= 60:
        more = [line.split() for line in lines if "more" in line]
        assert more and all(words[0][0] == "+" and int(words[0][1:]) > 0 for words in more)


def test_without_a_terminal_there_is_room_for_all() -> None:
    found = document([node("n1")], [group(at) for at in range(64)], [move(at) for at in range(30)])

    lines = drawn(found, 100, None)

    assert len(lines) == 4 + 2 + 65 + 31
    assert not any(" more" in line for line in lines)


def test_a_cluster_of_which_nothing_is_known_is_drawn_too() -> None:
    found = document([node("n1", state="silent", health=None, last_seen_seconds=None)], [], [])
    found["rates"] |= {"read_ms": {"p50": None, "p99": None}}

    text = "\n".join(drawn(found, 80, 24))

    assert "nodes 0/1 alive  groups 0/0 led  shards 0/0 served" in text
    assert "SUSPECT" in text
    assert "reads -/-" in text
