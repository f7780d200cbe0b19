"""The cluster as JSON, its events, the stream of both, and operators' actions."""

import asyncio
import json
from pathlib import Path
from typing import Any

from shardctrler.types import ConfigNumber, GroupInfo, ShardConfig, View
from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus, ShardStatus
from shardkv.healing_beats import HealthReport, NodeHealth
from shardkv.http.cluster import BUCKETS, Sample, cluster_document
from shardkv.http.events import Event, EventLog, Local, events_between, local_events
from shardkv.http.origin import CONFIRM
from shardkv.http.watching import LINGER_SECONDS
from shardkv.load import NodeLoad
from tests.support.http import JSON, HttpClient, World, with_world


def replica(gid: int, role: str, **more: Any) -> ReplicaStatus:
    members = tuple(MemberStatus(n, f"n{n}", f"n{n}:1") for n in (1, 2, 3))
    facts: dict[str, Any] = {
        "gid": gid,
        "uuid": bytes(16),
        "replica": 1,
        "role": role,
        "stopped": "",
        "term": 4,
        "leader": "n1",
        "commit": 100,
        "applied": 100,
        "last": 100,
        "log_bytes": 7,
        "voters": members,
        "outgoing": (),
        "learners": (),
        "config_number": 2,
        "shards": (),
    }
    return ReplicaStatus(**facts | more)


def node(name: str, *replicas: ReplicaStatus, **more: Any) -> NodeStatus:
    facts: dict[str, Any] = {
        "node": name,
        "cluster": bytes(16),
        "version": "1",
        "pid": 1,
        "boot": 5,
        "uptime_ms": 9000,
        "client": f"{name}:1",
        "peer": f"{name}:2",
        "http": "",
        "nshards": 2,
        "state": "running",
        "config_number": 2,
        "known": (),
        "replicas": replicas,
    }
    return NodeStatus(**facts | more)


def held(gid: int, phase: str, other: int | None, **more: Any) -> dict[str, Any]:
    """A group that has to do with a shard, as the snapshot shows it."""
    facts = {"gid": gid, "phase": phase, "other": other, "progress": ""}
    return facts | {"bytes_left": 0, "bytes_per_second": 0} | more


def health(name: str, how: str, quick: int = 1) -> NodeHealth:
    return NodeHealth(name, how, 0, 1, quick, 0, 0)


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events]


