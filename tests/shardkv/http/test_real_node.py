"""HTTP of real node processes: by hand, by their own OpenAPI document, and through a kill."""

import contextlib
import http.client
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.http import series
from tests.support.processes import Cluster, run_program, running, wait_for

WALKS = 30
EXAMPLES = 6
"""Of each operation and mode; the same ones each time."""
REFUSALS = ["400", "403", "404", "405", "406", "412", "413", "414", "415", "428", "5xx"]
OURS = [positive_data_acceptance, not_a_server_error]
"""What a schema cannot say: rules between two fields, such as a bound that only stale reads have;
and that 503 and 504 are true answers to a millisecond's time-out."""
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("http"), groups=2, shards=8) as cluster:
        yield cluster


def port(cluster: Cluster, name: str = "n1") -> int:
    return int(cluster.nodes[name].client.rpartition(":")[2]) + 2


def ask(
    port: int, method: str, target: str, body: bytes | None = None, headers: dict[str, str] = JSON
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_ready(port: int) -> None:
    def ready() -> bool:
        try:
            return ask(port, "GET", "/readyz")[0] == 200
        except OSError:
            return False

    wait_for(ready, f"the node at {port} to be ready")


def get_json(port: int, target: str) -> Any:
    status, body = ask(port, "GET", target)
    assert status == 200, (target, status, body)
    return json.loads(body)


def schema_of(cluster: Cluster, mode: str = "all") -> Any:
    """The document of a running node, which refusals it may give, and what shall be played."""
    refusals = {"negative_data_rejection": {"expected-statuses": REFUSALS}}
    return schemathesis.openapi.from_url(
        f"http://127.0.0.1:{port(cluster)}/openapi.json",
        config=SchemathesisConfig.from_dict({"checks": refusals, "generation": {"mode": mode}}),
    )


def test_its_own_document_describes_it(cluster: Cluster) -> None:
    """Schemathesis plays valid and invalid requests of every operation, from a fixed seed."""
    schema = schema_of(cluster)
    operations = [found.ok() for found in schema.exclude(path="/events").get_all_operations()]
    assert len(operations) >= 18
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (
                operation.query or operation.headers or operation.body
            ):
                continue

            @settings(
                max_examples=EXAMPLES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def play(case: Any) -> None:
                answer = case.call_and_validate(timeout=40, excluded_checks=OURS)
                assert answer.status_code not in (500, 501, 502), answer.text

            play()
    status, _ = ask(port(cluster), "GET", "/livez")
    assert status == 200


def test_its_document_leads_from_one_request_to_the_next(cluster: Cluster) -> None:
    """Schemathesis follows the links: a key that was written is read, appended to, written and
    deleted at the version that the answer before named."""
    schema = schema_of(cluster, "positive")
    followed: Counter[str] = Counter()
    broken: list[BaseException] = []

    class Walk(schema.include(path_regex="^/(kv|append)/").as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Any) -> None:
            case.headers.pop("Shardkv-Session", None)  # no token that is drawn is one of ours
            case.query.pop("timeout", None)

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"timeout": 40}

        def after_call(self, response: Any, case: Any) -> None:
            followed[f"{case.method} {response.status_code}"] += 1

        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            try:
                case.validate_response(response, excluded_checks=OURS)
                assert response.status_code not in (500, 501, 502), response.text
            except BaseException as error:
                broken.append(error)
                raise

    # A walk that is taken again must go the same way, for Hypothesis; but what a key holds, and
    # whether an answer comes in time, is not the same again. Then it stops, and nothing is wrong.
    with contextlib.suppress(FlakyStrategyDefinition):
        Walk.run(
            settings=settings(
                max_examples=WALKS,
                stateful_step_count=6,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
        )

    assert not broken
    assert followed["GET 200"] and followed["PUT 200"] + followed["PUT 204"], followed
    assert followed["DELETE 200"] + followed["DELETE 204"], followed


def test_any_node_serves_any_key_and_what_one_wrote_another_reads(cluster: Cluster) -> None:
    for name in cluster.nodes:
        for number in range(8):
            body = json.dumps({"value": f"{name} {number}"}).encode()
            assert ask(port(cluster, name), "PUT", f"/kv/{name}-{number}", body)[0] == 200
    for name in cluster.nodes:
        for other in cluster.nodes:
            for number in range(8):
                found = get_json(port(cluster, other), f"/kv/{name}-{number}")
                assert found == {"key": f"{name}-{number}", "value": f"{name} {number}"}
    assert cluster.cli("get", "n1-3").out == b"n1 3"
    counted = series(ask(port(cluster), "GET", "/metrics")[1])
    assert counted["shardkv_fsync_seconds_count"][0][1] > 0
    assert {labels["database"] for labels, _ in counted["shardkv_database_bytes"]} == {
        "data",
        "log",
    }
    assert counted["process_open_fds"][0][1] > 10
    frames = {labels["outcome"]: n for labels, n in counted["shardkv_peer_frames_total"]}
    assert frames["sent"] > 0 and frames["received"] > 0 and frames["failed"] == 0


def test_events_tell_of_a_kill_and_of_the_return(cluster: Cluster) -> None:
    victim = "n3"
    connection = http.client.HTTPConnection("127.0.0.1", port(cluster), timeout=20)
    connection.request("GET", "/events")
    stream = connection.getresponse()
    cluster.kill(victim)
    cluster.wait_ended(victim)
    _read_until(stream, f"{victim} does not answer")
    assert ask(port(cluster), "PUT", "/kv/meanwhile", b'{"value":"kept"}')[0] == 200
    cluster.restart(victim)
    _read_until(stream, f"{victim} answers again")
    stream.close()
    connection.close()

    wait_ready(port(cluster, victim))
    assert get_json(port(cluster, victim), "/kv/meanwhile")["value"] == "kept"


def test_named_requests_are_done_once_whatever_dies_under_them(cluster: Cluster) -> None:
    """Whoever gets no clear answer asks another node, by the same name; nothing comes twice."""
    ports = [port(cluster, name) for name in cluster.nodes]
    tries = 0
    for number in range(60):
        if number in (15, 35):
            victim = ("n1", "n2")[number > 20]
            cluster.kill(victim)
        if number in (28, 50):
            cluster.wait_ended(victim)
            cluster.restart(victim, wait=False)
        deadline = time.monotonic() + 30
        done = False
        while not done:
            assert time.monotonic() < deadline, f"append {number} is never done"
            tries += 1
            done = _append(ports[tries % 3], number)
    expected = "".join(f"{number} " for number in range(60))
    assert get_json(ports[2], "/kv/once")["value"] == expected
    for each in ports:
        wait_ready(each)


def _append(port: int, number: int) -> bool:
    """Whether it is known to be done. It leaves after half a second, whatever became of it."""
    headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": f"append-{number}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    try:
        connection.request("POST", "/append/once", b"%d " % number, headers)
        status = connection.getresponse().status
    except OSError:
        return False
    finally:
        connection.close()
    assert status in (204, 429, 503, 504), status
    return status == 204


def _read_until(stream: http.client.HTTPResponse, text: str) -> None:
    deadline = time.monotonic() + 20
    for line in stream:
        if text.encode() in line:
            return
        assert time.monotonic() < deadline, f"never told: {text}"
    raise AssertionError(f"the stream ended before: {text}")


def test_http_can_be_switched_off_and_its_port_must_be_free(
    cluster: Cluster, tmp_path: Path
) -> None:
    taken = port(cluster)
    made = run_program(
        "init", "--data", str(tmp_path / "n9"), "--node", "n9", "--client",
        f"127.0.0.1:{taken + 70}", "--http", f"127.0.0.1:{taken}", "--join", cluster.endpoints[0],
    )  # fmt: skip
    assert made.status == 0, made
    refused = run_program("node", "--data", str(tmp_path / "n9"))
    assert (refused.status, "in use" in refused.err) == (5, True), refused
    node = cluster.start_node(tmp_path / "n9", "--http", "off")
    wait_for(lambda: b"n9" in cluster.cli("status").out, "n9 to be known")
    mapped = Path(f"/proc/{node.pid}/maps").read_text()
    assert "pydantic" not in mapped, "what is off is not loaded"
    node.send_signal(signal.SIGTERM)
    assert node.wait(10) == 0


def test_a_stop_by_signal_is_the_nodes_own(cluster: Cluster) -> None:
    """uvicorn takes no signal: SIGTERM still hands leaderships on, and ends with 0."""
    node = cluster.nodes["n2"]
    assert node.process is not None, "restarted by the test before"
    connection = http.client.HTTPConnection("127.0.0.1", port(cluster, "n2"), timeout=20)
    connection.request("GET", "/events")
    stream = connection.getresponse()
    stream.readline()
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(10) == 0
    stream.close()
    connection.close()
