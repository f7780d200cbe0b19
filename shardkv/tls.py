"""Certificates and keys: from files into what the transports and HTTP speak TLS by.

Three files in PEM: the CA's certificates, one's own certificate (with those between it and the CA
behind it) and its key. They are looked at again at most once a second, and only by their size and
time; what changed is used from the next handshake on, if it fits together. If it does not, what was
there before stays in use and the log says why.
"""

import logging
import os
import ssl
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Final, NamedTuple

from labrpc.grpc.diagnosis import fault
from labrpc.grpc.tls import Material, Tls
from shardkv.config import ConfigError, path_or_off, variable
from shardkv.text import quoted

log = logging.getLogger(__name__)

PEM_BYTES_MAX: Final = 1024 * 1024
LOOK_SECONDS: Final = 1.0
HANDSHAKE_TURNS: Final = 3
OTHERS: Final = stat.S_IRWXO
"""A key that anybody on the machine may read is refused; its group may read it, since that is how
containers are given theirs."""


class TlsFiles(NamedTuple):
    """Where the certificates are. A client may have only the CA."""

    ca: str | PathLike[str]
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None

    def read(self) -> Material:
        """Read and check all of them.

        Raises:
            ConfigError: names the file and what is wrong with it.
        """
        if (self.certificate is None) != (self.key is None):
            there, lacks = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise ConfigError(f"TLS: a {there} without its {lacks}: give both, or neither")
        material = Material(_read(self.ca))
        if self.certificate is not None and self.key is not None:
            _check_mode(self.key)
            material = Material(material.ca, _read(self.certificate), _read(self.key))
        self.context()
        return material

    def context(self) -> ssl.SSLContext:
        """For who dials: checks the certificate of the port, and shows its own if it has one.

        Raises:
            ConfigError: as `read`.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._load(context)
        context.set_alpn_protocols(["h2"])
        return context

    def server_context(self, *, ask: bool) -> ssl.SSLContext:
        """For a port of HTTP. `ask`: it asks for a certificate, and who listens decides what one
        without may do.

        Raises:
            ConfigError: as `read`.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        context.verify_mode = ssl.CERT_OPTIONAL if ask else ssl.CERT_NONE
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_verify_locations(cafile=self.ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"tls_ca: {self.ca}: {_reason(error, 'no certificate')}") from error
        if self.certificate is None or self.key is None:
            return
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                text = f"tls_key: {self.key}: is not the key of {self.certificate}"
            else:
                both = f"{self.certificate} and {self.key}"
                text = f"tls_cert and tls_key: {both}: {_reason(error, 'no certificate and key')}"
            raise ConfigError(text) from error
        except (OSError, ValueError) as error:
            both = f"{self.certificate} and {self.key}"
            raise ConfigError(f"tls_cert and tls_key: {both}: {_reason(error, '')}") from error

    def dialling(self, clock: Callable[[], float] = lambda: 0.0) -> Tls:
        """For a process that only dials. Without a clock the files are read once.

        Raises:
            ConfigError: as `read`.
        """
        watched = Watched(self, clock)
        return Tls(watched.current, context=self.context, flaw=self.flaw)

    def flaw(self) -> str:
        """What others who trust the same CA will find wrong with this end's certificate; "" if
        nothing: found out by a handshake with itself, in memory."""
        if self.certificate is None:
            return "it asks for a certificate, and this end shows none"
        judge, shows = self.context(), self.server_context(ask=False)
        judge.check_hostname = False
        to_judge, to_shower = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            judge.wrap_bio(to_judge, to_shower),
            shows.wrap_bio(to_shower, to_judge, server_side=True),
        )
        try:
            for _ in range(HANDSHAKE_TURNS):
                for end in ends:
                    with suppress(ssl.SSLWantReadError):
                        end.do_handshake()
        except ssl.SSLCertVerificationError as error:
            return f"the certificate that this end shows {fault(error)}"
        except ssl.SSLError as error:
            return f"the certificate that this end shows cannot be used: {error.reason}"
        return ""


def of_environment(environment: Mapping[str, str]) -> TlsFiles | None:
    """What a client shows and trusts by `SHARDKV_TLS_CA`, `_CERT` and `_KEY`: the names of a node's
    settings, so that a shell beside a node needs nothing else. None: it speaks no TLS.

    Raises:
        ConfigError: a certificate without the CA, or a path that is none.
    """
    given = {key: environment.get(variable(key)) for key in ("tls_ca", "tls_cert", "tls_key")}
    return of_texts(given, variable)


def of_texts(given: Mapping[str, str | None], named: Callable[[str], str]) -> TlsFiles | None:
    """What a client shows and trusts.

    Args:
        given: `tls_ca`, `tls_cert`, `tls_key` -> a path, `off`, or None.
        named: What a key is called where it was given, for messages.

    Raises:
        ConfigError: a certificate without the CA, or a path that is none.
    """
    paths = {}
    for key, text in given.items():
        try:
            paths[key] = None if text is None else path_or_off(text)
        except ValueError as error:
            raise ConfigError(f"{named(key)}: {quoted(text or '')} {error}") from error
    ca, certificate, key_file = (paths[key] for key in ("tls_ca", "tls_cert", "tls_key"))
    if ca is None:
        if certificate is not None or key_file is not None:
            raise ConfigError(f"{named('tls_ca')} is needed too: by it the nodes are known")
        return None
    return TlsFiles(ca, certificate, key_file)


class Watched:
    """The files' content, looked at again while the process runs.

    Raises:
        ConfigError: they cannot be used as they are at the beginning.
    """

    def __init__(self, files: TlsFiles, clock: Callable[[], float]) -> None:
        self._files, self._clock = files, clock
        self._stamp = _stamp(files)
        self._material = files.read()
        self._looked_at = clock()

    def current(self) -> Material:
        """What is in the files; the same object until it changes. Called by gRPC's threads too."""
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            stamp = _stamp(self._files)
            if stamp != self._stamp:
                self._stamp = stamp
                self._renew()
        return self._material

    def _renew(self) -> None:
        try:
            found = self._files.read()
        except ConfigError as error:
            log.error("the new certificates are not used: %s", error)
            return
        if found != self._material:
            self._material = found
            log.info("certificates were exchanged", extra={"ca": str(self._files.ca)})


def _stamp(files: TlsFiles) -> tuple[tuple[int, int, int] | None, ...]:
    """Changes when a file does; a link that leads elsewhere now counts."""
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            status = Path(path).stat() if path is not None else None
        except OSError:
            status = None
        found.append(status and (status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _read(path: str | PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"TLS: {path}: cannot be read: {error.strerror}") from error
    if len(text) > PEM_BYTES_MAX:
        raise ConfigError(f"TLS: {path}: longer than {PEM_BYTES_MAX} bytes")
    return text


def _check_mode(key: str | PathLike[str]) -> None:
    try:
        mode = stat.S_IMODE(Path(key).stat().st_mode)
    except OSError as error:
        raise ConfigError(f"tls_key: {key}: cannot be read: {error.strerror}") from error
    if mode & OTHERS:
        raise ConfigError(
            f"tls_key: {key}: has mode {mode:04o}, so anybody on this machine can read it: "
            f"`chmod 600 {key}`"
        )


def _reason(error: Exception, else_: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{else_} in PEM ({error.reason or 'unreadable'})"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {os.strerror(error.errno)}"
    return str(error)


def _no_password() -> bytes:
    raise ValueError("the key is encrypted, and nobody is here to type a password: store it plain")
