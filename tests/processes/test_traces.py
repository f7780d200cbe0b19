"""A real cluster that sends its spans to a collector, and one whose collector is away."""

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.support.processes import Cluster, running, wait_for

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
NAMES = (b"http.put", b"clerk.put", b"node.write", b"raft.replicate", b"raft.append", b"raft.apply")


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes OTLP over HTTP: its address, and what came."""
    came: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                came.append(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Nothing to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", came
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def put(cluster: Cluster, headers: dict[str, str]) -> None:
    port = int(cluster.endpoints[0].rpartition(":")[2]) + 2
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    given = {"Content-Type": "application/octet-stream", **headers}
    connection.request("PUT", "/kv/traced", b"canary-value", given)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (204, b"")
    connection.close()


def test_one_request_over_http_is_one_trace_at_the_collector(tmp_path: Path) -> None:
    """Of the caller's trace, from the three processes; what asked for no trace leaves none."""
    with collector() as (address, came):
        settings = {"SHARDKV_TRACE_ENDPOINT": address, "SHARDKV_TRACE_PER_MILLION": "0"}
        with running(tmp_path, settings=settings) as cluster:
            put(cluster, {})
            put(cluster, {"traceparent": PARENT})

            def all_there() -> bool:
                found = b"".join(came)
                wanted = (*NAMES, *(node.encode() for node in cluster.nodes))
                return all(name in found for name in wanted)

            wait_for(all_there, "every span to be collected")
            put(cluster, {"traceparent": PARENT.replace("-01", "-00")})
        spans = b"".join(came)
        assert spans.count(b"http.put") == 1, "the others were not asked for"
        assert bytes.fromhex(TRACE) in spans
        assert all(node.encode() in spans for node in cluster.nodes)
        assert b"canary" not in spans and b"/kv/" not in spans


def test_a_collector_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    settings = {"SHARDKV_TRACE_ENDPOINT": "http://127.0.0.1:9", "SHARDKV_TRACE_PER_MILLION": "0"}
    with running(tmp_path, settings=settings) as cluster:
        begun = time.monotonic()
        for _ in range(20):
            put(cluster, {"traceparent": PARENT})
        assert time.monotonic() - begun < 10
        assert cluster.interrupt() == 0
