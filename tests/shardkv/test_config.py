"""Settings: one table, four sources, and an error that says what, the rule, and where."""

from pathlib import Path

import pytest

from shardkv import config
from shardkv.config import ConfigError, load

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "node.yaml"
    file.write_text(text)
    return file


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file=written(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, "node: n1\nheartbeat_ms: 50\nlog_level: error\nlog_files: 7\n")
    settings = load(
        flags={"log_level": "debug"},
        environment={"SHARDKV_LOG_LEVEL": "warning", "SHARDKV_LOG_FILES": "9", "PATH": "/bin"},
        file=file,
    )

    assert settings.config.log_level == "debug"
    assert settings.config.log_files == 9
    assert settings.config.heartbeat_ms == 50
    assert settings.config.election_max_ms == 1000
    picked = ("log_level", "log_files", "heartbeat_ms", "election_max_ms")
    origins = [settings.origins[key] for key in picked]
    assert origins == ["flag", "environment", "file", "default"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("electon_min_ms: 1", "line 2: unknown key 'electon_min_ms'; did you mean "
                     "'election_min_ms'?", id="a key with a letter missing"),
        pytest.param("shards: 1\nshards: 2", "'shards' is set twice, in lines 2 and 3", id="twice"),
        pytest.param("node: n2", "'node' is set twice, in lines 1 and 2", id="the required twice"),
        pytest.param("heartbeat_ms: 0", "must be from 10 to 60000 ms", id="zero"),
        pytest.param("heartbeat_ms: 1e3", "must be a whole number", id="exponent"),
        pytest.param("heartbeat_ms: +100", "must be a whole number", id="plus sign"),
        pytest.param("heartbeat_ms: 1_00", "must be a whole number", id="underscore"),
        pytest.param("heartbeat_ms: 0x64", "must be a whole number", id="hexadecimal"),
        pytest.param("heartbeat_ms: .nan", "must be a whole number", id="not a number"),
        pytest.param("heartbeat_ms: \uff11\uff10", "must be a whole number", id="full-width"),
        pytest.param("heartbeat_ms: " + "9" * 400, "must be a whole number", id="400 digits"),
        pytest.param("heartbeat_ms: [1]", "must be one whole number, not a list", id="a list"),
        pytest.param("heartbeat_ms: {a: 1}", "must be whole number, 10 to 60000", id="a mapping"),
        pytest.param("heartbeat_ms: 200", "at least 3 x heartbeat_ms", id="too near"),
        pytest.param("election_max_ms: 500", "must be above election_min_ms", id="no spread"),
        pytest.param("log_level: loud", "must be one of debug, info", id="no such level"),
        pytest.param("insecure_listen: yes", "must be true or false", id="yes"),
        pytest.param("client: 127.0.0.1:7401", "three different addresses", id="peer's port"),
        pytest.param("client: 0.0.0.0:7400", "no TLS", id="public without TLS"),
        pytest.param("peer: 10.0.0.1:7401", "without TLS", id="a public peer port"),
        pytest.param("http: '[::]:7402'", "without TLS", id="a public HTTP port"),
        pytest.param("listen_host: 0.0.0.0", "without TLS", id="public ports"),
        pytest.param("client: localhost.example:7400", "without TLS", id="localhost of others"),
        pytest.param("client: 127.0.0.1.example:7400", "without TLS", id="no literal address"),
        pytest.param("listen_host: a b", "a host or an address", id="no host"),
        pytest.param("tls_cert: /c\ntls_key: /k", "tls_ca must be set too", id="no CA"),
        pytest.param("seeds: ['a:1', 'a:1']", "must not name one twice", id="a seed twice"),
        pytest.param("seeds: [[a]]", "a list of plain values", id="a list of lists"),
        pytest.param("a: [", "line 3: no YAML", id="cut short"),
        pytest.param("\x1b[31mred: 1", "no YAML", id="an escape in the file"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, f"node: n1\n{text}\n")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_lacks_what_is_required(tmp_path: Path, text: str) -> None:
    assert "missing required key node" in refused(tmp_path, text)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert "must be a mapping" in refused(tmp_path, "- n1\n")


def test_a_missing_file_a_directory_and_bytes_are_refused_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"node: \xff\xfe\n")
    cases = {"absent": "cannot be read: No such file", ".": "is a directory", "bytes": "no YAML"}
    for name, said in cases.items():
        with pytest.raises(ConfigError) as caught:
            load(file=tmp_path / name)
        assert str(tmp_path) in str(caught.value)
        assert said in str(caught.value)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    assert "longer than" in refused(tmp_path, "#" * (config.FILE_BYTES_MAX + 1))


