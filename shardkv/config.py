"""Settings: files, environment and flags into frozen values.

One table says everything about a key: the fields of `NodeConfig` with their `key(...)`. Errors,
flags, `SHARDKV_...` names and `config.example.yaml` all come from it. A value is taken from the
first that has it: flag, environment, file, default; `Settings.origins` says which one won.

Whatever the source, a value arrives as text and is read by one parser, so `1e3` or `5_000` is as
wrong in a file as on a command line.
"""

import dataclasses
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from shardkv.text import quoted

PREFIX: Final = "SHARDKV_"
FILE_BYTES_MAX: Final = 1024 * 1024
PATH_CHARACTERS_MAX: Final = 4096
HOST_CHARACTERS_MAX: Final = 253
NO_COMPRESSION: Final = "none"
OFF: Final = "off"

_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_DIGITS_MAX: Final = 19  # as many as 2^63 - 1 has
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_URL: Final = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]{1,300}/?", re.ASCII)
_V6: Final = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?", re.ASCII)


class ConfigError(Exception):
    """A setting, an argument or a file of settings is wrong: exit status 2. The text is one line
    that says what, the rule, and what to do."""


class Kind(NamedTuple):
    """A sort of value: what it is called, and how text becomes one."""

    name: str
    read: Callable[[str], Any]  # raises ValueError with the rule that the text breaks
    many: bool = False  # a list: YAML's, or text with commas between


def whole_number(text: str) -> int:
    """The one accepted form of a number: digits, and a sign only if it is below 0."""
    if not _WHOLE.fullmatch(text):
        raise ValueError("must be a whole number, in digits, such as 5")
    if len(text.removeprefix("-")) > _DIGITS_MAX:
        raise ValueError(f"must be a whole number of at most {_DIGITS_MAX} digits")
    return int(text)


def name(text: str) -> str:
    """A node's name."""
    if not _NAME.fullmatch(text):
        raise ValueError("must be 1 to 63 of a-z, 0-9 and -, and not begin with -")
    return text


def address(text: str) -> str:
    """`host:port`, `[IPv6]:port`; the port from 1 to 65535."""
    form = "must be HOST:PORT, such as 127.0.0.1:7400 or [::1]:7400"
    if "://" in text:
        raise ValueError(f"{form}, without {quoted(text.split('://')[0])}://")
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port:
        raise ValueError(form)
    if host.startswith("[") or host.endswith("]"):
        if not (host.startswith("[") and host.endswith("]") and _V6.fullmatch(host[1:-1])):
            raise ValueError(form)
    elif ":" in host:
        raise ValueError(f"{form}; an IPv6 address goes into brackets")
    elif not _HOST.fullmatch(host) or len(host) > HOST_CHARACTERS_MAX:
        raise ValueError(f"{form}; the host is a name of at most {HOST_CHARACTERS_MAX} characters")
    try:
        number = whole_number(port)
    except ValueError:
        number = 0
    if not 1 <= number <= 65535:
        raise ValueError(f"{form}, with a port from 1 to 65535, not {quoted(port)}")
    return text


