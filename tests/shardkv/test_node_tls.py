"""Whose certificate is it? And what the files must be."""

from pathlib import Path

import pytest

from shardkv.config import ConfigError
from shardkv.node_tls import misnamed
from shardkv.tls import LOOK_SECONDS, TlsFiles, Watched, of_environment
from tests.support.certs import Authority


@pytest.mark.parametrize(
    ("names", "hosts", "admitted"),
    [
        pytest.param(["n2"], [], True, id="its node id"),
        pytest.param(["kv-2.kv"], ["kv-2.kv"], True, id="the host under which it is known"),
        pytest.param(["KV-2.kv"], ["kv-2.KV"], True, id="hosts have no case"),
        pytest.param(["10.0.0.2"], ["10.0.0.2"], True, id="the address under which it is known"),
        pytest.param(["*.kv"], ["kv-2.kv"], True, id="all hosts of a domain"),
        pytest.param(["*.kv"], ["a.kv-2.kv"], False, id="a wildcard is one label"),
        pytest.param(["*.kv"], ["kv"], False, id="a wildcard is a label"),
        pytest.param(["*"], ["kv-2.kv"], False, id="everything"),
        pytest.param(["n1", "kv-1.kv"], ["kv-2.kv"], False, id="another node"),
        pytest.param(["kv-2.kv"], [], False, id="a host of a node that nobody knows"),
        pytest.param(["someone"], ["kv-2.kv"], False, id="a client"),
        pytest.param([], ["kv-2.kv"], False, id="no names"),
    ],
)
def test_a_node_is_who_its_certificate_names(
    names: list[str], hosts: list[str], admitted: bool
) -> None:
    assert (misnamed("n2", names, hosts) is None) is admitted


def test_who_is_not_admitted_is_told_both_names_on_one_line() -> None:
    reason = misnamed("n2\n\x1b[31m", ["a\nb"], ["h"])

    assert reason == "the certificate names a\\nb, and neither node n2\\n\\x1b[31m nor h"


def test_a_node_looks_again_at_its_files_and_keeps_what_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pair that is half exchanged is not used: it will be whole a moment later."""
    now = 0.0
    authority = Authority(tmp_path / "ca")
    first, second = (authority.sign(name, ("localhost",)) for name in ("first", "second"))
    used = TlsFiles(first.ca, tmp_path / "tls.crt", tmp_path / "tls.key")
    copy(first, used)
    watched = Watched(used, lambda: now)
    was = watched.current()

    copy(TlsFiles(first.ca, second.certificate), used)
    now += LOOK_SECONDS
    assert watched.current() is was
    assert "the new certificates are not used: tls_key" in caplog.text

    copy(TlsFiles(first.ca, None, second.key), used)
    now += LOOK_SECONDS
    assert watched.current().certificate == Path(str(second.certificate)).read_bytes()


def copy(source: TlsFiles, target: TlsFiles) -> None:
    for one, other in zip(source[1:], target[1:], strict=True):
        if one is not None:
            Path(str(other)).write_bytes(Path(str(one)).read_bytes())
            Path(str(other)).chmod(0o600)


@pytest.mark.parametrize(
    ("days", "flaw"), [(1, ""), (-1, "the certificate that this end shows has expired")]
)
def test_a_certificate_that_others_will_refuse_is_seen_at_home(
    days: int, flaw: str, tmp_path: Path
) -> None:
    assert Authority(tmp_path).sign("n1", ("n1",), days=days).flaw() == flaw


def test_a_certificate_of_another_ca_than_the_one_trusted_is_seen_at_home(tmp_path: Path) -> None:
    mine = Authority(tmp_path / "a").sign("n1", ("n1",))
    other = Authority(tmp_path / "b", "other")

    assert "was not signed by the CA" in mine._replace(ca=other.certificate).flaw()


def test_a_clients_certificates_come_from_the_environment(tmp_path: Path) -> None:
    assert of_environment({}) is None
    assert of_environment({"SHARDKV_TLS_CA": "/ca"}) == TlsFiles(Path("/ca"))
    with pytest.raises(ConfigError, match="SHARDKV_TLS_CA is needed too"):
        of_environment({"SHARDKV_TLS_CERT": "/cert", "SHARDKV_TLS_KEY": "/key"})
