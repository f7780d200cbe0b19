"""Structured, levelled logs: one line an event, to a rotated file.

A line is `2026-01-31T12:00:00.123Z INFO shardkv.node event text key=value ...`, or one JSON object
with the same facts. Whatever a message holds, it stays one line: control characters are escaped,
so no key, value or name of a user can forge a line or talk to a terminal. User bytes go into a
message through `shardkv.text.shown`, which also cuts them.
"""

import json
import logging
import logging.handlers
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from shardkv.text import shown

LINE_CHARACTERS_MAX: Final = 8192
TRACE_CHARACTERS_MAX: Final = 16384
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def facts_of(record: logging.LogRecord) -> Mapping[str, object]:
    """What the caller gave as `extra=`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def time_of(record: logging.LogRecord) -> str:
    """When, in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class TextFormatter(logging.Formatter):
    """`time LEVEL logger message key=value ...`, and the traceback on the same line, escaped."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            time_of(record),
            record.levelname,
            record.name,
            shown(record.getMessage(), LINE_CHARACTERS_MAX),
            *(f"{key}={_value(value)}" for key, value in facts_of(record).items()),
        ]
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            parts.append(f'trace="{shown(trace, TRACE_CHARACTERS_MAX)}"')
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, the facts, and `trace` after an error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shown(record.getMessage(), LINE_CHARACTERS_MAX),
        }
        for key, value in facts_of(record).items():
            plain = isinstance(value, int | float | bool | None)
            line[key] = value if plain else _text(value)
        if record.exc_info:
            line["trace"] = shown(self.formatException(record.exc_info), TRACE_CHARACTERS_MAX)
        return json.dumps(line, ensure_ascii=True)


def _text(value: object) -> str:
    return shown(value if isinstance(value, bytes) else str(value))


def _value(value: object) -> str:
    text = _text(value)
    return f'"{text}"' if text == "" or " " in text or "=" in text or '"' in text else text


def to_file(path: Path, *, level: str, form: str, bytes_max: int, files: int) -> None:
    """Send every log line of this process to `path`, rotated as `path.1`, `path.2`, ...

    Raises:
        OSError: the file cannot be opened.
    """
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=bytes_max, backupCount=files, encoding="utf-8", errors="backslashreplace"
    )
    _install(handler, level=level, form=form)


def to_stream(stream: IO[str] | None = None, *, level: str = "warning", form: str = "text") -> None:
    """Send every log line of this process to a stream, standard error by default."""
    _install(logging.StreamHandler(stream or sys.stderr), level=level, form=form)


def _install(handler: logging.Handler, *, level: str, form: str) -> None:
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # a full log disk must not print tracebacks
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(True)
