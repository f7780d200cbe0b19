"""How bytes of users are shown: one line, escaped, and cut; and names in sentences."""

from collections.abc import Sequence
from typing import Final

SHOWN_CHARACTERS_MAX: Final = 64

_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(value: str | bytes, characters_max: int = SHOWN_CHARACTERS_MAX) -> str:
    """`value` on one line, at most `characters_max` characters of it and then `...`.

    Text stays readable; what a terminal or a log reader could take for a command (control and
    format characters, such as escapes and right-to-left overrides) and what is no UTF-8 becomes
    `\\n`, `\\x1b` or `\\u202e`.
    """
    head = value[: characters_max + 1]
    if isinstance(head, bytes):
        head = value[: 4 * (characters_max + 1)]
    text = head.decode("utf-8", "surrogateescape") if isinstance(head, bytes) else head
    cut = len(text) > characters_max or len(head) < len(value)
    return "".join(_character(c) for c in text[:characters_max]) + ("..." if cut else "")


def one_line(text: str, characters_max: int) -> str:
    """A text of ours, in which what came from users is escaped already: nothing twice."""
    cut = "..." if len(text) > characters_max else ""
    return "".join(c if c == "\\" else _character(c) for c in text[:characters_max]) + cut


def quoted(value: str | bytes) -> str:
    """`shown`, within quotes."""
    return f"'{shown(value)}'"


def named(names: Sequence[str], one: str, many: str) -> str:
    """The names with the verb that goes with so many: `n1 does not answer`, `n1, n2 do not`."""
    return f"{', '.join(names)} {one if len(names) == 1 else many}"


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
