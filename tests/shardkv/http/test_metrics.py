"""`/metrics`, and that the dashboard and the alerts speak of what is really there."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from raft.histogram import BOUNDS_US, Histogram
from shardkv.http.metrics import _buckets
from shardkv.load import Meter, percentile_ms
from tests.support.http import World, series, with_world

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"\b((?:shardkv|process)_[a-z0-9_]+)\b(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"(?:by|on)\s*\(([^)]*)\)")
ADDED = {"job", "instance", "le"}
"""Labels that Prometheus adds, or that histograms have."""


def used(directory: Path) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The metrics of a node that has been used a little."""

    async def story(world: World) -> dict[str, list[tuple[dict[str, str], float]]]:
        http = world.http
        for number in range(8):
            await http.put(f"/kv/k{number}", "v")
            await http.get(f"/kv/k{number}")
        await http.get("/kv/none")
        await http.act("move", shard=0, gid=1)
        await http.act("move", shard=0, gid=2)
        await asyncio.sleep(3)
        answer = await http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return series(answer.body)

    return with_world(directory, story, fronts=3)


def test_what_was_done_is_counted(tmp_path: Path) -> None:
    found = used(tmp_path)

    requests = {(s["kind"], s["status"]): n for s, n in found["shardkv_http_requests_total"]}
    assert (requests["put", "200"], requests["get", "200"], requests["get", "404"]) == (8, 8, 1)
    counts = {s["kind"]: n for s, n in found["shardkv_http_request_seconds_count"]}
    assert counts["get"] == 9
    assert found["shardkv_ready"] == [({}, 1.0)]
    assert [s["group"] for s, _ in found["shardkv_raft_term"]] == ["0", "1", "2"]
    assert all(n >= 1 for _, n in found["shardkv_raft_commit_index"])
    assert found["shardkv_config_number"][0][1] >= 2
    moved = found["shardkv_migration_received_bytes_total"][0][1]
    moved += found["shardkv_migration_sent_bytes_total"][0][1]
    assert moved > 0, "shard 0 went to one group and came from the other"
    reads = {(s["group"], s["result"]): n for s, n in found["shardkv_raft_log_reads_total"]}
    assert reads["1", "hit"] > 0 and reads["1", "miss"] == 0
    assert {s["group"] for s, _ in found["shardkv_proposals_waiting"]} == {"1", "2"}
    assert found["shardkv_tasks"][0][1] > 1
    frames = {s["outcome"]: n for s, n in found["shardkv_peer_frames_total"]}
    assert frames == {"sent": 2, "dropped": 1, "received": 2, "failed": 1}
    assert found["shardkv_disk_full"] == [({}, 0.0)]
    assert found["process_resident_memory_bytes"][0][1] > 1e6
    operations = {s["kind"]: n for s, n in found["shardkv_operations_total"]}
    frames = {s["kind"]: n for s, n in found["shardkv_operation_seconds_count"]}
    assert sum(operations.values()) == sum(frames.values())


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of the dashboard and the alert rules."""
    dashboard = json.loads((ROOT / "deploy/grafana/shardkv.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    rules: Any = YAML(typ="safe").load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_dashboard_and_alerts_name_only_what_is_exported(tmp_path: Path) -> None:
    """Every metric, and every label that is selected or grouped by."""
    found = used(tmp_path)
    # Only a production node's databases are synced: their figures have no samples here.
    found |= {
        f"shardkv_fsync_{part}": [({"database": "log"}, 0.0)]
        for part in ("seconds_bucket", "seconds_count", "seconds_sum", "waiting")
    }
    wrong = []
    named: dict[str, None] = {}
    for where, expression in expressions():
        metrics = NAME.findall(re.sub(r'"[^"]*"', '""', expression))
        assert metrics or expression.startswith("up{"), (where, expression)
        labels = ADDED.copy()
        for name, selected in metrics:
            named[name] = None
            if name not in found:
                wrong.append(f"{where}: no metric {name}")
                continue
            own = {label for sample, _ in found[name] for label in sample}
            labels |= own
            unknown = [s for s in LABEL.findall(selected) if s not in own | ADDED]
            wrong += [f"{where}: {name} has no label {label}" for label in unknown]
        for grouped in GROUPED.findall(expression):
            for label in re.split(r",\s*", grouped):
                if label not in labels:
                    wrong.append(f"{where}: nothing has the label {label}")

    assert wrong == []
    assert len(named) > 20


RULES = ROOT / "deploy/prometheus"


def promtool(*words: str, directory: Path = RULES) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; on Debian: apt-get install prometheus")
    return subprocess.run(
        [found, *words], cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )


def test_prometheus_itself_takes_the_rules_and_they_fire_when_they_should() -> None:
    checked = promtool("check", "rules", "alerts.yaml")
    assert checked.returncode == 0, checked
    tested = promtool("test", "rules", "alerts_test.yaml")
    assert tested.returncode == 0, tested.stdout


def test_every_alert_is_tested_and_its_tests_can_fail(tmp_path: Path) -> None:
    """Each rule in turn with its comparison turned round: some test of it must notice."""
    text = (RULES / "alerts.yaml").read_text()
    tests = (RULES / "alerts_test.yaml").read_text()
    rules: Any = YAML(typ="safe").load(text)
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert [name for name in alerts if f"alertname: {name}" not in tests] == []
    (tmp_path / "alerts_test.yaml").write_text(tests)
    for name in alerts:
        before, _, rest = text.partition(f"- alert: {name}\n")
        body, mark, after = rest.partition("- alert: ")
        turned = re.sub(r"(==|>|<)(?= [0-9.e]+\n)", lambda found: TURNED[found[1]], body)
        assert turned != body, name
        broken = before + f"- alert: {name}\n" + turned + mark + after
        (tmp_path / "alerts.yaml").write_text(broken)
        assert promtool("test", "rules", "alerts_test.yaml", directory=tmp_path).returncode, name


TURNED = {"==": "!=", ">": "<", "<": ">"}


def test_a_wrong_name_would_be_found() -> None:
    """The check above reads names and labels out of an expression."""
    expression = 'sum by (kind) (rate(shardkv_nonsense_total{why="x", a!~"y"}[5m]))'

    name, selected = NAME.findall(re.sub(r'"[^"]*"', '""', expression))[0]

    assert (name, LABEL.findall(selected)) == ("shardkv_nonsense_total", ["why", "a"])


def test_a_histogram_counts_each_observation_in_its_bucket() -> None:
    histogram = Histogram()
    histogram.observe(0.00005)
    histogram.observe(0.000051, 3)
    histogram.observe(3600.0)

    buckets = dict(_buckets(histogram))

    assert (buckets["5e-05"], buckets["0.0001"], buckets["10"], buckets["+Inf"]) == (1, 4, 4, 5)
    assert (histogram.count, histogram.total_us) == (5, 50 + 153 + 3_600_000_000)


def test_a_meter_tells_reads_from_writes_by_the_frame() -> None:
    now = [1.0]
    meter = Meter(lambda: now[0])
    now[0] = 1.002
    meter.answered(3, 0, 1.0)
    meter.answered(1, 1, 1.001)
    meter.reject("node_full", 7)

    assert meter.operations == [4, 1]
    assert (meter.reads.count, meter.writes.count) == (3, 2)
    assert meter.rejected == {"node_full": 7}
    before, after = (0,) * (len(BOUNDS_US) + 1), tuple(meter.reads.buckets)
    assert percentile_ms(before, after, 0.5) in (2.0, 3.0)
    assert percentile_ms(after, after, 0.5) is None
