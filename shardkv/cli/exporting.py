"""`shardkv export`: keys and values into a file, a page at a time."""

import os
import sys
import time
from pathlib import Path
from typing import Final

import click

from shardkv.cli.finding import Place, Request, print_json, run, talks
from shardkv.cli.reading import Reading, reads

_PROGRESS_SECONDS: Final = 0.5


@click.command(
    "export",
    epilog="""\b
Examples:
  shardkv export user/ ./users
  shardkv export '' ./everything
  shardkv import ./users/keys.jsonl --prefix copy/
""",
)
@click.argument("prefix", type=click.UNPROCESSED)
@click.argument("directory", type=Place())
@reads
@talks
def export(request: Request, prefix: str, directory: Path, how: Reading) -> None:
    """Write the keys that begin with PREFIX, and their values, to DIRECTORY/keys.jsonl.

    One JSON object a line; `shardkv import FILE` reads it back exactly. The directory is made when
    it is missing; a file that is there already is not touched. The file appears when it is
    complete. It is a list and no snapshot (see `shardkv list`); for one, use `shardkv backup`.
    """
    rows, size, seconds = run(_export(request, os.fsencode(prefix), directory, how))
    if request.as_json:
        print_json({"rows": rows, "bytes": size, "seconds": round(seconds, 3)})
    else:
        rate = rows / seconds if seconds else 0.0
        sys.stdout.write(f"{rows} keys, {size} bytes in {seconds:.1f} s ({rate:.0f}/s)\n")


async def _export(
    request: Request, prefix: bytes, directory: Path, how: Reading
) -> tuple[int, int, float]:
    from shardkv.cli.exportfile import ExportWriter

    started = told_at = time.monotonic()
    shows = sys.stderr.isatty()
    async with request.store() as store:
        with ExportWriter(directory, prefix) as writer:
            async for row in store.list(prefix, values=True, **how):
                writer.add(row)
                if shows and (now := time.monotonic()) - told_at > _PROGRESS_SECONDS:
                    told_at = now
                    _show(writer.rows, writer.bytes)
    if shows:
        click.echo(err=True)
    return writer.rows, writer.bytes, time.monotonic() - started


def _show(rows: int, size: int) -> None:
    click.echo(f"\r{rows} keys, {size >> 20} MiB", err=True, nl=False)