def test_the_snapshot_says_who_leads_who_lags_and_where_each_shard_is() -> None:
    moving = (ShardStatus(0, "serving", 0, ""), ShardStatus(1, "leaving", 2, ""))
    coming = (ShardStatus(1, "arriving", 1, "rows", 7, 3),)
    seen = {
        "n1": node("n1", replica(1, "leader", shards=moving), replica(2, "follower", applied=90)),
        "n2": node("n2", replica(2, "leader", leader="n2", shards=coming)),
        "n3": None,
    }
    load = NodeLoad(5, 10, 20, 1, (0,) * 21, (0,) * 21, 3, 0, 0)
    later = load._replace(reads=30, writes=25, read_buckets=(20, *(0,) * 20))
    report = HealthReport(
        1, 1, 0, 0, (health("n1", "alive", quick=0), health("n3", "dead")), "", (), ()
    )
    before = Sample(10.0, seen, {"n1": load, "n2": load, "n3": None}, {})
    now = Sample(
        12.0, seen, {"n1": later, "n2": load._replace(boot=6), "n3": None}, {"n1": 12.0}, report
    )
    owners = {1: GroupInfo(bytes(16), ()), 2: GroupInfo(bytes(16), ())}
    config = ShardConfig(ConfigNumber(2), (1, 2), owners)  # type: ignore[arg-type]

    document = cluster_document(
        "n1", View(config, None), before, now, when="now", number=7  # type: ignore[arg-type]
    )  # fmt: skip

    assert [(n["node"], n["state"]) for n in document["nodes"]] == [
        ("n1", "running"),
        ("n2", "running"),
        ("n3", "silent"),
    ]
    first, second, third = document["nodes"]
    assert (first["reads_per_second"], first["writes_per_second"]) == (10.0, 2.5)
    assert first["read_ms"] == {"p50": 0.05, "p99": 0.05}
    assert first["write_ms"] == {"p50": None, "p99": None}, "none came, by the buckets"
    assert second["reads_per_second"] is None, "another life: its numbers began anew"
    assert (third["waiting"], third["last_seen_seconds"]) == (None, None)
    assert document["rates"]["reads_per_second"] == 10.0
    assert document["rates"]["read_ms"] == {"p50": 0.05, "p99": 0.05}
    assert (first["health"], second["health"], third["health"]) == ("alive", None, "dead")
    assert (first["roomy"], first["quick"], third["quick"]) == (True, False, True)
    one, two = document["groups"]
    assert (one["leader"], one["phases"]) == ("n1", {"serving": 1, "leaving": 1})
    assert (two["leader"], two["voters"]) == ("n2", ["n1", "n2", "n3"])
    assert [(r["node"], r["lag"]) for r in two["replicas"]] == [("n1", 10), ("n2", 0)]
    assert document["shards"] == [
        {
            "shard": 0,
            "owner": 1,
            "phase": "serving",
            "holders": [held(1, "serving", None)],
        },
        {
            "shard": 1,
            "owner": 2,
            "phase": "moving",
            "holders": [
                held(1, "leaving", 2),
                held(2, "arriving", 1, progress="rows", bytes_left=7, bytes_per_second=3),
            ],
        },
    ]
    json.dumps(document, allow_nan=False)


def test_nothing_is_known_of_a_cluster_that_does_not_answer() -> None:
    alone = Sample(1.0, {"n1": node("n1", config_number=0)}, {"n1": None}, {"n1": 1.0})

    document = cluster_document("n1", None, None, alone, when="now", number=1)

    assert (document["groups"], document["shards"]) == ([], [])
    assert document["config"] == {"number": 0, "shards": 0, "groups": []}
    assert document["nodes"][0]["read_ms"] == {"p50": None, "p99": None}


def test_the_cluster_s_latencies_are_of_all_its_operations_together() -> None:
    """99 quick reads at one node and 901 slow ones at another: the median is a slow one."""
    old = NodeLoad(5, 0, 0, 0, (0,) * BUCKETS, (0,) * BUCKETS, 0, 0, 0)
    quick = old._replace(reads=99, read_buckets=(99, *(0,) * (BUCKETS - 1)))
    slow = old._replace(reads=901, read_buckets=(0, 0, 0, 0, 901, *(0,) * (BUCKETS - 5)))
    starting = old._replace(read_buckets=(), write_buckets=())
    seen = {name: node(name) for name in ("n1", "n2", "n3")}
    before = Sample(1.0, seen, {"n1": old, "n2": old, "n3": starting}, {})
    now = Sample(2.0, seen, {"n1": quick, "n2": slow, "n3": old}, {})

    document = cluster_document("n1", None, before, now, when="now", number=1)

    assert document["rates"]["read_ms"] == {"p50": 1.0, "p99": 1.0}
    assert document["nodes"][0]["read_ms"] == {"p50": 0.05, "p99": 0.05}
    assert document["nodes"][2]["read_ms"] == {"p50": None, "p99": None}


