"""A cluster of real processes that speaks TLS on all its ports, and who is let in."""

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardkv
from labrpc.errors import Refused
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from shardkv.admin import STATUS, NodeStatus, Nothing, decode, encode
from shardkv.tls import TlsFiles
from tests.support.certs import Authority, tls, variables
from tests.support.processes import Cluster, run_program, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def client(authority: Authority) -> TlsFiles:
    return authority.sign("client", ("someone",))


@pytest.fixture(scope="module")
def cluster(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    node = authority.sign("node", ("IP:127.0.0.1",))
    running = Cluster(tmp_path_factory.mktemp("tls"), settings=variables(node))
    try:
        running.start()
        yield running
    except BaseException:
        print(running.logs())
        raise
    finally:
        running.close()


def http(cluster: Cluster) -> str:
    """Of n1."""
    return f"https://127.0.0.1:{cluster.base_port + 2}"


def ask(url: str, files: TlsFiles, *, data: bytes | None = None) -> tuple[int, bytes]:
    context = files.context()
    context.set_alpn_protocols(["http/1.1"])
    request = urllib.request.Request(url, data=data, method="PUT" if data is not None else "GET")
    request.add_header("content-type", "application/octet-stream")
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_commands_and_clients_with_a_certificate_are_served(
    cluster: Cluster, client: TlsFiles
) -> None:
    endpoints = ",".join(cluster.endpoints)
    flags = ("--tls-ca", str(client.ca), "--tls-cert", str(client.certificate))
    done = run_program(
        "put", "a", "one", "--endpoints", endpoints, *flags, "--tls-key", str(client.key)
    )
    assert (done.status, done.err) == (0, "")

    got = run_program("get", "a", SHARDKV_ENDPOINTS=endpoints, **variables(client))
    assert got.out == b"one"
    seen = run_program("status", SHARDKV_ENDPOINTS=endpoints, **variables(client))
    assert seen.status == 0, seen.err

    with shardkv.connect(endpoints, tls=client) as kv:
        kv.put("b", b"two")
        assert kv.get("b") == b"two"


@pytest.mark.parametrize("kind", ["nothing", "only the CA", "another CA"])
def test_a_command_that_is_not_let_in_says_why(
    kind: str, cluster: Cluster, client: TlsFiles, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other").sign("stranger", ("someone",))
    env, reason = {
        "nothing": ({}, "it speaks TLS and this end does not"),
        "only the CA": ({"SHARDKV_TLS_CA": str(client.ca)}, "this end shows none"),
        "another CA": (variables(other), "was not signed by the CA that this end trusts"),
    }[kind]

    done = run_program("get", "a", SHARDKV_ENDPOINTS=",".join(cluster.endpoints), **env)

    assert done.status == 3
    assert reason in done.err
    assert done.err.count("\n") == 1


def test_http_answers_probes_to_anybody_and_the_rest_to_who_shows_a_certificate(
    cluster: Cluster, client: TlsFiles
) -> None:
    anybody, base = TlsFiles(client.ca), http(cluster)

    assert ask(f"{base}/livez", anybody) == (200, b"alive\n")
    wait_for(lambda: ask(f"{base}/readyz", anybody)[0] == 200, "n1 ready")
    for path in ("/kv/a", "/status", "/health", "/metrics", "/docs", "/openapi.json", "/"):
        status, body = ask(base + path, anybody)
        assert (status, json.loads(body)["type"].rpartition("/")[2]) == (
            403,
            "certificate-required",
        ), path
    assert ask(f"{base}/kv/h", client, data=b"three")[0] in (200, 201, 204)
    assert json.loads(ask(f"{base}/kv/h", client)[1])["value"] == "three"
    assert json.loads(ask(f"{base}/health", client)[1])["warnings"] == []


def test_http_refuses_a_certificate_of_another_ca_and_the_log_says_so(
    cluster: Cluster, client: TlsFiles, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other").sign("stranger", ("someone",))
    stranger = other._replace(ca=client.ca)
    log = cluster.nodes["n1"].data / "node.log"

    with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
        ask(f"{http(cluster)}/livez", stranger)
    with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
        ask(http(cluster).replace("https", "http") + "/livez", client)

    wait_for(lambda: "HTTP: refused a connection: its certificate" in log.read_text(), "the log")
    wait_for(lambda: "this port takes HTTPS only" in log.read_text(), "the log")


def test_a_clients_certificate_opens_no_channel_of_raft(cluster: Cluster, client: TlsFiles) -> None:
    """It is of the CA, and names no node: it may ask at the clients' port, and nothing else."""

    async def scenario() -> None:
        transport = GrpcTransport(cluster.cluster, "n2", tls=tls(client))
        try:
            body = await transport.call(
                Address(cluster.nodes["n1"].client), STATUS, encode(Nothing()), timeout=10
            )
            assert decode(NodeStatus, body).node == "n1"
            with pytest.raises(Refused) as caught:
                await transport.call(
                    Address(cluster.nodes["n1"].peer), STATUS, encode(Nothing()), timeout=10
                )
        finally:
            await transport.close()
        assert caught.value.code == "PERMISSION_DENIED"
        assert "the certificate names someone, and neither node n2 nor" in caught.value.message

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"SHARDKV_TLS_KEY": "off"}, "tls_key must be set too", id="no key"),
        pytest.param({"SHARDKV_TLS_CA": "/nowhere"}, "/nowhere: cannot be read", id="no file"),
        pytest.param({"mode": "0644"}, "chmod 600", id="a key that anybody may read"),
        pytest.param({"key": "client.key"}, "is not the key of", id="another certificate's key"),
    ],
)
def test_certificates_that_cannot_be_used_are_named_at_the_start(
    change: dict[str, str], said: str, authority: Authority, client: TlsFiles, tmp_path: Path
) -> None:
    from shardkv import nodedir

    node = authority.sign(f"bad{change.get('mode', '')}", ("IP:127.0.0.1",))
    if "mode" in change:
        Path(str(node.key)).chmod(int(change["mode"], 8))
    if "key" in change:
        node = node._replace(key=authority.directory / change["key"])
    nodedir.create(tmp_path / "n1", cluster=bytes(16), settings={"node": "n1"})
    env = variables(node) | {k: v for k, v in change.items() if k.startswith("SHARDKV_")}

    done = run_program("node", "--data", str(tmp_path / "n1"), **env)

    assert done.status == 2
    assert said in done.err
    assert client.key is not None


def test_a_public_address_without_tls_is_refused(tmp_path: Path) -> None:
    from shardkv import nodedir

    nodedir.create(tmp_path / "n1", cluster=bytes(16), settings={"node": "n1"})

    for key in ("LISTEN_HOST", "CLIENT", "HTTP"):
        value = "0.0.0.0" if key == "LISTEN_HOST" else "0.0.0.0:26990"
        done = run_program("node", "--data", str(tmp_path / "n1"), **{f"SHARDKV_{key}": value})

        assert done.status == 2
        assert "refusing to listen on a public address without TLS" in done.err
