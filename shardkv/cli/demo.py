"""`shardkv demo`: the story of `make demo`."""

from pathlib import Path

import click

from shardkv import config
from shardkv.cli.finding import Whole


@click.command(epilog="Example: shardkv demo --keep ./demo-data")
@click.option("--base-port", type=Whole(1024, 65000), default=7900, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Run there, and leave the data.")
def demo(base_port: int, keep: Path | None) -> int:
    """Run 6 nodes through kill -9, a join, a leave and a power cut; check every byte at the end.

    Imports every source file of the running Python's standard library, pass after pass, while
    several clerks append to one counter log. Exit status 0 only if nothing was lost or doubled.
    """
    config.disable_grpc_fork_handlers()
    from shardkv.demo import run

    return run(base_port=base_port, keep=keep, say=click.echo)
