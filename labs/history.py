"""What clients asked, what they were told, and when: the material that checkers judge.

A history holds no opinion. Times are loop seconds; an operation whose outcome nobody knows has no
end, because it may take effect at any later time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf


class Kind(Enum):
    """What an operation asked for."""

    GET = "get"
    PUT = "put"
    APPEND = "append"
    DELETE = "delete"


@dataclass(slots=True)
class Operation:
    """One operation of one client; its client has no other open at the same time, but those of the
    same batch, which begin and end together."""

    client: int
    kind: Kind
    key: bytes
    value: bytes | None
    """What was written; of a get, what was read (None: absent)."""
    began: float
    ended: float = inf
    version: int = 0
    """Of the key after a write; of what a get read."""
    happened: bool | None = None
    """True: it was answered. False: it certainly was not done. None: nobody knows."""
    batch: int = 0
    """Which batch it is of, from 1; 0: it was asked alone."""

    @property
    def writes(self) -> bool:
        return self.kind is not Kind.GET

    def line(self) -> str:
        """The operation as one line of JSON, for checkers that are not ours. Of one without an
        answer `return` is null, and so is `result`, which only gets have."""
        outcome = {True: "ok", False: "fail", None: "unknown"}[self.happened]
        value = self.value.decode("latin-1") if self.value is not None else None
        reads = self.kind is Kind.GET
        return json.dumps(
            {
                "client": self.client,
                "call": round(self.began, 9),
                "return": round(self.ended, 9) if self.ended < inf else None,
                "kind": self.kind.value,
                "key": self.key.decode("latin-1"),
                "value": None if reads else value or "",
                "outcome": outcome,
                "result": value if reads and self.happened else None,
            },
            separators=(",", ":"),
        )

    def __str__(self) -> str:
        end = f"{self.ended:.6f}" if self.ended < inf else "never"
        shown = "absent" if self.value is None else repr(self.value[:40])
        return (
            f"client {self.client} {self.kind.value} {self.key!r} {shown}"
            f" v{self.version} [{self.began:.6f}, {end}] happened={self.happened}"
        )


class History:
    """Operations in the order in which they began."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.batches = 0

    def begin(
        self, client: int, kind: Kind, key: bytes, value: bytes | None, now: float
    ) -> Operation:
        operation = Operation(client, kind, key, value, now)
        self.operations.append(operation)
        return operation

    def begin_batch(
        self, client: int, writes: Sequence[tuple[Kind, bytes, bytes | None]], now: float
    ) -> list[Operation]:
        """One operation a write; they will have one outcome, and end at one moment."""
        self.batches += 1
        operations = [self.begin(client, *write, now) for write in writes]
        for operation in operations:
            operation.batch = self.batches
        return operations

    def keys(self) -> list[bytes]:
        return sorted({operation.key for operation in self.operations})

    def by_key(self) -> dict[bytes, list[Operation]]:
        found: dict[bytes, list[Operation]] = {}
        for operation in self.operations:
            found.setdefault(operation.key, []).append(operation)
        return found

    def of(self, key: bytes) -> list[Operation]:
        return [operation for operation in self.operations if operation.key == key]
