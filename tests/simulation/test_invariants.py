"""The document defines every id that the program prints, and the watchers bite."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import labs.bounds
from labrpc.sim.chance import Chance
from labrpc.sim.loop import Unhandled, run
from labs.__main__ import main
from labs.canonical import live_bytes, live_rows
from labs.checkers import quorums_meet
from labs.cluster import SimCluster
from labs.history import Kind, Operation
from labs.knobs import Knobs
from labs.nemesis import FAULTS
from labs.observer import REQUIRED_PROBES, InvariantBroken, Observer, missing
from labs.scenario import ScenarioConfig, broken_invariant, play
from raft.replica import Replica
from raft.types import Member, Membership, NodeId, ReplicaId
from shardkv.pending import Pending

ROOT = Path(__file__).parents[2]
SOURCES = ("labs", "tests/support", "weaker_reads")
ID = re.compile(r'"([RSCLHB][0-9]{1,2})"')


def defined() -> set[str]:
    text = (ROOT / "docs/invariants.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| ([RSCLHB][0-9]{1,2}) \|", text, re.MULTILINE))


def printed() -> set[str]:
    return {
        found
        for name in SOURCES
        for path in (ROOT / name).rglob("*.py")
        for found in ID.findall(path.read_text(encoding="utf-8"))
    }


def test_every_id_that_is_printed_is_defined_and_the_other_way_round() -> None:
    assert len(printed()) > 45
    assert printed() == defined()


def test_every_required_probe_is_counted_somewhere() -> None:
    sources = [path for path in (ROOT / "labs").rglob("*.py") if path.name != "observer.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    told = {re.sub(r"\{[^}]*\}", "\0", found) for found in re.findall(r'"([a-z{][^"\n]*)"', text)}
    patterns = [
        re.compile(".+".join(map(re.escape, name.split("\0"))))
        for name in told
        if len(name.replace("\0", "")) > len("failed")
    ]

    for probe in REQUIRED_PROBES:
        assert any(pattern.fullmatch(probe) for pattern in patterns), probe


def test_a_campaign_without_a_required_probe_is_told_so() -> None:
    visited = Counter(dict.fromkeys(REQUIRED_PROBES[1:], 1))

    assert missing(visited) == [REQUIRED_PROBES[0]]


def members(*ids: int) -> tuple[Member, ...]:
    return tuple(Member(ReplicaId(id), NodeId(f"n{id}"), f"n{id}") for id in ids)


@pytest.mark.parametrize(
    ("before", "after", "meet"),
    [
        (Membership(members(1, 2, 3)), Membership(members(1, 2, 3, 4)), True),
        (Membership(members(1, 2, 3)), Membership(members(1, 2, 3, 4, 5)), False),
        (Membership(members(1)), Membership(members(2)), False),
        (
            Membership(members(1, 2, 3)),
            Membership(voters=members(3, 4, 5), outgoing=members(1, 2, 3)),
            True,
        ),
        (
            Membership(voters=members(3, 4, 5), outgoing=members(1, 2, 3)),
            Membership(members(3, 4, 5)),
            True,
        ),
    ],
)
def test_quorums_that_need_not_meet_are_told_from_those_that_do(
    before: Membership, after: Membership, meet: bool
) -> None:
    assert quorums_meet(before, after) is meet


def test_a_stale_read_is_c2_and_a_lie_about_a_write_c4() -> None:
    async def main(kind: Kind) -> None:
        cluster = SimCluster(Chance("teeth"), groups=1)
        oracle = cluster.oracle
        oracle.values_are_unique = True
        await cluster.start()
        clerk, admin = cluster.client()
        await admin.join([cluster.joining(cluster.gids[0])])
        write = Operation(0, Kind.PUT, b"k", b"v", 0.0)
        told = oracle.called(write)
        write.version = await clerk.put(b"k", b"v")
        write.happened = kind is Kind.GET
        oracle.ended(write, told, 10.0)
        read = Operation(0, Kind.GET, b"k", None, 1.0, happened=True)
        oracle.ended(read, oracle.called(read), 10.0)
        await clerk.close()
        await admin.close()
        oracle.observer.finish()

    for kind, invariant in ((Kind.GET, "C2"), (Kind.PUT, "C4")):
        with pytest.raises((Unhandled, InvariantBroken)) as failure:
            run(main(kind))
        assert broken_invariant(failure.value) == invariant


def test_a_trace_is_the_same_twice_and_shows_messages_and_faults() -> None:
    config = ScenarioConfig(seconds=2.0, faults=("crash", "loss"))
    traces: list[list[str]] = [[], []]

    for trace in traces:
        play(7, config, sink=trace.append)

    assert traces[0] == traces[1]
    for wanted in ("AppendEntries", "nemesis", "starts life=", "op client", "leads term="):
        assert any(wanted in line for line in traces[0]), wanted
    untraced, _ = play(7, config)
    assert untraced.seconds > 2.0


def test_a_history_line_is_as_documented() -> None:
    get = Operation(3, Kind.GET, b"k", b"v", 12.5, 12.9, happened=True)
    lost = Operation(1, Kind.PUT, b"k", b"v", 1.0)

    assert get.line() == (
        '{"client":3,"call":12.5,"return":12.9,"kind":"get","key":"k","value":null,'
        '"outcome":"ok","result":"v"}'
    )
    assert lost.line() == (
        '{"client":1,"call":1.0,"return":null,"kind":"put","key":"k","value":"v",'
        '"outcome":"unknown","result":null}'
    )


def test_a_batch_is_a_line_a_write_of_one_call_and_one_answer() -> None:
    """So that a checker which knows nothing of batches judges a history key by key, as ever."""
    _, history = play(11, ScenarioConfig(seconds=2.0, faults=()))

    lines = [json.loads(operation.line()) for operation in history.operations]
    together: dict[tuple[int, float], list[Any]] = {}
    for line in lines:
        together.setdefault((line["client"], line["call"]), []).append(line)
    batches = [lines for lines in together.values() if len(lines) > 1]

    assert batches
    assert {line["kind"] for batch in batches for line in batch} == {"put", "append", "delete"}
    for batch in batches:
        assert len({(line["return"], line["outcome"]) for line in batch}) == 1
        assert len({line["key"].split("}")[0] for line in batch}) == 1, "one tag"
    assert all(lines[0].keys() == line.keys() for line in lines)


def test_knobs_come_from_the_seed_alone_and_differ() -> None:
    drawn = [Knobs.draw(Chance(seed).rng("knobs")) for seed in range(12)]

    assert drawn == [Knobs.draw(Chance(seed).rng("knobs")) for seed in range(12)]
    assert len({knobs.compaction for knobs in drawn}) > 3


def test_the_observer_keeps_the_last_events_and_a_hash_of_all() -> None:
    async def main() -> tuple[str, int, str]:
        observer = Observer()
        for number in range(100):
            observer.tell(f"event {number}")
        return observer.last[-1], len(observer.last), observer.story_hash

    last, kept, story = run(main())

    assert last == "0.000000 event 99"
    assert kept == 40
    assert story == run(main())[2]


def test_a_failure_says_all_and_is_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The write that was answered is taken for one that was not done."""
    monkeypatch.setattr(Pending, "unknown", property(lambda pending: False))
    words = "simulate --seed 4 --seconds 4 --faults loss,isolate,deadlines --shrink-seconds 8"
    monkeypatch.setattr("sys.argv", ["labs", *words.split()])

    status = main()

    said = capsys.readouterr().out
    assert status == 1
    assert "seed 4: BROKEN C4" in said
    assert "commit " in said
    assert "the last events:" in said
    again = "again: python -m labs simulate --seed 4 --seconds 4 --faults loss,isolate,deadlines\n"
    assert again in said
    shrunk = re.search(r"shrunk, in \d+ tries: python -m labs simulate (.*)", said)
    assert shrunk is not None
    assert len(shrunk[1]) < len(words) + 10


def test_a_campaign_prints_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "simulate --seeds 3..4 --seconds 2 --faults loss"
    monkeypatch.setattr("sys.argv", ["labs", *words.split()])

    assert main() == 0

    said = capsys.readouterr().out
    assert "2 seeds in " in said
    for figure in ("seeds/s", "events/s and core", "simulated s per s and core", "all right"):
        assert figure in said


def test_the_faults_of_a_run_can_be_named() -> None:
    outcome, _ = play(5, ScenarioConfig(seconds=2.0, faults=()))

    assert outcome.faults == ()
    assert outcome.crashes == 0
    assert len(set(FAULTS)) == len(FAULTS)


def test_what_a_state_weighs_is_what_its_live_rows_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while shards move: what was let go lies beside what is live, and does not count."""
    weighed: list[int] = []

    def both(replica: Replica) -> int:
        rows = sum(len(key) + len(row) for key, row in live_rows(replica))
        assert live_bytes(replica) == rows
        weighed.append(rows)
        return rows

    monkeypatch.setattr(labs.bounds, "live_bytes", both)
    outcome, _ = play(3, ScenarioConfig(seconds=6.0, topology="T1", faults=("changes", "isolate")))

    assert outcome.hand_overs > 0 and len(set(weighed)) > 30
