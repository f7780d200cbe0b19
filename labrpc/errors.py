"""What can go wrong with a call.

RpcError
├── Unreachable   the request was certainly not handed to the peer: safe to repeat anywhere
├── Refused       the peer answered, and the answer is no (a code and a fixed text)
└── Unknown       sent, no answer in time: it may have happened; repeat only within a session

CannotListen      a port could not be opened
└── AddressInUse  because somebody listens there
"""


class RpcError(Exception):
    """A call did not bring an answer."""

    retriable = True


class Unreachable(RpcError):
    """The request never left, or no connection could be made before the deadline."""


class Refused(RpcError):
    """The peer turned the request down before doing anything.

    `code` is one of gRPC's names, such as `RESOURCE_EXHAUSTED` or `FAILED_PRECONDITION`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message

    retriable = False


class Unknown(RpcError):
    """The request was sent and no answer came in time: outcome unknown."""


class CannotListen(OSError):
    """A port could not be opened; nothing was started."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address, self.reason = address, reason


class AddressInUse(CannotListen):
    """Another process, or another server of this one, listens there."""

    def __init__(self, address: str) -> None:
        super().__init__(address, "the address is in use")
