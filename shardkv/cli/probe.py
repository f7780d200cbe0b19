"""`shardkv probe`: ask a node over HTTP whether it lives, or is ready; for containers."""

import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final

import click

from shardkv import config
from shardkv.cli.failures import Exit, Failure
from shardkv.cli.finding import Seconds
from shardkv.config import ConfigError, host_of, variable

PATHS: Final = {"live": "/livez", "ready": "/readyz"}
PROBE_SECONDS: Final = 3.0
BODY_BYTES_MAX: Final = 64 * 1024
HTTP_BESIDE_CLIENT: Final = 2
EVERYWHERE: Final = ("0.0.0.0", "::", "[::]")  # noqa: S104 - recognised, not listened at


@click.command(
    epilog="""\b
Examples:
  shardkv probe ready --http 127.0.0.1:7402
  HEALTHCHECK CMD ["shardkv", "probe", "ready"]       # in a Dockerfile
"""
)
@click.argument("what", type=click.Choice(tuple(PATHS)))
@click.option("--http", metavar="HOST:PORT", help="Where. [default: by the node's environment]")
@click.option("--timeout", type=Seconds(), default=PROBE_SECONDS, show_default=True)
def probe(what: str, http: str | None, timeout: float) -> None:
    """Ask a node whether it is live or ready: 0 if so, 1 and the reasons if not.

    Without --http it asks the node whose environment it shares (SHARDKV_HTTP, or the port behind
    the one after SHARDKV_CLIENT's), on this machine.
    """
    environment = config.environment()
    address = _address(http)
    tls = environment.get(variable("tls_cert"), config.OFF) != config.OFF
    try:
        status, body = _ask(address, PATHS[what], timeout, tls=tls)
    except (OSError, HTTPException) as error:
        raise Failure(Exit.REFUSED, f"{address} does not answer: {error}", "NotReady") from error
    text = body.decode("utf-8", "replace").strip()
    if status != 200:
        raise Failure(Exit.REFUSED, f"{address} is not {what}: {status} {text}", "NotReady")
    sys.stdout.write(text + "\n")


def _address(given: str | None) -> str:
    environment = config.environment()
    text = given if given is not None else environment.get(variable("http"))
    client = environment.get(variable("client"))
    listen = environment.get(variable("listen_host"), config.OFF)
    try:
        if text is None and client is not None:
            host, _, port = config.address(client).rpartition(":")
            text = f"{host}:{int(port) + HTTP_BESIDE_CLIENT}"
        address = config.address(text if text is not None else "127.0.0.1:7402")
    except ValueError as error:
        raise ConfigError(f"--http or {variable('http')}: {error}") from error
    if given is None and listen != config.OFF:
        here = "127.0.0.1" if listen in EVERYWHERE else listen
        address = f"[{here}]" if ":" in here else here
        address += f":{(text or ':7402').rpartition(':')[2]}"
    return address


def _ask(address: str, path: str, timeout: float, *, tls: bool) -> tuple[int, bytes]:
    host, port = host_of(address), int(address.rpartition(":")[2])
    connection: HTTPConnection
    if tls:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # ourselves, on this machine; nothing secret is said
        connection = HTTPSConnection(host, port, timeout=timeout, context=context)
    else:
        connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(BODY_BYTES_MAX)
    finally:
        connection.close()