def test_events_are_read_off_two_looks() -> None:
    before = {
        "n1": node("n1", replica(1, "leader", shards=(ShardStatus(0, "serving", 0, ""),))),
        "n2": node("n2"),
        "n3": node("n3", boot=1),
        "n4": None,
    }
    after = {
        "n1": node(
            "n1",
            replica(1, "leader", term=5, shards=(ShardStatus(0, "leaving", 2, ""),)),
            config_number=3,
        ),
        "n2": None,
        "n3": node("n3", boot=2),
        "n4": node("n4"),
        "n5": node("n5"),
    }

    assert texts(events_between(before, after)) == [
        "n2 does not answer",
        "n3 was started again",
        "n4 answers again",
        "n5 runs version 1",
        "n1 leads group 1 in term 5",
        "shard 0 is leaving at group 1, to group 2",
        "configuration 3",
    ]
    without = {"n1": node("n1", replica(1, "follower", leader="", stopped="broken"))}
    assert texts(events_between(before, without))[:2] == [
        "group 1 has no leader",
        "the replica of group 1 on n1 has stopped",
    ]


def test_an_event_is_logged_once_whoever_noticed_it() -> None:
    log = EventLog(events_max=3)
    log.add(local_events("n1", [Local(1, 4, "n1", ""), Local(2, 1, "", "")], 2), "t1")
    log.add(events_between({"n1": node("n1")}, {"n1": node("n1", replica(1, "leader"))}), "t2")

    assert [(e["number"], e["at"], e["kind"]) for e in log.after(0)] == [
        (1, "t1", "leader"),
        (2, "t1", "config"),
    ]
    log.add([Event(("x", n), "node", f"event {n}") for n in range(5)], "t3")
    assert [e["number"] for e in log.after(5)] == [6, 7]
    assert [e["number"] for e in log.after(0)] == [5, 6, 7], "the oldest are forgotten"
    assert len(log.after(99)) == 3, "a number of another life: from the beginning"


