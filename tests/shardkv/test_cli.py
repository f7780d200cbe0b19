"""The command line without a cluster: usage, errors and exit statuses. No traceback, ever."""

import io
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from shardkv.cli.main import COMMANDS, run, shardkv

DEAD = "127.0.0.1:1"  # nobody listens there


@pytest.fixture(autouse=True)
def somewhere_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("SHARDKV_"):
            monkeypatch.delenv(name)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"]])
def test_help_is_usage_on_stdout(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    status, out, err = said(capsys, *arguments)

    assert (status, err) == (0, "")
    assert out.startswith("Usage: shardkv")
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "help"])
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    status, out, _ = said(capsys, command, "--help")

    assert status == 0
    assert out.startswith(f"Usage: shardkv {command}")
    assert said(capsys, "help", command)[1] == out
    assert "Example" in out


def leaves(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, by the words that lead to it."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None, (words, name)
        yield from leaves(found, (*words, name))


CTL = {words[1:]: command for words, command in leaves(shardkv) if words[0] == "ctl"}
CHANGES_NOTHING = [("query",), ("plan",), ("explain",), ("wait",), ("recover", "plan")]


def test_every_verb_of_ctl_that_changes_something_can_be_tried_first() -> None:
    options = {
        words: {name for parameter in command.params for name in parameter.opts}
        for words, command in CTL.items()
    }

    assert [words for words, known in options.items() if "--dry-run" not in known] == (
        CHANGES_NOTHING
    )


def examples(command: click.Command) -> list[list[str]]:
    """The command lines of `shardkv` that a command's help shows, in words."""
    lines = (command.epilog or "").replace("\b\n", "").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line.removeprefix("Example:"), comments=True)
        while "shardkv" in words:
            words = words[words.index("shardkv") + 1 :]
            ends = [at for at, word in enumerate(words) if word in ("|", "&&", "<", ">")]
            found.append(words[: min(ends, default=len(words))])
            words = words[len(found[-1]) :]
    return found


@pytest.mark.parametrize(
    ("words", "command"), [pytest.param(*leaf, id=" ".join(leaf[0])) for leaf in leaves(shardkv)]
)
def test_the_examples_of_every_help_are_understood(
    words: tuple[str, ...], command: click.Command
) -> None:
    """Each is a line to be copied: its options are there, its values in range."""
    shown = examples(command)

    for example in shown:
        parse(shardkv, "shardkv", example)
    ours = [example for example in shown if tuple(example[: len(words)]) == words]
    assert ours or words in WITHOUT_EXAMPLES, "none shows this command"


WITHOUT_EXAMPLES = [("version",), ("help",)]


def parse(
    command: click.Command, name: str, words: list[str], parent: click.Context | None = None
) -> None:
    """Read a command line as it is read to be run. Raises UsageError."""
    context = command.make_context(name, list(words), parent=parent)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        found, sub, rest = command.resolve_command(context, rest)
        assert sub is not None and found is not None
        parse(sub, found, rest, context)


@pytest.mark.parametrize("words", list(CTL), ids=" ".join)
def test_every_verb_of_ctl_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, out, _ = said(capsys, "ctl", *words, "--help")

    assert status == 0
    assert "Example" in out


