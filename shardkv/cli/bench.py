"""`shardkv bench`: load on a running cluster, and what it came to."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final

import click

from shardkv.cli.finding import TLS_KEYS, Request, Seconds, Whole, print_json, talks
from shardkv.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from shardkv.benching import Load, Measured

CLIENTS_MAX: Final = 8192
PROCESSES_MAX: Final = 64
KEYS_MAX: Final = 100_000_000
LATE_SECONDS: Final = 60.0


class Share(click.ParamType[float]):
    """A number from 0 to 1."""

    name = "share"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        plain = text.replace(".", "", 1)
        share = float(text) if plain.isascii() and plain.isdigit() else -1.0
        if not 0 <= share <= 1:
            self.fail(f"{text!r} must be a number from 0 to 1, such as 0.95", param, ctx)
        return share


@click.command(
    epilog="""\b
Examples:
  shardkv bench                               # puts: 1, 10 and 100 clients
  shardkv bench --gets 1 --clients 100        # linearizable gets
  shardkv bench --gets 0.95 --clients 500 --processes 2 --seconds 10
  shardkv bench --json
"""
)
@click.option(
    "--clients",
    type=Whole(1, CLIENTS_MAX),
    multiple=True,
    metavar="N",
    help="Operations in flight; may be given several times.  [default: 1, 10, 100]",
)
@click.option("--seconds", type=Seconds(), default=3.0, show_default=True, help="Of each figure.")
@click.option(
    "--gets", type=Share(), default=0.0, show_default=True, help="Share of linearizable gets."
)
@click.option("--keys", type=Whole(1, KEYS_MAX), default=10_000, show_default=True)
@click.option(
    "--size",
    type=Whole(0, VALUE_BYTES_MAX),
    default=256,
    show_default=True,
    help="Bytes of a value.",
)
@click.option(
    "--processes",
    type=Whole(1, PROCESSES_MAX),
    default=1,
    show_default=True,
    help="Client processes that share the load.",
)
@click.option("--prefix", default="bench/", show_default=True, help="Begins each key.")
@click.option("--no-fill", is_flag=True, help="Keys to get are there: do not put them first.")
@click.option("--raw", is_flag=True, hidden=True, help="Print each operation's time, as JSON.")
@talks
def bench(
    request: Request,
    clients: tuple[int, ...],
    seconds: float,
    gets: float,
    keys: int,
    size: int,
    processes: int,
    prefix: str,
    no_fill: bool,
    raw: bool,
) -> None:
    """Put load on a cluster, and print operations a second and how long they took.

    Writes keys below --prefix, and leaves them there. Each client asks again as soon as it is
    answered.
    """
    from shardkv.benching import HEADING, Figures, Load
    from shardkv.cli.failures import misused

    if len(os.fsencode(prefix)) > KEY_BYTES_MAX - len(str(keys)):
        raise misused(f"--prefix: a key has at most {KEY_BYTES_MAX} bytes")
    loads = [
        Load(
            clients=number,
            seconds=seconds,
            gets=gets,
            keys=keys,
            value_bytes=size,
            prefix=os.fsencode(prefix),
        )
        for number in clients or (1, 10, 100)
    ]
    if raw:
        sys.stdout.write(_run(_one(request, loads[0], fills=False, waits=True)).write() + "\n")
        return
    figures = []
    if not request.as_json:
        click.echo(f"{'':>16}{HEADING}")
    for at, load in enumerate(loads):
        fills = at == 0 and gets > 0 and not no_fill
        if processes == 1:
            measured = _run(_one(request, load, fills=fills))
        else:
            measured = _run(_several(request, load, processes, fills=fills))
        found = Figures.of(measured)
        figures.append(
            {
                "clients": load.clients,
                **found.as_dict(),
                "began": measured.began,
                "seconds": measured.seconds,
                "cpu_seconds": measured.cpu_seconds,
            }
        )
        if not request.as_json:
            click.echo(f"{load.clients:6d} in flight{found.line()}")
    if request.as_json:
        print_json({"gets": gets, "keys": keys, "bytes": size, "figures": figures})


def _run(work: "Coroutine[Any, Any, Measured]") -> "Measured":
    """On the loop that nodes run on."""
    from shardkv.cli.failures import Exit, Failure
    from shardkv.node import loop_factory

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise Failure(Exit.UNKNOWN, "interrupted", "Interrupted") from None


async def _one(request: Request, load: "Load", *, fills: bool, waits: bool = False) -> "Measured":
    """The load of one process; with `waits` it says `ready`, and begins when a line, or the end of
    its input, tells it to: processes that share a load must begin together."""
    from shardkv.benching import fill, measure

    rng = Random(SystemRandom().getrandbits(64))
    async with request.store() as store:
        if fills:
            await fill(store, load, rng)
        else:  # sessions and connections are not what is measured
            await asyncio.gather(
                *(store.put(load.prefix + b"warm/%d" % n, b"") for n in range(load.clients))
            )
        if waits:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.readline)
        return await measure(store, load, rng)


async def _several(request: Request, load: "Load", processes: int, *, fills: bool) -> "Measured":
    """The load shared by processes of this same command."""
    from shardkv.benching import Measured, fill
    from shardkv.errors import Unavailable

    if fills:
        async with request.store() as store:
            await fill(store, load, Random(load.keys))
    shares = [
        load.clients // processes + (number < load.clients % processes)
        for number in range(processes)
    ]
    command = [
        sys.executable, "-m", "shardkv", "bench", "--raw",
        "--endpoints", ",".join(request.addresses()), "--timeout", str(request.timeout),
        "--seconds", str(load.seconds), "--gets", str(load.gets), "--keys", str(load.keys),
        "--size", str(load.value_bytes), "--prefix", os.fsdecode(load.prefix),
    ]  # fmt: skip
    for name, file in zip(TLS_KEYS, request.given_tls, strict=True):
        if file is not None:
            command += [f"--{name.replace('_', '-')}", file]
    children = [
        await asyncio.create_subprocess_exec(
            *command,
            "--clients",
            str(share),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for share in shares
        if share
    ]
    try:
        patience = load.seconds + request.timeout + LATE_SECONDS
        async with asyncio.timeout(patience):
            await asyncio.gather(*(_line(child) for child in children))
            for child in children:
                assert child.stdin is not None
                child.stdin.write(b"\n")
            printed = await asyncio.gather(*(child.communicate() for child in children))
    except TimeoutError:
        raise Unavailable(f"the client processes did not end within {patience:g} s") from None
    finally:
        for child in children:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGKILL)
    if any(child.returncode for child in children):
        raise Unavailable("a client process failed; it said why")
    return Measured.together([Measured.read(out.decode()) for out, _ in printed])


async def _line(child: asyncio.subprocess.Process) -> bytes:
    """The next line that a client process prints; empty if it ended."""
    assert child.stdout is not None
    return await child.stdout.readline()
