"""TLS between transports: who gets in, what both sides are told, and certificates that change."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from labrpc.errors import Refused, RpcError, Unreachable
from labrpc.grpc import diagnosis
from labrpc.grpc.diagnosis import SPEAKS_PLAIN, SPEAKS_TLS, diagnose
from labrpc.grpc.discovery import cluster_at
from labrpc.grpc.tls import Tls
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from shardkv.tls import TlsFiles
from tests.support.certs import Authority, tls
from tests.support.wire import CLUSTER, LOOPBACK, SOON, echo, run, until

HERE = ("localhost", "IP:127.0.0.1")


class Pki:
    """A CA with a node and a client, another CA, and certificates that are no good."""

    def __init__(self, directory: Path) -> None:
        self.ca = Authority(directory)
        other = Authority(directory / "other", "other")
        self.node = self.ca.sign("n1", ("n1", *HERE))
        self.client = self.ca.sign("client", ("someone",))
        self.expired = self.ca.sign("expired", ("n1", *HERE), days=-1)
        self.elsewhere = self.ca.sign("elsewhere", ("n1", "n1.example"))
        self.foreign = other.sign("foreign", ("n1", *HERE))
        self.foreign_ca = self.client._replace(ca=other.certificate)
        self.stranger = self.foreign._replace(ca=self.ca.certificate)
        self.ca_only = TlsFiles(self.ca.certificate)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pki]:
    yield Pki(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def port(guarded: Tls | None, address: Address = LOOPBACK) -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(CLUSTER, "n1", address=address, tls=guarded, close_grace_seconds=0.2)
    transport.serve("echo", echo)
    await transport.start()
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def dialling(guarded: Tls | None, name: str = "me") -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(CLUSTER, name, tls=guarded)
    try:
        yield transport
    finally:
        await transport.close()


def test_calls_and_frames_cross_a_connection_that_both_sides_trust(pki: Pki) -> None:
    async def scenario() -> None:
        frames: list[bytes] = []
        async with port(tls(pki.node)) as peer, dialling(tls(pki.client)) as me:
            peer.listen(frames.append)

            assert await me.call(peer.address, "echo", b"one", timeout=SOON) == b"one"
            me.channel(peer.address).send(b"two")
            me.channel(peer.address, bulk=True).send(b"three")

            await until(lambda: sorted(frames) == [b"three", b"two"])

    run(scenario())


def test_a_port_that_asks_for_no_certificate_takes_who_knows_its_ca(pki: Pki) -> None:
    async def scenario() -> None:
        async with port(tls(pki.node, ask=False)) as peer, dialling(tls(pki.ca_only)) as me:
            assert await me.call(peer.address, "echo", b"one", timeout=SOON) == b"one"

    run(scenario())


@pytest.mark.parametrize(
    ("listening", "dialled", "reason"),
    [
        pytest.param("node", None, SPEAKS_TLS, id="in the clear to a port that speaks TLS"),
        pytest.param(None, "client", SPEAKS_PLAIN, id="TLS to a port that does not"),
        pytest.param("node", "ca_only", "asks for a certificate", id="no certificate"),
        pytest.param("node", "stranger", "this end shows was not signed", id="of another CA"),
        pytest.param("node", "expired", "end shows has expired", id="one that has expired"),
        pytest.param("foreign", "client", "not signed by the CA", id="a port of another CA"),
        pytest.param("node", "foreign_ca", "not signed by the CA", id="the wrong CA to check by"),
        pytest.param("expired", "client", "its certificate has expired", id="a port's has expired"),
        pytest.param("elsewhere", "client", "does not name the host", id="of another host"),
    ],
)
def test_who_does_not_belong_is_refused_and_told_why(
    pki: Pki, listening: str | None, dialled: str | None, reason: str
) -> None:
    def of(name: str | None) -> Tls | None:
        return None if name is None else tls(getattr(pki, name))

    async def scenario() -> None:
        async with port(of(listening)) as peer, dialling(of(dialled)) as me:
            with pytest.raises(Unreachable):
                await me.call(peer.address, "echo", b"one", timeout=SOON)

            assert reason in await diagnose(peer.address, of(dialled))
            with pytest.raises(Refused, match="UNAUTHENTICATED") as caught:
                await cluster_at(peer.address, timeout=SOON, tls=of(dialled))
            assert reason in caught.value.message
            assert peer.server.operations == 0

    run(scenario())


def test_a_healthy_partner_has_nothing_to_diagnose(pki: Pki) -> None:
    async def scenario() -> None:
        async with port(tls(pki.node)) as peer, port(None) as plain:
            assert await diagnose(peer.address, tls(pki.client)) == ""
            assert await diagnose(plain.address, None) == ""
        assert await diagnose(plain.address, tls(pki.client)) == ""  # nobody listens any more

    run(scenario())


def test_a_channel_that_is_kept_out_says_why_in_the_log(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC itself would wait for the connection without a word."""
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.01)
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        async with port(tls(pki.node)) as peer, port(tls(pki.stranger)) as me:
            me.channel(peer.address).send(b"let me in")

            def told() -> list[str]:
                return [m for m in caplog.messages if m.startswith("no connection")]

            await until(told)
            await asyncio.sleep(0.1)  # looked at several times, and told once
            expected = f"no connection to {peer.address}: the certificate that this end shows"
            assert told() == [f"{expected} was not signed by the CA that this end trusts"]

    run(scenario())


