from google.protobuf.message import Message

class HealthCheckRequest(Message):
    service: str
    def __init__(self, service: str = ...) -> None: ...

class HealthCheckResponse(Message):
    UNKNOWN: int
    SERVING: int
    NOT_SERVING: int
    SERVICE_UNKNOWN: int
    status: int
    def __init__(self, status: int = ...) -> None: ...
