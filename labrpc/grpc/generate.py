"""Write the Python of this directory's .proto files: `python -m labrpc.grpc.generate`.

It needs grpcio-tools 1.75.0, the oldest version that we support: generated code refuses a runtime
older than its generator. That pins protobuf below 7, so give it an environment of its own:

    python -m venv /tmp/proto && /tmp/proto/bin/pip install grpcio-tools==1.75.0
    /tmp/proto/bin/python -m labrpc.grpc.generate
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

GENERATOR: Final = "1.75.0"
HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
PROTOS: Final = ("kv.proto", "wire.proto")


def generate(target: Path) -> None:
    """Write `*_pb2.py` and `*_pb2.pyi`, with their packages' directories, below `target`.

    Raises:
        subprocess.CalledProcessError: protoc found a mistake, and has said which.
    """
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}"]
    command += [f"--python_out={target}", f"--pyi_out={target}"]
    command += [str((HERE / name).relative_to(ROOT)) for name in PROTOS]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - a fixed command


if __name__ == "__main__":
    generate(ROOT)
