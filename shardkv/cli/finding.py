"""What every command that talks to a cluster shares: its options, finding it, running, Ctrl-C."""

import asyncio
import json
import math
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

from shardkv import clusterfile, config
from shardkv.config import ConfigError
from shardkv.text import quoted

if TYPE_CHECKING:
    from shardkv.clerk import Clerk
    from shardkv.tls import TlsFiles

TIMEOUT_SECONDS: Final = 10.0
TIMEOUT_SECONDS_MAX: Final = 3600.0
ENDPOINTS_VARIABLE: Final = "SHARDKV_ENDPOINTS"
DEFAULT_FILE: Final = Path("data") / clusterfile.NAME

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Request:
    """How a command asks: whom, for how long, and how it answers."""

    endpoints: str | None
    timeout: float
    as_json: bool
    given_tls: tuple[str | None, str | None, str | None] = (None, None, None)  # CA, cert, key

    def addresses(self) -> tuple[str, ...]:
        """Client addresses of nodes: `--endpoints`, else the environment, else ./data.

        Raises:
            ConfigError: none is given, or one is no address.
        """
        source, text = "--endpoints", self.endpoints
        if text is None:
            source, text = ENDPOINTS_VARIABLE, config.environment().get(ENDPOINTS_VARIABLE)
        if text is not None:
            return parse_endpoints(text, source)
        if not DEFAULT_FILE.exists():
            raise ConfigError(
                f"no cluster: give --endpoints or {ENDPOINTS_VARIABLE}, or run where "
                f"{DEFAULT_FILE} is (`shardkv up` writes it)"
            )
        return clusterfile.read(DEFAULT_FILE).endpoints

    def store(self) -> AbstractAsyncContextManager["Clerk"]:
        """A clerk of the cluster."""
        from shardkv import aio

        return aio.connect(self.addresses(), timeout=self.timeout, tls=self.tls())

    def tls(self) -> "TlsFiles | None":
        """Certificates: `--tls-ca`, `--tls-cert`, `--tls-key`, each else by the environment.

        Raises:
            ConfigError: a certificate without the CA, or a path that is none.
        """
        environment = config.environment()
        given = dict(zip(TLS_KEYS, self.given_tls, strict=True))
        texts = {
            key: text if text is not None else environment.get(config.variable(key))
            for key, text in given.items()
        }
        if not any(texts.values()):
            return None
        from shardkv.tls import of_texts  # imports gRPC, which commands without TLS may do without

        return of_texts(texts, config.flag)


TLS_KEYS: Final = ("tls_ca", "tls_cert", "tls_key")


def parse_endpoints(text: str, source: str) -> tuple[str, ...]:
    """`host:port,host:port`; one named twice counts once."""
    found: dict[str, None] = {}
    for item in text.split(","):
        try:
            found[config.address(item.strip())] = None
        except ValueError as error:
            raise ConfigError(f"{source}: {quoted(item)} {error}") from error
    return tuple(found)


class Place(click.Path):
    """A path that is not empty; `~` is the home directory."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, Path):
            return value
        try:
            return config.path(os.fspath(value))
        except ValueError as error:
            self.fail(f"{quoted(str(value))} {error}", param, ctx)


class Seconds(click.ParamType[float]):
    """A time-out: a plain number of seconds."""

    name = "seconds"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        plain = text.replace(".", "", 1)
        seconds = float(text) if plain.isascii() and plain.isdigit() else math.nan
        if not 0 < seconds <= TIMEOUT_SECONDS_MAX:
            self.fail(
                f"{quoted(text)} must be a number of seconds above 0, at most "
                f"{TIMEOUT_SECONDS_MAX:g}, such as 2.5",
                param,
                ctx,
            )
        return seconds


class Whole(click.ParamType[int]):
    """A whole number in a range, in digits and nothing else."""

    name = "number"

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            number = config.whole_number(str(value))
        except ValueError as error:
            self.fail(f"{quoted(str(value))} {error}", param, ctx)
        if not self._low <= number <= self._high:
            self.fail(f"{number} must be from {self._low} to {self._high}", param, ctx)
        return number


def talks(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command `--endpoints`, `--timeout` and `--json`, and hand it a `Request` first."""
    return talking(TIMEOUT_SECONDS)(command)


def talking(seconds: float) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """`talks`, with another default for `--timeout`."""

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @click.option(
            "--endpoints",
            metavar="HOST:PORT,...",
            help=f"Nodes to ask (else {ENDPOINTS_VARIABLE}).",
        )
        @click.option(
            "--timeout",
            type=Seconds(),
            default=seconds,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for an answer.",
        )
        @click.option("--tls-ca", metavar="FILE", help="The nodes' CA: speak TLS.")
        @click.option("--tls-cert", metavar="FILE", help="Of this client, if they ask for one.")
        @click.option("--tls-key", metavar="FILE", help="The certificate's key.")
        @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
        @wraps(command)
        def asking(
            *args: Any,
            endpoints: str | None,
            timeout: float,
            as_json: bool,
            tls_ca: str | None,
            tls_cert: str | None,
            tls_key: str | None,
            **kwargs: Any,
        ) -> R:
            tls = (tls_ca, tls_cert, tls_key)
            return command(Request(endpoints, timeout, as_json, tls), *args, **kwargs)

        return asking

    return decorate


def run(work: Coroutine[Any, Any, R], *, write: bool = False) -> R:
    """Run a command's coroutine. Ctrl-C ends it at once; of a write the outcome is then unknown."""
    from shardkv.cli.failures import Exit, Failure

    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        message = (
            "interrupted; the outcome is unknown: the write may have been done, or may yet be"
            if write
            else "interrupted"
        )
        raise Failure(Exit.UNKNOWN, message, "Interrupted") from None


def print_json(value: object) -> None:
    """One JSON value on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")
    sys.stdout.flush()  # whoever reads a watch wants each picture at once


def text_fields(name: str, data: bytes) -> dict[str, str]:
    """Bytes for JSON: as text where they are UTF-8, else in base64, and said so."""
    import base64

    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}
