"""Certificates for tests, made by openssl: a CA, what it signs, and what is wrong with it."""

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from labrpc.grpc.tls import Admits, Tls
from shardkv.tls import TlsFiles, Watched

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A CA in a directory of its own."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.name = directory, name
        self.certificate = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        _openssl(
            "req", "-x509", *_CURVE, "-keyout", self._key, "-out", self.certificate,
            "-days", "2", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def sign(self, name: str, names: Iterable[str], *, days: int = 1) -> TlsFiles:
        """A key and a certificate for hosts, addresses (`IP:127.0.0.1`) or node names.

        Args:
            days: How long it is valid; below 0 it has expired.
        """
        stem = self.directory / name
        key, request, certificate = (stem.with_suffix(s) for s in (".key", ".csr", ".crt"))
        extensions = stem.with_suffix(".ext")
        listed = ",".join(n if n.startswith("IP:") else f"DNS:{n}" for n in names)
        extensions.write_text(
            f"subjectAltName={listed}\nextendedKeyUsage=serverAuth,clientAuth\n"
            "basicConstraints=critical,CA:FALSE\n"
        )
        _openssl("req", "-new", *_CURVE, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-out", certificate, "-days", str(days), "-extfile", extensions,
        )  # fmt: skip
        key.chmod(0o600)
        return TlsFiles(ca=self.certificate, certificate=certificate, key=key)


def tls(files: TlsFiles, *, ask: bool = True, admits: Admits | None = None) -> Tls:
    """As a node of these files has it."""
    watched = Watched(files, time.monotonic)
    return Tls(watched.current, ask, admits, files.context, files.flaw)


def variables(files: TlsFiles) -> dict[str, str]:
    """The environment of a node or a client that uses them."""
    return {
        "SHARDKV_TLS_CA": str(files.ca),
        "SHARDKV_TLS_CERT": str(files.certificate),
        "SHARDKV_TLS_KEY": str(files.key),
    }


def _openssl(*arguments: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