def test_a_wrong_flag_and_a_wrong_variable_are_named_as_they_were_given() -> None:
    with pytest.raises(ConfigError, match=r"^--heartbeat-ms: 'x' must be a whole number"):
        load(flags={"node": "n1", "heartbeat_ms": "x"})
    with pytest.raises(ConfigError, match=r"^SHARDKV_NODE: '\\x1b\[1mn1' must be 1 to 63"):
        load(environment={"SHARDKV_NODE": "\x1b[1mn1"})


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":7000", "::1:7000", "http://h:1", "h" * 300 + ":1", "h.:1", "h:0",
     "h:-1", "h:65536", "h:abc", "h:0x50", "h:\uff18", "[::1:7000", "h:1\n", "h\x00:1", "a b:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        config.address(text)


@pytest.mark.parametrize("text", ["host:1", "127.0.0.1:65535", "[::1]:7000", "a-b.c:80"])
def test_what_is_an_address_is_kept(text: str) -> None:
    assert config.address(text) == text


def test_a_spread_between_safe_and_recommended_is_a_warning(tmp_path: Path) -> None:
    settings = load(file=written(tmp_path, "node: n1\nheartbeat_ms: 150\n"))

    assert [w for w in settings.warnings if "below the recommended 5 x" in w] != []


def test_every_limit_holds_on_both_sides(tmp_path: Path) -> None:
    """For each number of the table: low - 1 and high + 1 refused, low and high read."""
    for key, row in config.TABLE.items():
        if row.low is None or row.high is None:
            continue
        assert [row.read(str(row.low)), row.read(str(row.high))] == [row.low, row.high], key
        for beyond in (row.low - 1, row.high + 1):
            with pytest.raises(ValueError, match=f"must be from {row.low} to {row.high}"):
                row.read(str(beyond))


def test_the_defaults_pass_their_own_checks() -> None:
    settings = load(flags={"node": "n1"})

    assert settings.warnings == ()


def test_the_example_is_current_and_loads(tmp_path: Path) -> None:
    """`make config` writes it."""
    text = (ROOT / "config.example.yaml").read_text()

    assert text == config.example()
    assert load(file=ROOT / "config.example.yaml").config == load(flags={"node": "n1"}).config
    every = "\n".join(line.lstrip("#") for line in text.splitlines() if not line.startswith("# "))
    assert load(file=written(tmp_path, every)).config == load(flags={"node": "n1"}).config
    assert max(map(len, text.splitlines())) <= 120, "no linter takes a longer line"


def test_what_init_renders_is_read_back(tmp_path: Path) -> None:
    values = {"node": "n4", "client": "127.0.0.1:9000", "seeds": ("h:1", "[::1]:2"), "shards": 12,
              "insecure_listen": True}  # fmt: skip
    settings = load(file=written(tmp_path, config.render(values, "for a test")))

    assert {key: getattr(settings.config, key) for key in values} == values


def test_open_ports_are_named_at_each_start_with_what_they_lack() -> None:
    def warned(**flags: str) -> tuple[str, ...]:
        return load(flags={"node": "n1", **flags}).warnings

    tls = {"tls_cert": "/c", "tls_key": "/k", "tls_ca": "/a"}
    public = {"listen_host": "0.0.0.0"}
    assert warned() == warned(**tls) == warned(**tls, **public) == ()
    assert "there is no TLS: whoever reaches" in warned(insecure_listen="true", **public)[0]
    assert "changes nothing" in warned(insecure_listen="true", **tls)[0]
    assert "tls_client_auth is off" in warned(tls_client_auth="false", **tls, **public)[0]


@pytest.mark.parametrize(
    ("listen_host", "bound"),
    [("off", "kv-0.kv:7400"), ("0.0.0.0", "0.0.0.0:7400"), ("::", "[::]:7400"),
     ("[::1]", "[::1]:7400")],
)  # fmt: skip
def test_ports_are_opened_at_listen_host(listen_host: str, bound: str) -> None:
    given = {"node": "n1", "client": "kv-0.kv:7400", "insecure_listen": "true"}
    settings = load(flags={**given, "listen_host": listen_host}).config

    assert settings.bound(settings.client) == bound
    assert settings.client == "kv-0.kv:7400"


def test_ports_at_one_host_must_differ() -> None:
    with pytest.raises(ConfigError, match="three different addresses"):
        load(flags={"node": "n1", "listen_host": "127.0.0.1", "client": "a:1", "peer": "b:1"})