def test_who_may_speak_is_judged_by_the_names_of_the_certificate(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    def admits(sender: str, names: object) -> str | None:
        assert isinstance(names, list)
        return None if sender in names else f"{sender!r} is not in {', '.join(names)}"

    async def scenario() -> None:
        frames: list[bytes] = []
        guarded = tls(pki.node, admits=admits)
        async with port(guarded) as peer, dialling(tls(pki.client), "n2") as liar:
            peer.listen(frames.append)
            liar.channel(peer.address).send(b"a vote of n2")

            with pytest.raises(Refused) as caught:
                await liar.call(peer.address, "echo", b"one", timeout=SOON)

            assert caught.value.code == "PERMISSION_DENIED"
            assert caught.value.message == "'n2' is not in someone"
            async with dialling(tls(pki.client), "someone") as honest:
                assert await honest.call(peer.address, "echo", b"one", timeout=SOON) == b"one"
            assert frames == []

    run(scenario())
    assert any("is not in someone" in message for message in caplog.messages)


def test_certificates_that_are_exchanged_are_used_without_a_restart(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides begin with certificates of an old CA; then those of a new one, and its CA beside
    the old one, are put into the same files. What stands is not cut."""
    monkeypatch.setattr("shardkv.tls.LOOK_SECONDS", 0.0)
    old = Authority(tmp_path / "old", "old")
    new = Authority(tmp_path / "new", "new")
    served, shown = (
        put(old.sign(name, (name, *HERE)), tmp_path / f"in-use-{name}") for name in ("n1", "n2")
    )

    async def scenario() -> None:
        async with dialling(tls(shown)) as me:
            async with port(tls(served)) as peer:
                assert await me.call(peer.address, "echo", b"old", timeout=SOON) == b"old"

                put(new.sign("n1", ("n1", *HERE)), tmp_path / "in-use-n1")
                put(new.sign("n2", ("n2", *HERE)), tmp_path / "in-use-n2")

                assert await me.call(peer.address, "echo", b"on", timeout=SOON) == b"on"
                newcomer = tls(new.sign("n3", ("n3",)))
                async with dialling(newcomer, "n3") as other:
                    assert await other.call(peer.address, "echo", b"new", timeout=SOON) == b"new"
                async with dialling(tls(old.sign("n4", ("n4",))), "n4") as late:
                    with pytest.raises(Unreachable):
                        await late.call(peer.address, "echo", b"", timeout=SOON)
            async with port(tls(served), peer.address) as peer:
                assert await until_answered(me, peer.address) == b"again"

    run(scenario())


def test_who_waits_with_a_certificate_that_is_refused_gets_in_with_a_new_one(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardkv.tls.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.01)
    shown = put(pki.expired, tmp_path / "in-use")

    async def scenario() -> None:
        frames: list[bytes] = []
        async with port(tls(pki.node)) as peer, port(tls(shown)) as me:
            peer.listen(frames.append)
            channel = me.channel(peer.address)
            channel.send(b"with the old one")
            await asyncio.sleep(0.1)
            assert not channel.connected

            put(pki.node, tmp_path / "in-use")

            async with asyncio.timeout(SOON):
                while not frames:
                    channel.send(b"with the new one")
                    await asyncio.sleep(0.01)

    run(scenario())


def test_certificates_that_were_half_exchanged_keep_nobody_out_for_ever(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever puts a new certificate in place before its key leaves two that do not belong together
    for a while: who waits for a connection then is told so, and is looked after nevertheless."""
    monkeypatch.setattr("shardkv.tls.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.01)
    caplog.set_level(logging.WARNING)
    shown = put(pki.expired, tmp_path / "in-use")

    async def scenario() -> None:
        async with port(tls(pki.node)) as peer, port(tls(shown)) as me:
            channel = me.channel(peer.address)
            channel.send(b"with the old one")
            put(pki.node._replace(key=pki.expired.key), tmp_path / "in-use")
            kept_out = f"no connection to {peer.address}: "
            await until(
                lambda: any(
                    m.startswith(kept_out) and "is not the key of" in m for m in caplog.messages
                )
            )

            put(pki.node, tmp_path / "in-use")

            await until(lambda: channel.connected)

    run(scenario())


async def until_answered(me: GrpcTransport, address: Address) -> bytes:
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await me.call(address, "echo", b"again", timeout=SOON)
            except RpcError:
                await asyncio.sleep(0.01)


def put(files: TlsFiles, directory: Path) -> TlsFiles:
    """Copy certificates to where a process reads them."""
    directory.mkdir(exist_ok=True)
    there = TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")
    for source, target in zip(files, there, strict=True):
        assert source is not None and target is not None
        shutil.copy(source, Path(target).with_suffix(".new"))
        Path(target).with_suffix(".new").replace(target)
    return there
