"""The committed Python of the .proto files is what their generator writes."""

from importlib import metadata
from pathlib import Path

import pytest

from labrpc.grpc import generate


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """`make proto` writes it anew."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    if metadata.version("grpcio-tools") != generate.GENERATOR:
        pytest.skip(f"another generator than {generate.GENERATOR} writes other code")

    generate.generate(tmp_path)

    for proto in generate.PROTOS:
        for suffix in ("_pb2.py", "_pb2.pyi"):
            name = proto.removesuffix(".proto") + suffix
            fresh = (tmp_path / "labrpc" / "grpc" / name).read_text()
            assert (generate.HERE / name).read_text() == fresh, name


def test_every_proto_file_is_generated() -> None:
    assert sorted(path.name for path in generate.HERE.glob("*.proto")) == list(generate.PROTOS)
