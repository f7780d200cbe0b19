"""The reference: one process, one file, no faults. What it puts out is right by definition."""

from collections.abc import Sequence
from pathlib import Path

from labs.mapreduce import files
from labs.mapreduce.apps import App
from labs.mapreduce.worker import reduce_pairs


def run_sequentially(app: App, inputs: Sequence[str], directory: Path) -> Path:
    """Map every input in order, reduce every key; returns the one output, `mr-out-0`."""
    pairs = [pair for name in inputs for pair in app.map(name, files.read_input(directory / name))]
    path = directory / files.out_name(0)
    files.write_output(path, reduce_pairs(app, pairs))
    return path
