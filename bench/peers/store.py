"""What a store is to the benches: something that a load can be put on, and whose processes show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from shardkv.benching import Figures, Load, Measured


@dataclass(frozen=True, slots=True)
class Taken:
    """What a load came to, and when, so that the CPU time of that stretch can be told."""

    figures: Figures
    began: float
    """By `time.time()`."""
    seconds: float
    client_cpu_seconds: float
    """Of all client processes together."""

    @classmethod
    def of(cls, measured: Measured) -> "Taken":
        return cls(Figures.of(measured), measured.began, measured.seconds, measured.cpu_seconds)


class Store(Protocol):
    """A running store."""

    name: str

    def fill(self, load: Load) -> None:
        """Put every key once."""
        ...

    def measure(self, load: Load) -> Taken: ...

    def processes(self) -> Mapping[str, int]:
        """Of its nodes, by name; asked while a load is on."""
        ...

    def leader(self) -> str:
        """The name of the process that leads; "" if there is no single one."""
        ...