def test_no_arguments_is_usage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys)

    assert (status, out) == (2, "")
    assert "Usage: shardkv" in err


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_the_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert said(capsys, *arguments)[:2] == (0, "shardkv 0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["gett", "k"], "unknown command 'gett'; did you mean 'get'?", id="a typo"),
        pytest.param(["nosuch"], "unknown command 'nosuch' (see", id="no word is near"),
        pytest.param(["ctl", "lev", "1"], "unknown command 'lev'; did you mean 'leave'?", id="ctl"),
        pytest.param(["zzz\x1b[31m"], "unknown command 'zzz\\x1b[31m'", id="an escape sequence"),
        pytest.param(["put", "k"], "Missing argument 'VALUE'", id="put without a value"),
        pytest.param(["get"], "Missing argument 'KEY'", id="get without a key"),
        pytest.param(["get", "k", "--tiemout", "1"], "No such option", id="an unknown option"),
        *(
            pytest.param(["get", "k", "--timeout", text], "must be a number of seconds above 0",
                         id=f"timeout {text!r}")
            for text in ["0", "-1", "1e3", "NaN", "inf", "", " 5 ", "+5", "5_000", "\uff15",
                         "3601", "9" * 400, "1.2.3"]
        ),
        *(
            pytest.param(["put", "k", "v", "--if-version", text], "", id=f"if-version {text!r}")
            for text in ["-1", "1e3", "+5", " 5 ", "5_000", "NaN", str(2**64), "x"]
        ),
        pytest.param(["put", "k", "v", "--if-version", str(2**63)],
                     f"{2**63} must be from 0 to {2**63 - 1}", id="if-version above all"),
        pytest.param(["put", "k", "v", "--if-version", "9" * 400],
                     "of at most 19 digits", id="if-version of 400 digits"),
        *(
            pytest.param([*command, ""], "must be a path of 1 to 4096", id=f"{command[0]} nowhere")
            for command in [["up", "--data"], ["node", "--data"],
                            ["node", "--data", "d", "--config"],
                            ["init", "--node", "n4", "--join", DEAD, "--data"]]
        ),
        pytest.param(["up", "--data", "/dev/null"], "--data /dev/null cannot be used", id="a file"),
        pytest.param(["up", "--data", "/dev/null/d"], "cannot be used", id="below a file"),
        *(
            pytest.param(["ctl", "join", f"{gid}=n1"], f"id from 1 to {2**31 - 1}", id=f"gid {gid}")
            for gid in [0, 2**31]
        ),
        *(
            pytest.param(["up", "--base-port", text], "", id=f"port {text!r}")
            for text in ["0", "-1", "65536", "abc", "0x50", "\uff18\uff10", "80"]
        ),
        *(
            pytest.param(["get", "k", "--endpoints", text], "--endpoints: ", id=f"at {text!r}")
            for text in ["", "host", "host:", ":7000", "::1:7000", "http://h:1", "a:1,,b:2",
                         "h" * 300 + ":1", "h:1\x00", "h:1\nx"]
        ),
        *(
            pytest.param(["ctl", *verb, "--", *text], "must be", id=f"ctl {verb[-1]} {text[0]!r}")
            for verb, text in [
                (["move"], ["-1", "1"]), (["move"], ["17", "0x2"]), (["leave"], ["-1"]),
                (["join"], ["-1=n1"]), (["query"], ["-1"]), (["transfer"], ["-1", "n1"]),
                (["add-replica"], ["1e3", "n1"]), (["remove-replica"], ["\uff11", "n1"]),
                (["replace"], ["x:n2", "n3"]), (["replace"], ["-1:n2", "n3"]),
                (["recover", "plan"], ["-1"]), (["abandon", "--cluster", "0"], ["0"]),
            ]
        ),
        pytest.param(["ctl", "join", "n4,n5"], "must be GID=NODE,NODE,...", id="no gid"),
        pytest.param(["ctl", "join", "3=n4,,n5"], "names no node between", id="no node"),
        pytest.param(["ctl", "join", "-3=n4"], "No such option", id="a negative gid"),
        pytest.param(["ctl", "leave", "x"], "must be a whole number", id="leave of no number"),
        pytest.param(["ctl", "move", "1", str(2**31)], "must be from 0 to", id="gid too large"),
        pytest.param(["ctl", "replace", "n1"], "Missing argument 'NEW'", id="replace by whom"),
        pytest.param(["ctl", "replace", "x:n1", "n2"], "'x:n1': the group", id="of no group"),
        pytest.param(["ctl", "replace", "-1:n1", "n2"], "No such option", id="of group -1"),
        pytest.param(["ctl", "transfer", str(2**31), "n1"], "must be from 0 to", id="no such gid"),
        pytest.param(["ctl", "add-replica", "one", "n1"], "must be a whole number", id="a word"),
        pytest.param(["import", "absent"], "no such directory", id="import from nowhere"),
        *(
            pytest.param(["list", "--limit", text], "", id=f"list of {text!r}")
            for text in ["0", "-1", "1e3", "", "x", str(2**64)]
        ),
        pytest.param(["get", "k", "--consistency", "strong"], "is not one of", id="no consistency"),
        pytest.param(["get", "k", "--max-age", "2"], "needs --consistency stale", id="not stale"),
        *(
            pytest.param(["get", "k", "--consistency", "stale", "--max-age", text],
                         "must be a number of seconds", id=f"an age of {text!r}")
            for text in ["-1", "NaN", "inf", "", "1e3"]
        ),
        pytest.param(["get", "k", "--consistency", "quorum", "--max-age", "2"],
                     "needs --consistency stale", id="a quorum is not stale"),
        pytest.param(["put", "k", "v", "--consistency", "stale"], "is not one of", id="stale put"),
        pytest.param(["batch"], "nothing to do", id="a batch of nothing"),
        pytest.param(["batch", "k", "v", "l"], "the last key, 'l', has no value", id="half a pair"),
        pytest.param(["batch", "k", "v", "--if-version", "k", "x"], "must be a whole number",
                     id="a batch if x"),
        pytest.param(["batch", "k", "v", "--if-version", "l", "1"], "is about no key written",
                     id="a condition of another key"),
        pytest.param(["batch", "k", "-", "l", "-"], "can be one value only", id="stdin twice"),
        pytest.param(["top", "--interval", "0"], "must be a number of seconds", id="top at once"),
        pytest.param(["top"], "no cluster: give --endpoints", id="top of none"),
        pytest.param(["export", "", ""], "must be a path", id="export to nowhere"),
        pytest.param(["export", "p"], "Missing argument", id="export of no place"),
        pytest.param(["get", "k"], "no cluster: give --endpoints or SHARDKV_ENDPOINTS", id="none"),
        pytest.param(["up", "--nodes", "2", "--replicas", "3", "--data", "d"],
                     "--replicas 3 needs as many nodes, there are 2", id="too few nodes"),
        pytest.param(["init", "--data", "d", "--node", "N 1", "--join", DEAD],
                     "--client is needed", id="a name without a number"),
        pytest.param(["init", "--data", "d", "--node", "n\x1b", "--client", "h:1", "--join", DEAD],
                     "--node: 'n\\x1b' must be 1 to 63", id="no name"),
        pytest.param(["init", "--data", "d", "--node", "n1", "--client", "0.0.0.0:1", "--join",
                      DEAD], "without TLS", id="public without TLS"),
        pytest.param(["init", "--data", "d", "--node", "n1", "--peer", "127.0.0.1:7400", "--join",
                      DEAD], "three different addresses", id="client and peer at one port"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = said(capsys, *arguments)

    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("shardkv")
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert not Path("d").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["get", "k"],
        ["put", "k", "v"],
        ["batch", "k", "v"],
        ["top"],
        ["append", "k", "v"],
        ["delete", "k"],
        ["list"],
        ["get", "k", "--consistency", "stale"],
        ["export", "k", "d"],
        ["status"],
        ["ctl", "query"],
        ["ctl", "leave", "1"],
        ["ctl", "replace", "n1", "n2"],
        ["ctl", "remove-replica", "1", "n1"],
        ["ctl", "wait"],
        ["init", "--data", "d", "--node", "n9", "--client", "127.0.0.1:1234", "--join"],
    ],
    ids=lambda command: " ".join(command),
)
def test_a_dead_cluster_is_3_within_the_time_and_names_each_reason(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    endpoints = f"{DEAD},127.0.0.1:2"
    at = [endpoints] if command[0] == "init" else ["--endpoints", endpoints]
    status, out, err = said(capsys, *command, *at, "--timeout", "1")

    assert (status, out) == (3, "")
    assert "no node answers" in err
    assert DEAD in err
    assert "127.0.0.1:2" in err
    assert err.count("\n") == 1
    assert not Path("d").exists()


def test_json_mode_has_errors_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "get", "k", "--endpoints", DEAD, "--json", "--timeout", "1")

    assert (status, out) == (3, "")
    error = json.loads(err)
    assert error["code"] == "Unavailable"
    assert "no node answers" in error["error"]
    assert error["hint"]


def test_the_environment_is_asked_before_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDKV_ENDPOINTS", "nonsense")
    status, _, err = said(capsys, "get", "k")

    assert status == 2
    assert "SHARDKV_ENDPOINTS: 'nonsense' must be HOST:PORT" in err


def test_a_damaged_cluster_file_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    Path("data/cluster.yaml").write_text("format: 1\nnodes: [\n")
    status, _, err = said(capsys, "get", "k")

    assert status == 2
    assert "data/cluster.yaml: damaged" in err


def test_a_value_that_is_too_long_is_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(b"x" * (1024 * 1024 + 1)))
    monkeypatch.setattr(sys, "stdin", stdin)
    status, _, err = said(capsys, "put", "k", "-", "--endpoints", DEAD)

    assert status == 1
    assert "value must be at most 1048576 bytes" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_for_each_shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_SHARDKV_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit) as ended:
        run([])

    assert ended.value.code == 0
    assert "shardkv" in capsys.readouterr().out


def test_completion_knows_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_SHARDKV_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "shardkv st")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        run([])

    assert capsys.readouterr().out.strip() == "plain,status"
