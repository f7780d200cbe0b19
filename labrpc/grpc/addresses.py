"""Where a port can listen: `host:port`, `[v6]:port`, or `unix:path` on one machine.

A path may be relative to the working directory. A socket's file that nobody answers at is what a
killed process left, and is replaced.
"""

import asyncio
import errno
import os
import socket
from typing import Final

from labrpc.errors import AddressInUse, CannotListen
from labrpc.transport import Address

UNIX: Final = "unix:"
_UNIX_PATH_BYTES_MAX: Final = 107
"""Of `sockaddr_un` on Linux, without the closing zero."""


async def probe(address: Address) -> None:
    """Find out whether a port can be opened there.

    gRPC says only that it could not bind, takes a host's second address without a word when its
    first is in use, and takes a Unix socket away from who listens there.

    Raises:
        AddressInUse: somebody listens there.
        CannotListen: for any other reason.
    """
    if address.startswith(UNIX):
        _probe_unix(address)
    else:
        await _probe_host(address)


def opened(address: Address, port: int) -> Address:
    """The address of an open port, with the number that was taken for 0."""
    if address.startswith(UNIX):
        return address
    host, _ = _split(address)
    return Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _split(address: Address) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise CannotListen(address, "an address is HOST:PORT, with a port from 0 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _probe_host(address: Address) -> None:
    """On every address of the host."""
    host, port = _split(address)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CannotListen(address, f"{host}: {error.strerror}") from error
    for family, kind, protocol, _, name in found:
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                trial.bind(name)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise AddressInUse(address) from error
                raise CannotListen(address, error.strerror or str(error)) from error


def _probe_unix(address: Address) -> None:
    path = address.removeprefix(UNIX)
    if not 0 < len(os.fsencode(path)) <= _UNIX_PATH_BYTES_MAX:
        raise CannotListen(address, f"a socket's path has 1 to {_UNIX_PATH_BYTES_MAX} bytes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)
        try:
            trial.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except BlockingIOError as error:  # listens, with many waiting
            raise AddressInUse(address) from error
        except OSError as error:
            raise CannotListen(address, error.strerror or str(error)) from error
    raise AddressInUse(address)