def host_of(address: str) -> str:
    """The host of `host:port`, without brackets."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it: by its literal address or as `localhost`, and not by
    any other name, which a name server may point anywhere."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_or_off(text: str) -> str:
    """As `address`; or `off`."""
    return text if text == OFF else address(text)


def url_or_off(text: str) -> str:
    """`http://HOST:PORT`, https too; or `off`."""
    if text != OFF and not _URL.fullmatch(text):
        raise ValueError("must be http://HOST:PORT, https://HOST:PORT, or off")
    return text


def host_or_off(text: str) -> str:
    """A host or an address of this machine, IPv6 with or without brackets; or `off`."""
    if text == OFF:
        return text
    bare = text.removeprefix("[").removesuffix("]")
    if _V6.fullmatch(bare) and ":" in bare:
        return bare
    if not _HOST.fullmatch(text) or len(text) > HOST_CHARACTERS_MAX:
        raise ValueError("must be a host or an address without a port, such as 0.0.0.0, or off")
    return text


def path(text: str) -> Path:
    """A path; `~` is the home directory."""
    if not text or "\0" in text or len(text) > PATH_CHARACTERS_MAX:
        raise ValueError(f"must be a path of 1 to {PATH_CHARACTERS_MAX} characters")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # no home directory
        raise ValueError(f"cannot be resolved: {error}") from error


def path_or_off(text: str) -> Path | None:
    """As `path`; or `off`."""
    return None if text == OFF else path(text)


def truth(text: str) -> bool:
    """`true` or `false`, nothing else."""
    if text not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text == "true"


def _word(text: str) -> str:
    return text


WHOLE: Final = Kind("whole number", whole_number)
NAME: Final = Kind("name", name)
ADDRESS: Final = Kind("address", address)
ADDRESS_OR_OFF: Final = Kind("address or off", address_or_off)
ADDRESSES: Final = Kind("addresses", address, many=True)
URL_OR_OFF: Final = Kind("URL or off", url_or_off)
HOST_OR_OFF: Final = Kind("host or off", host_or_off)
PATH: Final = Kind("path", path)
PATH_OR_OFF: Final = Kind("path or off", path_or_off)
TRUTH: Final = Kind("true or false", truth)
WORD: Final = Kind("word", _word)


class Key(NamedTuple):
    """What the table says about one key."""

    kind: Kind
    help: str
    default: Any = None  # None: no default, or off
    low: int | None = None
    high: int | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False

    def read(self, text: str | list[str]) -> Any:
        """A value from text; raises ValueError with the rule that it breaks."""
        if self.kind.many:
            items = text if isinstance(text, list) else text.split(",") if text else []
            values = tuple(self.kind.read(item) for item in items)
            if len(dict.fromkeys(values)) != len(values):
                raise ValueError("must not name one twice")
            return values
        if isinstance(text, list):
            raise ValueError(f"must be one {self.kind.name}, not a list")
        value = self.kind.read(text)
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise ValueError(f"must be from {self.low} to {self.high}{self.spaced_unit}")
        if self.choices and value not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return value

    @property
    def spaced_unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    @property
    def rule(self) -> str:
        """The accepted values, in words."""
        if self.choices:
            return " | ".join(self.choices)
        if self.low is not None:
            return f"{self.kind.name}, {self.low} to {self.high}{self.spaced_unit}"
        return self.kind.name


def _key(key: Key) -> Any:
    """A dataclass field that carries its row of the table."""
    if key.required:
        return dataclasses.field(metadata={"key": key})
    return dataclasses.field(default=key.default, metadata={"key": key})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What one node process runs by. `load` checks it across fields when it is made."""

    node: str = _key(Key(NAME, "this node's name, unique in its cluster", required=True))
    client: str = _key(Key(ADDRESS, "where clients connect", default="127.0.0.1:7400"))
    peer: str = _key(Key(ADDRESS, "where other nodes connect", default="127.0.0.1:7401"))
    http: str = _key(
        Key(ADDRESS_OR_OFF, "where HTTP is served: keys, status, metrics; off: nowhere",
            default="127.0.0.1:7402")
    )  # fmt: skip
    listen_host: str = _key(
        Key(HOST_OR_OFF, "where all ports are opened, with the port numbers of the addresses, such "
            "as 0.0.0.0: client, peer and http are then only what others are told; off: there",
            default=OFF)
    )  # fmt: skip
    http_get_writes: bool = _key(
        Key(TRUTH, "whether GET /set may write: whatever follows links then writes, too",
            default=False)
    )  # fmt: skip
    http_actions: str = _key(
        Key(WORD, "from where operators' actions are taken over HTTP: from this machine only, from "
            "whoever reaches the port, or from nowhere", default="loopback",
            choices=("loopback", "any", "off"))
    )  # fmt: skip
    seeds: tuple[str, ...] = _key(
        Key(ADDRESSES, "client addresses of nodes by which this one finds the cluster", default=())
    )
    insecure_listen: bool = _key(
        Key(TRUTH, "allow addresses that other machines reach without TLS: whoever reaches them "
            "then rules the store", default=False)
    )  # fmt: skip
    # Paths are immutable, which the linter does not know.
    tls_cert: Path | None = _key(  # noqa: RUF009
        Key(PATH_OR_OFF, "this node's certificate and those between it and the CA, in PEM, which "
            "names the hosts of client, peer and http; with it all ports speak TLS")
    )  # fmt: skip
    tls_key: Path | None = _key(  # noqa: RUF009
        Key(PATH_OR_OFF, "the certificate's key, in PEM, which only its owner and group may read")
    )
    tls_ca: Path | None = _key(  # noqa: RUF009
        Key(PATH_OR_OFF, "of the CA that signed the certificates of all nodes and clients, in PEM")
    )
    tls_client_auth: bool = _key(
        Key(TRUTH, "with TLS: whether clients must show a certificate of tls_ca too, over gRPC and "
            "HTTP (there only /livez and /readyz answer without); peers always must", default=True)
    )  # fmt: skip
    shards: int = _key(
        Key(WHOLE, "shards of the cluster, fixed when it is made; every node has the same",
            default=64, low=1, high=1024)
    )  # fmt: skip
    heartbeat_ms: int = _key(
        Key(WHOLE, "how often a leader tells its group that it lives", default=100, low=10,
            high=60_000, unit="ms")
    )  # fmt: skip
    election_min_ms: int = _key(
        Key(WHOLE, "the least time without a leader before a node stands for election; at least "
            "3 x heartbeat_ms, better 5 x", default=500, low=30, high=600_000, unit="ms")
    )  # fmt: skip
    election_max_ms: int = _key(
        Key(WHOLE, "the longest such time; above election_min_ms, so that two rarely stand at "
            "once", default=1000, low=31, high=1_200_000, unit="ms")
    )  # fmt: skip
    raft_log_bytes_max: int = _key(
        Key(WHOLE, "a group's log is cut to what its snapshot lacks when it grows past this",
            default=32 * 1024 * 1024, low=64 * 1024, high=2**40, unit="bytes")
    )  # fmt: skip
    raft_log_keep_entries: int = _key(
        Key(WHOLE, "entries kept behind the snapshot, so that a slow follower needs none",
            default=2_000, low=0, high=10_000_000)
    )  # fmt: skip
    heal: bool = _key(
        Key(TRUTH, "whether the cluster mends itself: replicas of dead nodes are made anew "
            "elsewhere, leaderships are spread evenly", default=True)
    )  # fmt: skip
    heal_grace_seconds: int = _key(
        Key(WHOLE, "how long a node must be silent before its replicas are made anew elsewhere",
            default=600, low=1, high=31_536_000, unit="s")
    )  # fmt: skip
    free_percent_min: int = _key(
        Key(WHOLE, "with less of its disk free a node takes no clients' writes but deletes, and "
            "gives up leaderships; 0: it does not look", default=5, low=0, high=50, unit="%")
    )  # fmt: skip
    ballast_bytes: int = _key(
        Key(WHOLE, "a file that takes room, given up so that a node can start on a full disk; at "
            "most 5 % of the disk; 0: none", default=72 * 1024 * 1024, low=0, high=2**40,
            unit="bytes")
    )  # fmt: skip
    compression: str = _key(
        Key(WORD, "how values are kept on disk: snappy takes less of it where they shrink, and up "
            "to a third more of the processor; what is there already stays as it is until it is "
            "rewritten", default=NO_COMPRESSION, choices=(NO_COMPRESSION, "snappy"))
    )  # fmt: skip
    trace_endpoint: str = _key(
        Key(URL_OR_OFF, "where spans of traced writes go, by OTLP over HTTP, such as "
            "http://127.0.0.1:4318; needs the extra `otel`; off: nothing is traced", default=OFF)
    )  # fmt: skip
    trace_per_million: int = _key(
        Key(WHOLE, "of a million requests over HTTP that name no trace of their own, so many are "
            "traced", default=1_000, low=0, high=1_000_000)
    )  # fmt: skip
    log_level: str = _key(
        Key(WORD, "the least urgent lines that are written", default="info",
            choices=("debug", "info", "warning", "error"))
    )  # fmt: skip
    log_to: str = _key(
        Key(WORD, "where the log goes: to DIR/node.log, or to standard error", default="file",
            choices=("file", "stderr"))
    )  # fmt: skip
    log_format: str = _key(
        Key(WORD, "how a line of the log is written", default="text", choices=("text", "json"))
    )
    log_bytes_max: int = _key(
        Key(WHOLE, "the log file is set aside as .1 when it grows past this",
            default=16 * 1024 * 1024, low=64 * 1024, high=2**40, unit="bytes")
    )  # fmt: skip
    log_files: int = _key(
        Key(WHOLE, "log files kept beside the current one", default=3, low=1, high=100)
    )

    def check(self) -> list[str]:
        """Raise for what does not fit together; return warnings for what barely does.

        Raises:
            ConfigError: names the keys and the rule.
        """
        if self.election_min_ms < 3 * self.heartbeat_ms:
            raise ConfigError(
                f"election_min_ms ({self.election_min_ms}) must be at least 3 x heartbeat_ms "
                f"({self.heartbeat_ms}): one late heartbeat would depose a healthy leader"
            )
        if self.election_max_ms <= self.election_min_ms:
            raise ConfigError(
                f"election_max_ms ({self.election_max_ms}) must be above election_min_ms "
                f"({self.election_min_ms}): equal time-outs split every vote"
            )
        own = [self.bound(one) for one in (self.client, self.peer, self.http)]
        if len(dict.fromkeys(own)) < len(own):
            raise ConfigError("client, peer and http must be three different addresses")
        warnings = []
        if self.tls and self.insecure_listen:
            warnings.append("insecure_listen is set and changes nothing: the ports speak TLS")
        elif self.insecure_listen:
            warnings.append(
                "insecure_listen is set and there is no TLS: whoever reaches the ports rules the "
                "store, and whoever sees the traffic reads it"
            )
        elif self.open_to and not self.tls:
            key, value = self.open_to
            raise ConfigError(
                f"{key} {quoted(value)} can be reached by other machines, and there is no TLS: "
                "refusing to listen on a public address without TLS. Set tls_cert, tls_key and "
                "tls_ca, use a loopback address, or set insecure_listen: true"
            )
        if self.tls and self.open_to and not self.tls_client_auth:
            warnings.append(
                "tls_client_auth is off: whoever reaches the client or HTTP port rules the store"
            )
        if self.election_min_ms < 5 * self.heartbeat_ms:
            warnings.append(
                f"election_min_ms ({self.election_min_ms}) is below the recommended 5 x "
                f"heartbeat_ms ({self.heartbeat_ms})"
            )
        return warnings

    @property
    def tls(self) -> bool:
        """Whether the ports speak TLS.

        Raises:
            ConfigError: only some of the files are named.
        """
        files = {"tls_cert": self.tls_cert, "tls_key": self.tls_key, "tls_ca": self.tls_ca}
        lacking = [key for key, file in files.items() if file is None]
        if lacking and len(lacking) < len(files):
            raise ConfigError(
                f"{', '.join(lacking)} must be set too: TLS takes tls_cert, tls_key and tls_ca"
            )
        return not lacking

    @property
    def open_to(self) -> tuple[str, str] | None:
        """A setting by which other machines reach this node, and its value; None: they do not."""
        if self.listen_host != OFF:
            return None if is_loopback(self.listen_host) else ("listen_host", self.listen_host)
        for key, value in (("client", self.client), ("peer", self.peer), ("http", self.http)):
            if value != OFF and not is_loopback(host_of(value)):
                return key, value
        return None

    def bound(self, address: str) -> str:
        """Where a port of this node is opened."""
        if self.listen_host == OFF or address == OFF:
            return address
        host = f"[{self.listen_host}]" if ":" in self.listen_host else self.listen_host
        return f"{host}:{address.rpartition(':')[2]}"