def messages(stream: bytes) -> list[tuple[str, Any]]:
    """(event, data) of a stream of server-sent events."""
    found = []
    for block in stream.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line[1:])
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_a_watcher_sees_a_move_happen_and_the_cluster_rests_when_it_has_left(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        http, front = world.http, world.fronts[0].front
        watching = asyncio.ensure_future(http.ask("GET", "/events", read_seconds=6.0))
        await asyncio.sleep(1.5)
        assert front._watchers() == 1
        owner = (await http.get("/cluster")).json()["shards"][0]["owner"]
        assert (await http.act("move", shard=0, gid=3 - owner)).json() == {"config": 2}
        answer = await watching

        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        told = messages(answer.body)
        snapshots = [data for kind, data in told if kind == "cluster"]
        assert 14 <= len(snapshots) <= 20, "one a second, and four while shards move"
        numbers = [snapshot["number"] for snapshot in snapshots]
        assert numbers == sorted(dict.fromkeys(numbers)), "each look is told once"
        last = snapshots[-1]["shards"][0]
        assert (last["owner"], last["phase"]) == (3 - owner, "serving")
        logged = [data["text"] for kind, data in told if kind == "log"]
        assert "configuration 2" in logged
        assert any(f"shard 0 is serving at group {3 - owner}" in text for text in logged), logged

        again = await http.ask("GET", "/events", headers={"last-event-id": "1"}, read_seconds=0.5)
        resumed = [data["number"] for kind, data in messages(again.body) if kind == "log"]
        assert resumed[0] == 2
        assert front._watchers() == 0
        watcher = front._watching
        assert watcher is not None
        await asyncio.sleep(LINGER_SECONDS + 2)
        looks = watcher._number
        await asyncio.sleep(10)
        assert watcher._number == looks, "nobody watches: nobody is asked"

    with_world(tmp_path, story, fronts=3)


def test_a_node_that_dies_is_shown_as_silent_and_its_leaderships_move(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        before = (await http.get("/cluster")).json()
        victim = next(n["node"] for n in before["nodes"] if n["node"] != "n1")
        watching = asyncio.ensure_future(http.ask("GET", "/events", read_seconds=9.0))
        await asyncio.sleep(2)
        world.cluster.nodes[victim].crash()
        told = messages((await watching).body)
        last = [data for kind, data in told if kind == "cluster"][-1]
        shown = next(n for n in last["nodes"] if n["node"] == victim)
        assert shown["state"] == "silent"
        assert shown["last_seen_seconds"] > 3
        assert all(group["leader"] not in (None, victim) for group in last["groups"])
        assert f"{victim} does not answer" in [d["text"] for k, d in told if k == "log"]

    with_world(tmp_path, story, fronts=3)


def test_actions_do_what_ctl_does(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        assert (await http.act("leave", gids=[2], expect=1)).json() == {"config": 2}
        assert (await http.act("leave", gids=[1])).problem == "change-refused"
        assert (await http.act("leave", gids=[9])).problem == "change-refused"
        assert (await http.act("move", shard=0, gid=1, expect=1)).problem == (
            "configuration-changed"
        )
        assert (await http.act("move", shard=99, gid=1)).problem == "change-refused"
        leader = world.cluster.leader(world.cluster.gids[0])
        assert leader is not None
        to = next(name for name in ("n1", "n2", "n3") if name != leader.name)
        assert (await http.act("transfer", gid=1, node=to)).json() == {"gid": 1, "leader": to}
        assert (await http.act("transfer", gid=1, node="n9")).status == 400

    with_world(tmp_path, story, fronts=3)


def test_an_action_needs_its_confirmation_this_machine_and_no_foreign_page(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        http = world.http
        body = b'{"gids":[1]}'
        name = CONFIRM.decode()

        async def refused(headers: dict[str, str], client: HttpClient = http) -> str:
            answer = await client.ask("POST", "/cluster/leave", body, JSON | headers)
            return f"{answer.status} {answer.problem}"

        assert await refused({}) == "428 not-confirmed"
        assert await refused({name: "join"}) == "400 bad-request"
        assert await refused({name: "leave", "origin": "http://evil.example"}) == "403 cross-origin"
        assert await refused({name: "leave", "sec-fetch-site": "cross-site"}) == "403 cross-origin"
        assert await refused({name: "leave", "host": "evil.example"}) == "421 wrong-host"
        assert await refused({name: "leave", "x-forwarded-for": "1.2.3.4"}) == "403 not-loopback"
        far = HttpClient(world.fronts[0].front.door, peer="10.0.0.7")
        assert await refused({name: "leave"}, far) == "403 not-loopback"
        plain = await http.ask(
            "POST", "/cluster/leave", body, {"content-type": "text/plain", name: "leave"}
        )
        assert plain.status == 415
        for wrong in (b"{}", b'{"gids":[]}', b'{"gids":[0]}', b'{"gids":[1,1]}', b'{"gids":["1"]}',
                      b'{"gids":[1],"force":true}', b'{"gids":[true]}'):  # fmt: skip
            answer = await http.ask("POST", "/cluster/leave", wrong, JSON | {name: "leave"})
            assert answer.problem == "bad-request", wrong
        same = {name: "leave", "origin": "http://127.0.0.1:7402", "sec-fetch-site": "same-origin"}
        assert (await http.get("/cluster")).json()["config"]["number"] == 1, "nothing was done"
        done = await http.ask("POST", "/cluster/leave", body, JSON | same)
        assert done.json() == {"config": 2}, "the node's own page may"

    with_world(tmp_path, story)


def test_actions_can_be_switched_off(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        assert (await world.http.act("leave", gids=[1])).problem == "actions-off"

    with_world(tmp_path, story, actions="off")


def test_head_answers_what_get_would_without_its_body(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for path in ("/livez", "/readyz", "/status", "/metrics", "/kv", "/get?key=none"):
            whole = await world.http.get(path)
            head = await world.http.ask("HEAD", path)
            assert (head.status, head.headers["content-type"]) == (
                whole.status,
                whole.headers["content-type"],
            ), path
        head = await world.http.ask("HEAD", "/events")
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
        refused = await world.http.ask("HEAD", "/cluster/move")
        assert (refused.status, refused.headers["allow"]) == (405, "POST")

    with_world(tmp_path, story)
