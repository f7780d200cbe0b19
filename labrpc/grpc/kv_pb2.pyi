from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINEARIZABLE: _ClassVar[Consistency]
    SPREAD: _ClassVar[Consistency]
    STALE: _ClassVar[Consistency]
LINEARIZABLE: Consistency
SPREAD: Consistency
STALE: Consistency

class GetRequest(_message.Message):
    __slots__ = ("key", "consistency", "max_age_seconds", "session")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    consistency: Consistency
    max_age_seconds: float
    session: str
    def __init__(self, key: _Optional[bytes] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., max_age_seconds: _Optional[float] = ..., session: _Optional[str] = ...) -> None: ...

class GetReply(_message.Message):
    __slots__ = ("found", "value", "version", "session")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    found: bool
    value: bytes
    version: int
    session: str
    def __init__(self, found: bool = ..., value: _Optional[bytes] = ..., version: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("key", "value", "if_version", "session", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    if_version: int
    session: str
    request_id: str
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., if_version: _Optional[int] = ..., session: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class PutReply(_message.Message):
    __slots__ = ("version", "session")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    session: str
    def __init__(self, version: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("key", "value", "session", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    session: str
    request_id: str
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., session: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class AppendReply(_message.Message):
    __slots__ = ("version", "session")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    session: str
    def __init__(self, version: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("key", "session", "if_version", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    session: str
    if_version: int
    request_id: str
    def __init__(self, key: _Optional[bytes] = ..., session: _Optional[str] = ..., if_version: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteReply(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class BatchRequest(_message.Message):
    __slots__ = ("operations", "session", "request_id")
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[BatchOperation]
    session: str
    request_id: str
    def __init__(self, operations: _Optional[_Iterable[_Union[BatchOperation, _Mapping]]] = ..., session: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class BatchOperation(_message.Message):
    __slots__ = ("key", "put", "append", "delete", "if_version")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    put: bytes
    append: bytes
    delete: bool
    if_version: int
    def __init__(self, key: _Optional[bytes] = ..., put: _Optional[bytes] = ..., append: _Optional[bytes] = ..., delete: bool = ..., if_version: _Optional[int] = ...) -> None: ...

class BatchReply(_message.Message):
    __slots__ = ("versions", "session")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    session: str
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., session: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("prefix", "after", "page_token", "limit", "values", "consistency", "max_age_seconds", "session")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    prefix: bytes
    after: bytes
    page_token: str
    limit: int
    values: bool
    consistency: Consistency
    max_age_seconds: float
    session: str
    def __init__(self, prefix: _Optional[bytes] = ..., after: _Optional[bytes] = ..., page_token: _Optional[str] = ..., limit: _Optional[int] = ..., values: bool = ..., consistency: _Optional[_Union[Consistency, str]] = ..., max_age_seconds: _Optional[float] = ..., session: _Optional[str] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("rows", "next_page_token", "session")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[ListedRow]
    next_page_token: str
    session: str
    def __init__(self, rows: _Optional[_Iterable[_Union[ListedRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., session: _Optional[str] = ...) -> None: ...

class ListedRow(_message.Message):
    __slots__ = ("key", "version", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    version: int
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., version: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "cluster", "config_number", "groups")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_NUMBER_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    node: str
    cluster: bytes
    config_number: int
    groups: _containers.RepeatedCompositeFieldContainer[GroupStatus]
    def __init__(self, node: _Optional[str] = ..., cluster: _Optional[bytes] = ..., config_number: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[GroupStatus, _Mapping]]] = ...) -> None: ...

class GroupStatus(_message.Message):
    __slots__ = ("gid", "role", "leader", "term", "commit", "applied")
    GID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    gid: int
    role: str
    leader: str
    term: int
    commit: int
    applied: int
    def __init__(self, gid: _Optional[int] = ..., role: _Optional[str] = ..., leader: _Optional[str] = ..., term: _Optional[int] = ..., commit: _Optional[int] = ..., applied: _Optional[int] = ...) -> None: ...
