"""The part of plyvel that the project uses; the package ships no types.

Only `DB` and the errors are names of the module at run time; quote the others in annotations.
"""

from collections.abc import Iterator as _Iterator
from types import TracebackType

class Error(Exception): ...
class IOError(Error, OSError): ...
class CorruptionError(Error): ...
class IteratorInvalidError(Error): ...

class WriteBatch:
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def write(self) -> None: ...
    def __enter__(self) -> WriteBatch: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class Iterator(_Iterator[tuple[bytes, bytes]]):
    def __iter__(self) -> Iterator: ...
    def __next__(self) -> tuple[bytes, bytes]: ...
    def close(self) -> None: ...

class Snapshot:
    def get(
        self,
        key: bytes,
        default: bytes | None = ...,
        *,
        verify_checksums: bool = ...,
        fill_cache: bool = ...,
    ) -> bytes | None: ...
    def iterator(
        self,
        *,
        reverse: bool = ...,
        start: bytes | None = ...,
        stop: bytes | None = ...,
        include_start: bool = ...,
        include_stop: bool = ...,
        verify_checksums: bool = ...,
        fill_cache: bool = ...,
    ) -> Iterator: ...
    def close(self) -> None: ...

class DB:
    def __init__(
        self,
        name: str,
        *,
        create_if_missing: bool = ...,
        error_if_exists: bool = ...,
        paranoid_checks: bool | None = ...,
        write_buffer_size: int | None = ...,
        max_open_files: int | None = ...,
        lru_cache_size: int | None = ...,
        block_size: int | None = ...,
        block_restart_interval: int | None = ...,
        max_file_size: int | None = ...,
        compression: str | None = ...,
        bloom_filter_bits: int = ...,
    ) -> None: ...
    @property
    def closed(self) -> bool: ...
    def get(
        self,
        key: bytes,
        default: bytes | None = ...,
        *,
        verify_checksums: bool = ...,
        fill_cache: bool = ...,
    ) -> bytes | None: ...
    def put(self, key: bytes, value: bytes, *, sync: bool = ...) -> None: ...
    def delete(self, key: bytes, *, sync: bool = ...) -> None: ...
    def write_batch(self, *, transaction: bool = ..., sync: bool = ...) -> WriteBatch: ...
    def iterator(
        self,
        *,
        reverse: bool = ...,
        start: bytes | None = ...,
        stop: bytes | None = ...,
        include_start: bool = ...,
        include_stop: bool = ...,
        verify_checksums: bool = ...,
        fill_cache: bool = ...,
    ) -> Iterator: ...
    def snapshot(self) -> Snapshot: ...
    def compact_range(self, *, start: bytes | None = ..., stop: bytes | None = ...) -> None: ...
    def get_property(self, name: bytes) -> bytes | None: ...
    def approximate_size(self, start: bytes, stop: bytes) -> int: ...
    def close(self) -> None: ...
