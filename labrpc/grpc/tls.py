"""TLS of connections: what a process shows, whom it trusts, and whom it lets in.

Every port of one process and every connection that it dials share one `Tls`. What it shows is read
when it is needed, at each handshake of a port and at each dial, so that certificates which were
exchanged on disk are used without a restart; connections that stand are left alone.

Whoever dials checks that the certificate names the host that it dialled, as in any TLS; a port
that asks for certificates checks that they are of its CA, and may check their names (`admits`).
"""

import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio

from labrpc.grpc.options import Options
from labrpc.transport import Address


class Material(NamedTuple):
    """PEM texts. Without a certificate a process can only dial ports that ask for none."""

    ca: bytes
    certificate: bytes = b""  # its own first, then those between it and the CA
    key: bytes = b""


Admits = Callable[[str, Sequence[str]], str | None]
"""(who it says it is, the names in its certificate) -> why it may not speak here; None: it may."""


@dataclass(frozen=True, slots=True)
class Tls:
    """One process's side of TLS.

    Args:
        current: What to show and whom to trust now. Gives the same object while nothing changed.
        ask: Whether who connects to a port must show a certificate of the CA.
        admits: Judges who has shown one, by its names.
        context: The same for Python's own TLS, as who dials: with it is found out why a
            connection does not come about.
        flaw: Why others may refuse its certificate, as far as can be told from here; "" if there is
            nothing to see.
    """

    current: Callable[[], Material]
    ask: bool = True
    admits: Admits | None = None
    context: Callable[[], ssl.SSLContext] | None = None
    flaw: Callable[[], str] = lambda: ""


def open_port(server: grpc.aio.Server, address: Address, tls: Tls | None) -> int:
    """Open a server's port, in the clear or not; returns its number.

    Raises:
        RuntimeError: it cannot be had.
    """
    if tls is None:
        return server.add_insecure_port(address)
    shown = tls.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC at each handshake, in a thread of its own; None: as before."""
        nonlocal shown
        now = tls.current()
        if now is shown:
            return None
        shown = now
        return _shown(now, tls.ask)

    credentials = grpc.dynamic_ssl_server_credentials(
        _shown(shown, tls.ask),
        renewed,  # type: ignore[arg-type]  # the stub knows no None; gRPC's documentation does
        tls.ask,
    )
    return server.add_secure_port(address, credentials)


def _shown(material: Material, ask: bool) -> grpc.ServerCertificateConfiguration:
    pairs = [(material.key, material.certificate)]
    return grpc.ssl_server_certificate_configuration(pairs, material.ca if ask else None)


def dial(address: Address, tls: Tls | None, options: Options) -> grpc.aio.Channel:
    """A connection, which is made when it is first used."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return dial_with(address, tls.current(), options)


def dial_with(address: Address, material: Material, options: Options) -> grpc.aio.Channel:
    """As `dial`, with what to show."""
    credentials = grpc.ssl_channel_credentials(
        material.ca, material.key or None, material.certificate or None
    )
    return grpc.aio.secure_channel(address, credentials, options=options)


def names_of(authenticated: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names in the certificate of who has connected: its subject alternative names, hosts and
    addresses alike. Not the common name: nobody has checked hosts against it for years."""
    names = authenticated.get("x509_subject_alternative_name", ())
    return [name.decode("utf-8", "replace") for name in names]


def refusal(tls: Tls | None, sender: str, context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """Why who has connected may not speak here; "" if it may."""
    if tls is None or tls.admits is None:
        return ""
    return tls.admits(sender, names_of(context.auth_context())) or ""
