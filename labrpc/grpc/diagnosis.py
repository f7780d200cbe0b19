"""Why is there no connection? Asked of the partner by a handshake of our own.

gRPC tells a refused certificate as "Socket closed", and a channel that waits for its connection is
told nothing at all. So whoever was not reached is dialled once more, with the same certificates,
and the handshake's own words are kept. Nothing is sent that a service would see.

A port of gRPC closes the connection of whom it refuses without TLS's alert: what is wrong with our
own certificate is then looked for here, and its own log has the rest.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from labrpc.grpc.tls import Tls
from labrpc.transport import Address

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 5.0
"""How often the partners that are not connected are looked at."""

SPEAKS_TLS: Final = "it speaks TLS and this end does not: give the CA, certificate and key"
REFUSED: Final = "it refuses the certificate that this end shows; its own log says why"
SPEAKS_PLAIN: Final = "it does not speak TLS and this end does: both must, or neither"

_FAULTS: Final = (
    ("certificate has expired", "has expired"),
    ("not yet valid", "is not valid yet"),
    ("issuer certificate", "was not signed by the CA that this end trusts"),
    ("self-signed", "was not signed by the CA that this end trusts"),
    ("mismatch", "does not name the host that was dialled"),
)


_SYSTEM: Final = re.compile(r"to remote host: (?:connect: )?([^:()]+)(?: \(\d+\))?$")
"""The operating system's own words at the end of gRPC's, which name each address once more."""


def in_short(code: str, details: str) -> str:
    """Why there is no connection, of what gRPC says about it: `Connection refused`, if the system
    said so, else all of it."""
    said = _SYSTEM.search(details)
    return said[1] if said else f"{code}: {details}"


async def diagnose(address: Address, tls: Tls | None, *, seconds: float = HANDSHAKE_SECONDS) -> str:
    """Why no connection to `address` comes about, as far as TLS is the reason; "" if it is not, or
    if that cannot be told within `seconds`."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return ""
    host = host.removeprefix("[").removesuffix("]")
    try:
        async with asyncio.timeout(seconds):
            if tls is None:
                return await _speaks_tls(host, int(port))
            return await _handshake(host, int(port), tls)
    except (OSError, TimeoutError):  # nobody there, or nobody who answers: no matter of TLS
        return ""


async def _speaks_tls(host: str, port: int) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whoever it is: nothing is said, and the line is dropped
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.transport.abort()
    except ssl.SSLError as error:
        return "" if error.reason in (None, "WRONG_VERSION_NUMBER") else SPEAKS_TLS
    return SPEAKS_TLS


async def _handshake(host: str, port: int, tls: Tls) -> str:
    if tls.context is None:
        return ""
    context = tls.context()
    try:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=host
        )
        try:
            # With TLS 1.3 the certificate of who dials is judged after the handshake.
            if not await reader.read(1):
                return tls.flaw() or REFUSED
        finally:
            writer.transport.abort()
    except ssl.SSLCertVerificationError as error:
        return f"its certificate {fault(error)}"
    except ssl.SSLError as error:
        reason = error.reason or "the handshake failed"
        if reason == "WRONG_VERSION_NUMBER":
            return SPEAKS_PLAIN
        return f"TLS: {reason}"
    return ""


def fault(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with a certificate, in our words: it "has expired", "does not name ..."."""
    said = error.verify_message
    return next((meaning for part, meaning in _FAULTS if part in said), f"is no good: {said}")


class Doctor:
    """Looks after the partners of one transport: says why one is not connected, once a reason.

    Args:
        missing: The addresses whose connection is wanted and is not there.
        refresh: Awaited before each look.
    """

    def __init__(
        self,
        tls: Tls | None,
        missing: Callable[[], Iterable[Address]],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._tls, self._missing, self._refresh = tls, missing, refresh
        self._told: dict[Address, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._refresh()
            missing = sorted(set(self._missing()))
            for address in [there for there in self._told if there not in missing]:
                del self._told[address]
            for address in missing:
                await self._look_at(address)

    async def _look_at(self, address: Address) -> None:
        try:
            reason = await diagnose(address, self._tls)
        except Exception as error:
            # Certificates of which the files hold a half, say. The watch must outlive it: without
            # it, who waits would never dial with those that are put there in the end.
            reason = f"looking for the reason failed: {str(error) or repr(error)}"
        if reason and reason != self._told.get(address):
            log.warning("no connection to %s: %s", address, reason)
        self._told[address] = reason