TABLE: Final[Mapping[str, Key]] = {
    field.name: field.metadata["key"] for field in dataclasses.fields(NodeConfig)
}


class Settings(NamedTuple):
    """A checked configuration, where each value came from, and what is barely right."""

    config: NodeConfig
    origins: Mapping[str, str]  # key -> "flag", "environment", "file", "default"
    warnings: tuple[str, ...]


class Given(NamedTuple):
    """A value as some source wrote it."""

    text: str | list[str]
    where: str  # for messages: "--client", "SHARDKV_CLIENT", "node.yaml line 3"
    origin: str


def load(
    *,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Settle every key: flag, environment, file, default, in this order.

    Args:
        flags: Key to text, only those given.
        environment: All of it; names that begin with `SHARDKV_` and are keys count.
        file: A YAML file; it must exist if it is named.

    Raises:
        ConfigError: the first thing that is wrong, with its place and rule.
    """
    given: dict[str, Given] = {}
    if file is not None:
        given |= read_file(file)
    given |= {
        key: Given(environment[variable(key)], variable(key), "environment")
        for key in TABLE
        if environment is not None and variable(key) in environment
    }
    for key, text in (flags or {}).items():
        given[key] = Given(text, flag(key), "flag")
    values = {key: _read(TABLE[key], one) for key, one in given.items()}
    missing = [key for key, row in TABLE.items() if row.required and key not in values]
    if missing:
        place = f"{file}" if file is not None else "the settings"
        raise ConfigError(f"{place}: missing required key {', '.join(missing)}")
    config = NodeConfig(**values)
    warnings = config.check()
    origins = {key: given[key].origin if key in given else "default" for key in TABLE}
    return Settings(config, origins, tuple(warnings))


def environment() -> Mapping[str, str]:
    """The process's environment: the one place that reads it."""
    return os.environ


def disable_grpc_fork_handlers() -> None:
    """For a process that starts others while it uses gRPC, and never forks itself. Before gRPC is
    imported: it reads its settings from the environment, then."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def silence_grpc() -> None:
    """For a command whose standard error is for people: gRPC would add a line of its own to each
    handshake that fails. Before gRPC is imported, as above."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def variable(key: str) -> str:
    """The environment's name of a key."""
    return PREFIX + key.upper()


def flag(key: str) -> str:
    """The command line's name of a key."""
    return "--" + key.replace("_", "-")


def did_you_mean(word: str, words: list[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no word is near."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _read(key: Key, given: Given) -> Any:
    try:
        return key.read(given.text)
    except ValueError as error:
        text = given.text if isinstance(given.text, str) else ",".join(given.text)
        raise ConfigError(f"{given.where}: {quoted(text)} {error}") from error


def read_file(file: Path) -> dict[str, Given]:
    """The keys of a YAML file, as text with their lines.

    Raises:
        ConfigError: unreadable, no mapping, an unknown key, or one key twice.
    """
    given: dict[str, Given] = {}
    lines: dict[str, int] = {}
    for key, value, line in mapping_items(read_yaml(file), str(file)):
        if key in lines:
            raise ConfigError(
                f"{file}: key {quoted(key)} is set twice, in lines {lines[key]} and {line}"
            )
        if key not in TABLE:
            raise ConfigError(
                f"{file} line {line}: unknown key {quoted(key)}{did_you_mean(key, list(TABLE))}"
            )
        lines[key] = line
        if isinstance(value, SequenceNode):
            items = [item.value for item in value.value if isinstance(item, ScalarNode)]
            if len(items) != len(value.value):
                raise ConfigError(f"{file} line {line}: {key} must be a list of plain values")
            given[key] = Given(items, f"{file} line {line}: {key}", "file")
        elif isinstance(value, ScalarNode):
            given[key] = Given(value.value, f"{file} line {line}: {key}", "file")
        else:
            raise ConfigError(f"{file} line {line}: {key} must be {TABLE[key].rule}")
    return given


def mapping_items(node: Any, place: str) -> list[tuple[str, Any, int]]:
    """(key, value node, line) of a YAML mapping; an empty document has none."""
    if node is None or (isinstance(node, ScalarNode) and node.value == ""):
        return []
    if not isinstance(node, MappingNode):
        raise ConfigError(f"{place}: must be a mapping, with lines such as `node: n1`")
    return [(key.value, value, key.start_mark.line + 1) for key, value in node.value]


def read_yaml(file: Path) -> Any:
    """The node tree of a YAML file: nothing in it is turned into objects, and lines are kept."""
    try:
        if file.is_dir():
            raise ConfigError(f"{file}: is a directory, not a file of settings")
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{file}: longer than {FILE_BYTES_MAX} bytes")
    try:
        return YAML(typ="safe", pure=True).compose(data.decode("utf-8"))
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{file}{line}: no YAML: {error.problem or error.context}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no YAML: {quoted(str(error))}") from error


def example() -> str:
    """The text of `config.example.yaml`: every key, its rule and its default."""
    lines = [
        "# Every key of a node's settings, with its default. Written by `make config`.",
        "# `shardkv init` writes DIR/node.yaml with the keys that a node needs. A flag wins over",
        "# the environment (SHARDKV_ and the key's name), that over the file, that over the",
        "# default.",
        "",
    ]
    for key, row in TABLE.items():
        lines += [f"# {line}" for line in textwrap.wrap(row.help, 98, break_on_hyphens=False)]
        lines.append(f"# ({row.rule}; {variable(key)}, {flag(key)})")
        if row.required:
            lines.append(f"{key}: n1")
        else:
            lines.append(f"#{key}: {_yaml(row.default)}")
        lines.append("")
    return "\n".join(lines)


def _yaml(value: object) -> str:
    if value is None:
        return OFF
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if isinstance(value, int):
        return str(value)
    return f'"{value}"' if ":" in str(value) else str(value)


def render(values: Mapping[str, object], heading: str) -> str:
    """The text of a settings file that holds `values`; `load` reads it back."""
    unknown = [key for key in values if key not in TABLE]
    assert not unknown, unknown
    return "\n".join([f"# {heading}", *(f"{k}: {_yaml(v)}" for k, v in values.items()), ""])


if __name__ == "__main__":
    sys.stdout.write(example())
