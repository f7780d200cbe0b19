"""Golden traces: commands, `----`, what they printed, comments that teach.

    # A comment stays where it is.
    campaign 1
    ----
    sync  1: term=1 vote=1

`replay(text, run)` runs every block and returns the text with the outputs that it gave; a test
compares it with the file, and with UPDATE_TRACES=1 in the environment writes it back for review.
Format after cockroachdb/datadriven.
"""

import os
from collections.abc import Callable
from pathlib import Path

SEPARATOR = "----"


def replay(text: str, run: Callable[[str], list[str]]) -> str:
    """Run each command line of each block; a blank line ends a block."""
    replayed = []
    for block in text.strip("\n").split("\n\n"):
        asked = []
        for line in block.split("\n"):
            if line == SEPARATOR:
                break
            asked.append(line)
        commands = [line for line in asked if line and not line.startswith("#")]
        printed = [line for command in commands for line in run(command)]
        replayed.append("\n".join([*asked, SEPARATOR, *printed] if commands else asked))
    return "\n\n".join(replayed) + "\n"


def check(path: Path, run: Callable[[str], list[str]]) -> None:
    """Compare a trace with what its commands print now."""
    text = path.read_text()
    replayed = replay(text, run)
    if os.environ.get("UPDATE_TRACES") == "1":
        path.write_text(replayed)
        return
    assert replayed == text, f"{path.name} prints something else; UPDATE_TRACES=1 rewrites it"
