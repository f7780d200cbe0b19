"""`shardkv up` on real processes: what a newcomer does, and what ends it."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from labrpc.grpc import kv_pb2 as kv
from tests.support.processes import Cluster, Ended, run_program, wait_for
from tests.support.terminal import Terminal


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes, two groups, eight shards; running and ready."""
    running = Cluster(tmp_path, groups=2)
    try:
        running.start()
        yield running
    finally:
        running.close()


def ask(cluster: Cluster, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
    """A client's command that must succeed; what it wrote."""
    done = cluster.cli(*arguments, stdin=stdin)
    assert done.status == 0, (arguments, done)
    return done.out


def refusal(cluster: Cluster, *arguments: str | bytes, status: int = 1) -> str:
    """A client's command that must be refused; why."""
    done = cluster.cli(*arguments)
    assert (done.status, done.out) == (status, b""), (arguments, done)
    return done.err


@pytest.mark.timeout(300)  # some sixty commands, each a process
def test_a_cluster_is_founded_used_stopped_and_found_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The newcomer's play, from `up` to `up` again."""
    assert list(cluster.nodes) == ["n1", "n2", "n3"]
    for node in cluster.nodes.values():
        command = Path(f"/proc/{node.pid}/cmdline").read_bytes().split(b"\0")
        assert os.fsencode(node.data) in command

    _every_operation(cluster)
    _every_byte(cluster)
    _an_import(cluster, tmp_path)
    _batches(cluster)
    _status_and_ctl(cluster)
    _the_live_view(cluster)
    _the_typed_service(cluster)
    _nobody_else_gets_in(cluster)

    endpoints = cluster.endpoints
    assert cluster.interrupt() == 0
    assert not any(cluster.runs(node) for node in cluster.nodes)
    assert cluster.cli("get", "greeting", "--timeout", "1").status == 3

    cluster.start("--nodes", "3")  # by one flag, which does not contradict
    assert cluster.endpoints == endpoints
    assert ask(cluster, "get", "greeting") == b"hello world"
    assert ask(cluster, "get", "site/b/c") == b"\x00\xff"
    assert cluster.interrupt(signal.SIGTERM) == 0


def _every_operation(cluster: Cluster) -> None:
    assert ask(cluster, "put", "greeting", "hello") == b"version 1\n"
    assert ask(cluster, "append", "greeting", " world") == b"version 2\n"
    assert ask(cluster, "get", "greeting") == b"hello world"
    row = json.loads(ask(cluster, "get", "greeting", "--json"))
    assert row == {"key": "greeting", "value": "hello world", "version": 2}
    stale = refusal(cluster, "put", "greeting", "x", "--if-version", "1")
    assert "the key is at version 2" in stale
    assert ask(cluster, "put", "other", "x", "--if-version", "0") == b"version 1\n"
    for _ in range(2):  # a command that is repeated by its name is done once
        assert ask(cluster, "append", "bill", "paid;", "--request-id", "4711") == b"version 1\n"
    assert "different request" in refusal(cluster, "append", "bill", "x", "--request-id", "4711")
    assert "version 1" in refusal(cluster, "delete", "other", "--if-version", "7")
    assert ask(cluster, "delete", "other", "--if-version", "1") == b""
    assert ask(cluster, "delete", "other") == b""
    assert ask(cluster, "delete", "other") == b"", "deleting an absent key is done"
    assert "key 'other' not found" in refusal(cluster, "get", "other")
    assert ask(cluster, "put", "other", "y") == b"version 2\n", "no version comes twice"


def _every_byte(cluster: Cluster) -> None:
    odd = [b"\xff\xfe \n\x1b[31m", b"\xc3\xa9/../%2e%2e", b"e\xcc\x81/../%2e%2e"]
    for number, key in enumerate(odd):
        ask(cluster, "put", "--", key, b"value of %d" % number)
    assert [ask(cluster, "get", "--", key) for key in odd] == [
        b"value of %d" % n for n in range(len(odd))
    ]
    ask(cluster, "put", "empty", "")
    assert ask(cluster, "get", "empty") == b""
    largest = os.urandom(1024 * 1024)
    ask(cluster, "put", "largest", "-", stdin=largest)
    assert ask(cluster, "get", "largest") == largest
    too_long = refusal(cluster, "append", "largest", "x")
    assert "value must be at most 1048576 bytes, not 1048577" in too_long
    for wrong in ("", "k" * 4097):
        said = refusal(cluster, "put", wrong, "v")
        assert f"key must be 1 to 4096 bytes, not {len(wrong)}" in said
    ask(cluster, "put", "k" * 4096, "v")


def _an_import(cluster: Cluster, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "b").mkdir(parents=True)
    (site / "a").write_bytes(b"of a")
    (site / "b" / "c").write_bytes(b"\x00\xff")
    (site / "b" / "empty").touch()
    out = ask(cluster, "import", str(site), "--prefix", "site/", "--json")
    summary = json.loads(out)
    assert (summary["files"], summary["bytes"], summary["skipped"]) == (3, 6, [])
    assert ask(cluster, "get", "site/a") == b"of a"
    os.mkfifo(site / "pipe")
    (site / "large").write_bytes(bytes(1024 * 1024 + 1))
    partly = cluster.cli("import", str(site), "--prefix", "again/")
    assert partly.status == 1
    assert partly.out.startswith(b"3 files, 6 bytes")
    assert "pipe': no regular file" in partly.err
    assert "large': value must be at most 1048576 bytes" in partly.err


def _batches(cluster: Cluster) -> None:
    """One shard's writes are one; several shards' are not, and it is said so."""
    pair = ("{pair}a", "1", "{pair}b", "2")
    assert b"2 operations, done as one\n" in ask(cluster, "batch", *pair, "--consistency", "all")
    late = cluster.cli("batch", *pair, "--if-version", "{pair}b", "7")
    assert late.status == 1
    assert b"none of it done" in late.out
    assert "'{pair}b': the key is at version 1" in late.err
    keys = [word for number in range(20) for word in (f"scattered {number}", "v")]
    assert "batch is of one shard" in refusal(cluster, "batch", *keys, "--atomic")
    assert ask(cluster, "batch", *keys).startswith(b"not atomic as a whole: the keys lie in ")
    told = json.loads(ask(cluster, "batch", "--delete", "{pair}a", "--json"))
    assert (told["atomic"], told["done"]) == (True, True)
    assert ask(cluster, "get", "{pair}b", "--consistency", "quorum") == b"2"
    assert ask(cluster, "get", "{pair}b", "--consistency", "one", "--max-age", "60") == b"2"


def _the_live_view(cluster: Cluster) -> None:
    """On a terminal until `q`, Ctrl-C or a kill, which leave it as it was; on a pipe once."""
    picture = ask(cluster, "top", "--interval", "0.2").decode()
    assert "nodes 3/3 alive" in picture
    assert "\x1b" not in picture
    document = json.loads(ask(cluster, "top", "--interval", "0.2", "--once", "--json"))
    assert [node["state"] for node in document["nodes"]] == ["running"] * 3
    command = ("top", "--interval", "0.2", "--endpoints", ",".join(cluster.endpoints))
    for end in (lambda t: t.press(b"q"), lambda t: t.press(b"\x03"),
                lambda t: t.kill(signal.SIGTERM), lambda t: t.kill(signal.SIGHUP)):  # fmt: skip
        with Terminal(command, columns=80, lines=24) as terminal:
            before = terminal.modes
            terminal.wait_for(b"nodes 3/3 alive")
            assert terminal.modes != before, "keys are not shown"
            end(terminal)
            assert terminal.ends() == 0
            assert terminal.modes == before
            assert b"Traceback" not in terminal.output
            for entered, left in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
                assert terminal.output.rfind(entered) < terminal.output.rfind(left)


def _status_and_ctl(cluster: Cluster) -> None:
    status = json.loads(ask(cluster, "status", "--json"))
    assert [node["node"] for node in status["nodes"]] == ["n1", "n2", "n3"]
    assert [node["pid"] for node in status["nodes"]] == [
        node.pid for node in cluster.nodes.values()
    ]
    assert status["health"]["alive"] == status["health"]["total"] == 3
    assert status["health"]["availability_percent"] == 100.0
    assert status["requests"]["writes"] > 30
    assert status["requests"]["average_ms"] > 0
    assert status["served"] == {"shards": 8, "of": 8}
    assert [group["gid"] for group in status["groups"]] == [0, 1, 2]
    assert all(group["leader"] in cluster.nodes for group in status["groups"])
    assert all(sorted(group["voters"]) == ["n1", "n2", "n3"] for group in status["groups"])
    assert [len(group["shards"]["serving"]) for group in status["groups"][1:]] == [4, 4]
    shown = ask(cluster, "status")
    assert b"3 nodes: 3 alive, 0 suspect, 0 dead (100.0 % available); 8 of 8 shards" in shown
    assert b"controller" in shown
    config = json.loads(ask(cluster, "ctl", "query", "--json"))
    shard = config["groups"]["1"]["shards"][0]
    assert config["config"] == 1
    seen = ask(cluster, "ctl", "move", str(shard), "2", "--dry-run").decode()
    assert seen == (f"config 2 would have 2 groups\nshards {shard}: from group 1 to group 2\n")
    assert json.loads(ask(cluster, "ctl", "query", "--json"))["config"] == 1, "nothing changed"
    assert ask(cluster, "ctl", "move", str(shard), "2") == b"config 2\n"
    assert b"config 1: 8 shards, 2 groups" in ask(cluster, "ctl", "query", "1")
    refusals = {
        ("leave", "9"): "9",
        ("leave", "1", "2"): "group 2 is the last one",
        ("move", "8", "1"): "8",
        ("move", "0", "7"): "7",
        ("join", "3=n9"): "no node 'n9'; registered are n1, n2, n3",
        ("join", "1=n1,n2"): "group 1 exists already, on",
    }
    for arguments, words in refusals.items():
        assert words in refusal(cluster, "ctl", *arguments)
    unchanged = json.loads(ask(cluster, "ctl", "query", "--json"))
    assert unchanged["config"] == 2, "no refusal changed a thing"
    wait_for(
        lambda: (_serving(cluster, 1), _serving(cluster, 2)) == (3, 5), "the shard to have moved"
    )


def _serving(cluster: Cluster, gid: int) -> int:
    groups = json.loads(ask(cluster, "status", "--json"))["groups"]
    return len(next(g for g in groups if g["gid"] == gid)["shards"].get("serving", ()))


def _the_typed_service(cluster: Cluster) -> None:
    """What a client in another language does."""
    with grpc.insecure_channel(cluster.nodes["n2"].client) as channel:

        def call(method: str, request: Message, reply: type[Message]) -> Message:
            ask: Callable[..., Message] = channel.unary_unary(
                f"/shardkv.v1.Kv/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=reply.FromString,
            )
            return ask(request, timeout=10)

        put = call("Put", kv.PutRequest(key=b"typed", value=b"1"), kv.PutReply)
        assert put == kv.PutReply(version=1)
        call("Append", kv.AppendRequest(key=b"typed", value=b"2"), kv.AppendReply)
        got = call("Get", kv.GetRequest(key=b"typed"), kv.GetReply)
        assert got == kv.GetReply(found=True, value=b"12", version=2)
        call("Delete", kv.DeleteRequest(key=b"typed"), kv.DeleteReply)
        assert call("Get", kv.GetRequest(key=b"typed"), kv.GetReply) == kv.GetReply(version=0)
        two = [kv.BatchOperation(key=b"{pair}%d" % at, put=b"v", if_version=0) for at in (1, 2)]
        batch = call("Batch", kv.BatchRequest(operations=two), kv.BatchReply)
        assert batch == kv.BatchReply(versions=[2, 2]), "above the one that was deleted there"
        for request, code in (
            (kv.PutRequest(key=b"", value=b"1"), grpc.StatusCode.INVALID_ARGUMENT),
            (kv.PutRequest(key=b"typed", if_version=7), grpc.StatusCode.FAILED_PRECONDITION),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call("Put", request, kv.PutReply)
            assert refused.value.code() == code


def _nobody_else_gets_in(cluster: Cluster) -> None:
    """Directory, ports, flags: each refusal within a moment, and nothing touched."""
    second = run_program("up", "--data", str(cluster.data))
    assert second.status == 5
    assert "another `shardkv up` runs on it" in second.err
    node = run_program("node", "--data", str(cluster.data / "n1"))
    assert node.status == 5
    assert "in use by another process" in node.err
    elsewhere = cluster.directory / "elsewhere"
    taken = run_program("up", "--data", str(elsewhere), "--base-port", str(cluster.base_port))
    assert taken.status == 5
    assert "the address is in use" in taken.err
    assert [path.name for path in elsewhere.iterdir()] == ["up.lock"]


def test_a_node_that_runs_by_hand_takes_part_and_is_left_alone(cluster: Cluster) -> None:
    """As in the README's tour: killed, started in another terminal, and then `up` again."""
    ask(cluster, "put", "kept", "value")
    cluster.kill("n2")
    by_hand = cluster.restart("n2")
    assert cluster.interrupt() == 0
    assert cluster.runs("n2") and not cluster.runs("n1")

    cluster.start("--nodes", "3")
    assert f"n2 runs already, process {by_hand.pid}: it is not stopped" in cluster.complaints()
    assert cluster.nodes["n2"].pid == by_hand.pid
    assert ask(cluster, "get", "kept") == b"value"
    by_hand.kill()
    assert cluster.obituary("n2")[0] == "ended"
    assert cluster.interrupt() == 0


def test_up_after_an_up_that_was_killed_does_not_wait_for_what_is_ending(cluster: Cluster) -> None:
    """The nodes see that their `up` is gone and stop; the next one takes over wherever they are."""
    before = {node.pid for node in cluster.nodes.values()}
    cluster.up.kill()
    cluster.up.wait()

    cluster.start("--nodes", "3")

    assert before.isdisjoint(node.pid for node in cluster.nodes.values())
    assert ask(cluster, "put", "after", "it") == b"version 1\n"
    assert cluster.interrupt() == 0


def test_flags_that_contradict_the_directory_are_refused(cluster: Cluster) -> None:
    assert cluster.interrupt() == 0
    for flag, value in {"--nodes": "5", "--shards": "9", "--groups": "3"}.items():
        refused = run_program("up", "--data", str(cluster.data), flag, value)
        assert refused.status == 2
        assert f"{flag} {value} contradicts the cluster" in refused.err


def test_a_node_joins_with_a_group_and_the_first_group_leaves(
    cluster: Cluster, tmp_path: Path
) -> None:
    """`init --join`, `node`, `ctl join`, `ctl leave`, `ctl join` again."""
    ask(cluster, "put", "kept", "value")
    assert _init_n4(cluster, tmp_path).status == 0
    twice = _init_n4(cluster, tmp_path)
    assert twice.status == 4
    assert "a node is there already; nothing was changed" in twice.err
    n4 = cluster.start_node(tmp_path / "n4")
    wait_for(lambda: b"n4" in cluster.cli("status").out, "n4 to be known")
    taken = cluster.cli("init", "--data", str(tmp_path / "n5"), "--node", "n4", "--client",
                        "127.0.0.1:9999", "--join", cluster.endpoints[0])  # fmt: skip
    assert (taken.status, "node n4 runs already" in taken.err) == (1, True)

    assert ask(cluster, "ctl", "join", "3=n4,n1") == b"config 2\n"
    assert ask(cluster, "ctl", "leave", "1") == b"config 3\n"
    wait_for(lambda: _holds_nothing(cluster, 1), "group 1 to hold nothing")
    assert ask(cluster, "get", "kept") == b"value"
    assert "3" in refusal(cluster, "ctl", "join", "3=n4,n1")
    assert ask(cluster, "ctl", "join", "1=n1,n2,n3") == b"config 4\n", "it may return"
    assert ask(cluster, "get", "kept") == b"value"

    n4.send_signal(signal.SIGTERM)
    assert n4.wait(10) == 0


def _init_n4(cluster: Cluster, tmp_path: Path) -> Ended:
    return run_program(
        "init", "--data", str(tmp_path / "n4"), "--node", "n4", "--client",
        f"127.0.0.1:{cluster.base_port + 30}", "--join", ",".join(cluster.endpoints),
    )  # fmt: skip


def _holds_nothing(cluster: Cluster, gid: int) -> bool:
    groups = json.loads(ask(cluster, "status", "--json"))["groups"]
    shards: object = next(group for group in groups if group["gid"] == gid)["shards"]
    return shards == {}
