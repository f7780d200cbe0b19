"""`DIR/cluster.yaml`: what `shardkv up` wrote down about its cluster, for clients and for itself.

The groups' own logs and the controller are the truth; the file says how to find them, and what was
wished for while the cluster was being born. It is replaced as a whole (written aside, synced,
renamed), so a reader or a crash never sees half of it.
"""

import os
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from shardkv import config
from shardkv.config import ConfigError
from shardkv.text import quoted

NAME: Final = "cluster.yaml"
GROWING: Final = "growing"
"""Beside it while the groups of a restored cluster have one voter each: `up` grows them first."""
FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """Where a node listens, keeps its data and writes its log."""

    client: str
    peer: str
    http: str
    data: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """The whole file. `groups` and `controller` name the nodes of each group, founder first."""

    cluster: str  # the cluster id, in hex; "" before the first node was made
    shards: int
    nodes: dict[str, NodePlace]
    controller: tuple[str, ...]
    groups: dict[int, tuple[str, ...]]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Client addresses, in the order of the nodes."""
        return tuple(place.client for place in self.nodes.values())

    def render(self) -> str:
        """The file's text."""
        out = StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(
            {
                "format": FORMAT,
                "cluster": self.cluster,
                "shards": self.shards,
                "endpoints": list(self.endpoints),
                "nodes": {
                    node: {
                        "client": place.client,
                        "peer": place.peer,
                        "http": place.http,
                        "data": place.data,
                        "log": place.log,
                    }
                    for node, place in self.nodes.items()
                },
                "controller": list(self.controller),
                "groups": {gid: list(nodes) for gid, nodes in self.groups.items()},
            },
            out,
        )
        return out.getvalue()

    def write(self, directory: Path) -> None:
        """Replace `directory/cluster.yaml`, durably."""
        replace_file(directory / NAME, self.render())


def replace_file(path: Path, text: str) -> None:
    """Put `text` where `path` is, so that no crash leaves half of it."""
    aside = path.with_name(path.name + ".new")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> ClusterFile:
    """Read and check a cluster file.

    Raises:
        ConfigError: missing, unreadable, of another format, or a field that does not fit.
    """
    try:
        size = path.stat().st_size
        if size > config.FILE_BYTES_MAX:
            raise ConfigError(f"{path}: longer than {config.FILE_BYTES_MAX} bytes")
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path}: damaged, no YAML: {quoted(first)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: damaged: no mapping")
    if content.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: format {quoted(str(content.get('format')))} is not {FORMAT}, "
            "the one that this version reads"
        )
    try:
        return _checked(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: damaged: {quoted(str(error))}") from error


def _checked(content: dict[str, Any]) -> ClusterFile:
    cluster, shards = content["cluster"], content["shards"]
    if not isinstance(cluster, str) or len(cluster) not in {0, 32}:
        raise ValueError("cluster must be 32 hex digits")
    bytes.fromhex(cluster)
    config.TABLE["shards"].read(str(shards))
    nodes = {}
    for node, place in _mapping(content, "nodes").items():
        for field in ("client", "peer", "http"):
            config.address(place[field])
        config.path(place["data"])
        config.path(place["log"])
        nodes[config.name(node)] = NodePlace(
            client=place["client"],
            peer=place["peer"],
            http=place["http"],
            data=place["data"],
            log=place["log"],
        )
    if not nodes:
        raise ValueError("nodes must name at least one")
    groups = {int(gid): _nodes(names) for gid, names in _mapping(content, "groups").items()}
    controller = _nodes(content["controller"])
    return ClusterFile(
        cluster=cluster, shards=int(shards), nodes=nodes, controller=controller, groups=groups
    )


def _mapping(content: dict[str, Any], key: str) -> dict[Any, Any]:
    found = content[key]
    if not isinstance(found, dict):
        raise TypeError(f"{key} must be a mapping")
    return found


def _nodes(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("a group must be a list of node names")
    return tuple(names)
