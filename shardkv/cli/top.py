"""`shardkv top`: a cluster, live: who leads, what is asked, how long it takes, what moves."""

import asyncio
import os
import signal
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from labrpc.errors import RpcError
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import View
from shardkv.admin import NodeStatus
from shardkv.cli.finding import Request, Seconds, print_json, run, talks
from shardkv.cli.plan import health_report
from shardkv.cli.reaching import Reached, controller, loads, statuses
from shardkv.cli.topview import render
from shardkv.http.cluster import Sample, cluster_document
from shardkv.load import NodeLoad

INTERVAL_SECONDS: Final = 1.0
VIEW_SECONDS: Final = 1.0
"""A configuration that does not come in so long is that of the look before."""


@click.command(
    epilog="""\b
Examples:
  shardkv top
  shardkv top --interval 0.5
  shardkv top --once
  shardkv top --once --json | jq .rates
"""
)
@click.option(
    "--interval", type=Seconds(), default=INTERVAL_SECONDS, show_default=True, metavar="SECONDS",
    help="Between two looks; rates are of the time between.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one picture, after one interval, and end.")
@talks
def top(request: Request, interval: float, once: bool) -> None:
    """Watch a cluster: nodes, leaders, operations a second, latencies of reads, writes and syncs,
    how far replicas are behind, and shards on their way with their rate and what is left.

    `q` or Ctrl-C ends it. Where the output is no terminal, one picture is printed. Latencies are
    upper bounds of buckets, of the last interval; a dash where nothing was asked.
    """
    from shardkv.cli.failures import Failure

    live = sys.stdout.isatty() and not once and not request.as_json
    try:
        run(_live(request, interval) if live else _print(request, interval, once=once))
    except Failure as failure:
        if failure.code != "Interrupted" or once:
            raise


async def _print(request: Request, interval: float, *, once: bool) -> None:
    """One picture; as JSON one after the other, until Ctrl-C."""
    async with _looking(request, interval) as pictures:
        async for document in pictures:
            if request.as_json:
                print_json(document)
                if not once:
                    continue
            else:
                console = Console()
                console.print(render(document, width=console.width, height=None))
            return


async def _live(request: Request, interval: float) -> None:
    """On a screen of its own, which is gone again at the end, however that comes."""
    console = Console()
    async with _looking(request, interval) as pictures:
        with (
            _keys(),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            live.update("looking ...", refresh=True)
            async for document in pictures:
                view = render(document, width=console.width, height=console.height)
                live.update(view, refresh=True)


@contextmanager
def _keys() -> Iterator[None]:
    """`q`, a kill and a terminal that goes away end the view as Ctrl-C does; keys are not shown,
    and the terminal is left as it was."""
    loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()

    def end() -> None:
        signal.raise_signal(signal.SIGINT)

    def pressed() -> None:
        said = os.read(keyboard, 64)
        if not said or any(key in b"qQ\x04" for key in said):
            end()

    before = termios.tcgetattr(keyboard) if sys.stdin.isatty() else None
    for ended in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(ended, end)
    try:
        if before is not None:
            silent = [*before]
            silent[3] = before[3] & ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(keyboard, termios.TCSANOW, silent)
            loop.add_reader(keyboard, pressed)
        yield
    finally:
        for ended in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(ended)
        if before is not None:
            loop.remove_reader(keyboard)
            with suppress(termios.error):  # it may be gone
                termios.tcsetattr(keyboard, termios.TCSANOW, before)


@asynccontextmanager
async def _looking(
    request: Request, interval: float
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The cluster's documents (`shardkv/http/cluster.py`), one an interval."""
    async with controller(request, "top") as (client, reached):
        yield _Eyes(client, reached).pictures(interval)


class _Eyes:
    """Looks again and again, and remembers what it saw last."""

    def __init__(self, client: ControllerClient, reached: Reached) -> None:
        self._client = client
        self._reached = reached
        self._view: View | None = None
        self._clients: dict[str, str] = {}  # node -> where it takes clients' calls
        self._last_seen: dict[str, float] = {}

    async def pictures(self, interval: float) -> AsyncIterator[dict[str, Any]]:
        before = await self._look()
        number = 0
        while True:
            await asyncio.sleep(max(0.0, before.at + interval - time.monotonic()))
            now = await self._look()
            number += 1
            yield cluster_document(
                "shardkv top",
                self._view,
                before,
                now,
                when=datetime.now().astimezone().isoformat(timespec="seconds"),
                number=number,
            ) | {"cluster": self._reached.cluster.hex()}
            before = now

    async def _look(self) -> Sample:
        """Ask everybody at once; a node that is down costs a second at most."""
        addresses = list(self._clients.values() or self._reached.addresses)
        seen, told, view = await asyncio.gather(
            statuses(self._reached.transport, addresses),
            loads(self._reached.transport, addresses),
            self._newest(),
        )
        self._view = view or self._view
        answered = {
            status.node: (status, told[address])
            for address, status in seen.items()
            if isinstance(status, NodeStatus)
        }
        if not answered and not self._clients:
            raise next(error for error in seen.values() if isinstance(error, RpcError))
        for status, _ in answered.values():
            self._clients |= dict(status.known) | {status.node: status.client}
        if self._view is not None:
            registered = [str(node) for node in self._view.directory.nodes]
            self._clients = {n: c for n, c in self._clients.items() if n in registered}
        at = time.monotonic()
        self._last_seen |= dict.fromkeys(answered, at)
        names = sorted(self._clients, key=lambda name: (len(name), name))
        known = {name: answered[name][0] if name in answered else None for name in names}
        figures = {name: answered[name][1] if name in answered else None for name in names}
        return Sample(
            at,
            known,
            {name: load if isinstance(load, NodeLoad) else None for name, load in figures.items()},
            dict(self._last_seen),
            await health_report(self._reached.transport, known),
        )

    async def _newest(self) -> View | None:
        try:
            return await self._client.newest(timeout=VIEW_SECONDS)
        except ShardCtrlerError:
            return None  # the picture shows that nobody leads the controller
