"""gRPC as `labrpc.transport.Transport`. Its engine is chosen before anything imports `grpc`."""

import labrpc.grpc.engine  # noqa: F401  (see there)
