"""What the key/value labs share: the words of a versioned store's answers."""

from enum import Enum
from typing import NamedTuple


class Err(Enum):
    """What a call of the versioned edition says."""

    OK = "OK"
    NO_KEY = "ErrNoKey"
    VERSION = "ErrVersion"
    MAYBE = "ErrMaybe"
    """A put whose outcome the clerk cannot know. No server says it."""


class Read(NamedTuple):
    """What a versioned get brings; ("", 0, NO_KEY) for a key that is absent."""

    value: str
    version: int
    err: Err


NO_KEY = Read("", 0, Err.NO_KEY)
