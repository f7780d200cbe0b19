"""A line of the log is one line, whatever is in it."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardkv import logs
from shardkv.text import shown

HOSTILE = 'x\n{"level":"info"} \x1b[31m \u202e %s%n'


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain é 漢", "plain é 漢"),
        (HOSTILE, 'x\\n{"level":"info"} \\x1b[31m \\u202e %s%n'),
        (b"\xff\x00key", "\\xff\\x00key"),
        ("k" * 64, "k" * 64),
        ("k" * 65, "k" * 64 + "..."),
        (b"k" * 1000, "k" * 64 + "..."),
        ("back\\slash", "back\\\\slash"),
    ],
)
def test_bytes_of_users_are_escaped_and_cut(value: str | bytes, text: str) -> None:
    assert shown(value) == text


def test_a_text_line_holds_the_facts_and_no_forged_line() -> None:
    out = io.StringIO()
    logs.to_stream(out, level="info")
    logging.getLogger("shardkv.node").warning("refused %s", HOSTILE, extra={"key": HOSTILE, "n": 3})

    line = out.getvalue()
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert " WARNING shardkv.node refused x\\n" in line
    assert line.endswith(" n=3\n")


def test_a_json_line_is_one_object() -> None:
    out = io.StringIO()
    logs.to_stream(out, level="info", form="json")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("shardkv.node").exception("failed", extra={"key": b"\xff", "n": 3})

    (line,) = out.getvalue().splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"], record["message"]) == (
        "error", "shardkv.node", "failed"
    )  # fmt: skip
    assert (record["key"], record["n"]) == ("\\xff", 3)
    assert "ValueError" in record["trace"]
    assert "\n" not in record["trace"]


def test_the_file_is_rotated_and_levels_are_kept_out(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    logs.to_file(file, level="info", form="text", bytes_max=1000, files=2)
    for number in range(100):
        logging.getLogger("a").info("line %d", number)
        logging.getLogger("a").debug("never")

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["node.log", "node.log.1", "node.log.2"]
    text = "".join((tmp_path / name).read_text() for name in names)
    assert "line 99" in text
    assert "never" not in text
    assert all((tmp_path / name).stat().st_size <= 1000 for name in names)
