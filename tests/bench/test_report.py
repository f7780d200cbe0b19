"""What the benches say is read off their files: reached is what the figures show, nothing else."""

import pytest

from bench import report, targets
from bench.measuring import CpuWatch, quantile
from bench.targets import NOT_MEASURED, NOT_REACHED, REACHED


def rounds(rate: float, p50: float = 1.0, p99: float = 2.0) -> list[dict[str, object]]:
    cpu = {"n1": 30.0, "n2": 20.0, "client": 10.0}
    return [
        {"per_second": rate * noise, "p50_ms": p50, "p90_ms": p50, "p99_ms": p99, "cpu_us": cpu}
        for noise in (0.9, 1.0, 1.1)
    ]


def versus(gets: float, clients: int, **stores: list[dict[str, object]]) -> dict[str, object]:
    rows = [
        {"store": store, "gets": gets, "clients": clients, "leader": "n1", "rounds": found}
        for store, found in stores.items()
    ]
    return {"versus": {"rows": rows}}


def verdicts(results: dict[str, object]) -> dict[str, str]:
    return {found.what: found.verdict for found in targets.check(results)}  # type: ignore[arg-type]


def test_without_figures_nothing_is_reached() -> None:
    assert set(verdicts({}).values()) == {NOT_MEASURED}


def test_a_rate_is_judged_by_the_median_of_the_ratios_within_rounds() -> None:
    found = verdicts(versus(0.0, 100, shardkv=rounds(3100), etcd=rounds(1000)))

    assert found["puts, 100 clients, against etcd: rate"] == REACHED
    assert found["puts, 100 clients, against etcd: p99"] == REACHED, "equal is no higher"
    assert found["puts, 10 clients, against etcd: rate"] == NOT_MEASURED


def test_a_rate_that_is_reached_hides_no_latency_that_is_not() -> None:
    found = verdicts(versus(1.0, 1, shardkv=rounds(1000, p50=1.2), etcd=rounds(1000)))

    assert found["gets, 1 client, against etcd: rate"] == REACHED
    assert found["gets, 1 client, against etcd: p50"] == NOT_REACHED


@pytest.mark.parametrize(
    ("keys", "megabytes", "ratio", "expected"),
    [
        (1_000_000, 100.0, 1.0, {NOT_MEASURED}),
        (5_000_000, 299.0, 0.8, {REACHED}),
        (5_000_000, 300.0, 0.79, {NOT_REACHED}),
    ],
    ids=["a million is not five", "just so", "just not"],
)
def test_growth_is_judged_at_five_million_keys(
    keys: int, megabytes: float, ratio: float, expected: set[str]
) -> None:
    row = {
        "keys": keys,
        "loads": [{"gets": 0.0, "ratio": ratio}, {"gets": 1.0, "ratio": ratio}],
        "memory_mb": {"anonymous": [90.0, megabytes, 80.0]},
    }

    found = verdicts({"growth": {"rows": [row]}})

    assert {word for what, word in found.items() if "5,000,000" in what} == expected


def test_events_are_judged_by_median_and_by_the_worst_kind_of_work() -> None:
    events = {
        "kill": {"seconds": [0.7, 0.8, 9.0]},
        "restart": {"keys": 1_000_000, "seconds": {"SIGKILL": [{"ready": 3.1}]}},
        "compaction": {"p99_ratio": {"flush": 1.1, "merge": 2.1}},
    }

    found = verdicts({"events": events})

    assert found["service back after kill -9 of a leader, median"] == REACHED
    assert found["a node with 1,000,000 keys started and ready, after SIGKILL"] == NOT_REACHED
    assert found["p99 while tables are written and merged, to quiet times"] == NOT_REACHED


def test_the_largest_shard_speaks_for_moves() -> None:
    rows = [
        {"MiB": 1, "answers, of those at rest": 0.9, "longest put of a hand-over, ms": 20.0},
        {"MiB": 64, "answers, of those at rest": 0.7, "longest put of a hand-over, ms": 100.0},
    ]

    found = verdicts({"handover": {"rows": rows}})

    share = "puts answered while a shard moves, of those at rest (64 MiB)"
    pause = "longest put at a shard's hand-over, median of the moves (64 MiB)"
    assert (found[share], found[pause]) == (REACHED, NOT_REACHED)


def test_the_busiest_node_speaks_for_a_hundred_groups() -> None:
    nodes = [{"cpu_share": share} for share in (0.01, 0.031, 0.02)]

    found = verdicts({"groups": {"rows": [{"groups": 100, "nodes": nodes}]}})

    assert found["100 idle groups, CPU of a node"] == NOT_REACHED


def test_the_tables_show_rates_ratios_and_cpu_time() -> None:
    results = versus(0.0, 100, shardkv=rounds(3000), etcd=rounds(1000, p99=4.0))

    text = "\n".join(report.SECTIONS["versus"](results["versus"]))  # type: ignore[arg-type]

    assert "| 100 | etcd | 1,000 | 1.00 | 4.00 | 3.00 [3.00, 3.00] | 1.00" in text
    assert "| puts | 100 | shardkv | 30 | 20 | 10 | 60 |" in text


@pytest.mark.parametrize(
    ("floor", "words"),
    [
        pytest.param(1.2, "take 1.20 x the time of etcd's whole put, so behind", id="above"),
        pytest.param(
            0.8, "take 0.80 x the time of etcd's whole put, so gRPC alone does not", id="below"
        ),
    ],
)
def test_the_ways_alone_say_what_the_limit_is(floor: float, words: str) -> None:
    """A floor above etcd's put is a proof that no store behind these ways can be as fast."""
    stores = {
        "shardkv": rounds(500, p50=1.5), "gRPC, fsyncs": rounds(900, p50=floor),
        "TCP, fsyncs": rounds(2000, p50=0.4), "etcd": rounds(1000),
    }  # fmt: skip
    rows = [{"store": name, "clients": 1, "rounds": each} for name, each in stores.items()]

    text = "\n".join(report.SECTIONS["hops"]({"rows": rows}))

    assert f"| gRPC, fsyncs | 900 | {floor:.2f} | 2.00 | 60 | {floor:.2f} [" in text
    assert words in text


def test_cpu_time_of_a_stretch_is_told_between_samples() -> None:
    watch = CpuWatch(dict)
    watch._samples = {"n1": [(10.0, 1.0), (11.0, 2.0), (12.0, 2.0)]}

    assert watch.between(10.5, 11.5) == {"n1": 0.5}
    assert watch.between(0.0, 99.0) == {"n1": 1.0}


def test_quantiles_are_of_what_happened() -> None:
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert quantile([], 0.5) == 0.0
