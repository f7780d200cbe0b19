"""TLS of a node: one set of files for its three ports, and who may speak at each.

- *peers*: always mutual. Who connects must be a node: its certificate names the node's id, or the
  host under which the controller, or a group of ours, knows that node. So a client's certificate,
  though of the same CA, opens no channel of Raft; and a node cannot speak as another one.
- *clients*: with `tls_client_auth` mutual as well, and any certificate of the CA will do.
- *HTTP*: as clients; but what a probe asks is answered without a certificate (`http/door.py`).
"""

import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from labrpc.grpc.tls import Tls
from shardkv.config import NodeConfig, host_of
from shardkv.text import shown
from shardkv.tls import TlsFiles, Watched

log = logging.getLogger(__name__)

NAMES_SHOWN_MAX: Final = 8


class NodeTls:
    """The node's certificates, watched.

    Args:
        known: Addresses, `host:port`, under which a node is known here; none for a stranger.
        clock: Seconds that only go forward.

    Raises:
        ConfigError: a file cannot be read, or they do not fit together.
    """

    def __init__(
        self,
        files: TlsFiles,
        *,
        ask_clients: bool,
        known: Callable[[str], Iterable[str]],
        clock: Callable[[], float],
    ) -> None:
        self._files, self._ask_clients, self._known = files, ask_clients, known
        self._watched = Watched(files, clock)
        if flaw := files.flaw():
            log.warning("TLS: others will refuse this node: %s", flaw)
        self.clients = Tls(self._watched.current, ask_clients, None, files.context, files.flaw)
        self.peers = Tls(self._watched.current, True, self._admits, files.context, files.flaw)

    def http(self) -> ssl.SSLContext:
        """For the HTTP port. It leads each handshake to the certificates of now."""
        first = self._files.server_context(ask=self._ask_clients)
        first.sslobject_class = _Told
        newest, material = first, self._watched.current()

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            nonlocal newest, material
            now = self._watched.current()
            if now is not material:
                newest, material = self._files.server_context(ask=self._ask_clients), now
            if newest is not first:
                connection.context = newest

        first.sni_callback = choose
        return first

    def _admits(self, sender: str, names: Sequence[str]) -> str | None:
        return misnamed(sender, names, [host_of(address) for address in self._known(sender)])


def files_of(settings: NodeConfig) -> TlsFiles | None:
    """Where a node's certificates are; None: it speaks no TLS."""
    if not settings.tls:
        return None
    assert settings.tls_ca is not None, "checked with the settings"
    return TlsFiles(settings.tls_ca, settings.tls_cert, settings.tls_key)


def misnamed(sender: str, names: Sequence[str], hosts: Sequence[str]) -> str | None:
    """Why a certificate is not that of node `sender`; None: it is. Pure.

    Args:
        names: Its subject alternative names; one may begin with `*.`, for one label.
        hosts: Under which the node is known.
    """
    for name in names:
        if name == sender or any(_covers(name.lower(), host.lower()) for host in hosts):
            return None
    listed = ", ".join(names[:NAMES_SHOWN_MAX]) or "nothing"
    wanted = " nor ".join(dict.fromkeys((sender, *hosts)))
    return f"the certificate names {shown(listed)}, and neither node {shown(wanted)}"


def _covers(name: str, host: str) -> bool:
    if not name.startswith("*."):
        return name == host
    first, dot, rest = host.partition(".")
    return bool(first and dot) and rest == name[2:]


class _Told(ssl.SSLObject):
    """asyncio ends a failed handshake without a word: this one says why, once a connection."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            log.warning("HTTP: refused a connection: %s", _said(error))
            raise


def _said(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if error.reason == "HTTP_REQUEST":
        return "it speaks HTTP in the clear, and this port takes HTTPS only"
    return shown(error.reason or str(error))


def has_certificate(transport: Any) -> bool:
    """Whether who connected may do all: it has shown a certificate, or the port asks for none."""
    connection = transport.get_extra_info("ssl_object")
    if connection is None or connection.context.verify_mode == ssl.CERT_NONE:
        return True
    return connection.getpeercert(binary_form=True) is not None
