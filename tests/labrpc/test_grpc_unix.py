"""The transport on a Unix socket: processes of one machine, without a port."""

import socket
from pathlib import Path

import pytest

from labrpc.errors import AddressInUse, CannotListen
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from tests.support.wire import CLUSTER, run

SOON = 10.0


async def echo(body: bytes) -> bytes:
    return body


def listener(address: Address) -> GrpcTransport:
    transport = GrpcTransport(CLUSTER, "listener", address=address)
    transport.serve("echo", echo)
    return transport


async def ask(address: Address) -> None:
    asking = GrpcTransport(CLUSTER, "asking")
    assert await asking.call(address, "echo", b"hello", timeout=SOON) == b"hello"
    await asking.close()


def test_a_call_on_a_socket_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        transport = listener(Address("unix:s"))
        assert await transport.start() == "unix:s"
        await ask(Address("unix:s"))
        await transport.close()

    run(scenario())
    assert not (tmp_path / "s").exists(), "who has closed leaves no socket behind"


def test_a_socket_is_not_taken_from_who_listens_there(tmp_path: Path) -> None:
    """gRPC alone would take it without a word."""
    address = Address(f"unix:{tmp_path}/s")

    async def scenario() -> None:
        first, second = listener(address), listener(address)
        await first.start()
        with pytest.raises(AddressInUse):
            await second.start()
        await second.close()
        await ask(address)
        await first.close()

    run(scenario())


def test_a_killed_process_s_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "s"))
    address = Address(f"unix:{tmp_path}/s")

    async def scenario() -> None:
        transport = listener(address)
        await transport.start()
        await ask(address)
        await transport.close()

    run(scenario())


@pytest.mark.parametrize("path", ["", "x" * 108, "no/such/directory/s"])
def test_a_path_that_cannot_be_is_told(path: str) -> None:
    async def scenario() -> None:
        transport = listener(Address(f"unix:{path}"))
        with pytest.raises(CannotListen):
            await transport.start()
        await transport.close()

    run(scenario())
