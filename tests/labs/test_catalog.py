"""Which of our tests is which official one, what a user may call them, and the table of them."""

import re
from pathlib import Path

import pytest

from labs.cli import catalog
from labs.cli.official import OFFICIAL

ROOT = Path(__file__).resolve().parents[2]
RAFT = "tests/labs/raft/test_3b_log.py::"


def test_the_official_suites_are_all_there() -> None:
    """As the course has them: 108 rows of 2024, 114 of 2025, 173 names in all."""
    by_edition = {
        edition: sum(official.edition in ("both", edition) for official in OFFICIAL)
        for edition in ("2024", "2025")
    }

    assert len(OFFICIAL) == len({(o.edition, o.lab, o.name) for o in OFFICIAL}) == 173
    assert by_edition == {"2024": 108, "2025": 114}


@pytest.mark.parametrize(
    ("nodeid", "edition", "official"),
    [
        (f"{RAFT}test_rpc_bytes_3b[2024]", "2024", ("3 raft", "TestRPCBytes3B")),
        ("tests/labs/raft/x.py::test_reelection_3a[2025]", "2025", ("3 raft", "TestReElection3A")),
        ("tests/labs/raft/x.py::test_persist1_3c[2025]", "2025", ("3 raft", "TestPersist13C")),
        ("tests/labs/kvraft/x.py::test_speed_4b", "2024", ("4 kvraft", "TestSpeed4B")),
        ("tests/labs/kvraft/x.py::test_speed_4b", "2025", ("4 kvraft1", "TestSpeed4B")),
        (
            "tests/labs/shardctrler/x.py::test_basic_leave_join_5a",
            None,
            ("5A shardctrler", "TestBasic/LeaveJoin"),
        ),
        (
            "tests/labs/shardkv/x.py::test_concurrent1_5b",
            None,
            ("5 shardkv", "TestConcurrent1_5B"),
        ),
        ("tests/labs/mapreduce/x.py::test_map_parallelism", None, ("1 mr", "map parallelism")),
        ("tests/labrpc/test_labnet.py::test_regression_1", None, ("labrpc", "TestRegression1")),
    ],
)
def test_a_test_is_recognised(nodeid: str, edition: str | None, official: tuple[str, str]) -> None:
    test = catalog.recognise(nodeid, edition)

    assert test is not None
    assert (test.official.lab, test.official.name) == official


@pytest.mark.parametrize(
    ("nodeid", "edition"),
    [
        ("tests/labs/raft/test_courier.py::test_a_lost_call", None),
        ("tests/labs/elsewhere/x.py::test_rpc_bytes_3b", None),
        ("tests/labs/kvraft/x.py::test_basic_4a", "2025"),
    ],
)
def test_what_is_no_official_test_is_left_out(nodeid: str, edition: str | None) -> None:
    assert catalog.recognise(nodeid, edition) is None


@pytest.mark.parametrize("what", ["3B", "3b", "3", "raft", "RAFT", "all"])
@pytest.mark.parametrize("name", [None, "rpc_bytes", "RPCBytes", "test_rpc_bytes_3b"])
@pytest.mark.parametrize("edition", [None, "2024"])
def test_a_test_goes_by_many_names(what: str, name: str | None, edition: str | None) -> None:
    test = catalog.recognise(f"{RAFT}test_rpc_bytes_3b[2024]", "2024")

    assert test is not None
    assert catalog.matches(test, what, name, edition)
    assert test.official.where in catalog.places_of(what)


@pytest.mark.parametrize(
    ("what", "name", "edition"),
    [("3A", None, None), ("kvraft", None, None), ("3B", "count", None), ("3B", None, "2025")],
)
def test_another_is_not_meant(what: str, name: str | None, edition: str | None) -> None:
    test = catalog.recognise(f"{RAFT}test_rpc_bytes_3b[2024]", "2024")

    assert test is not None
    assert not catalog.matches(test, what, name, edition)


def test_only_what_can_be_meant_is_read() -> None:
    assert catalog.places_of("3C") == ["tests/labs/raft"]
    assert catalog.places_of("mr") == catalog.places_of("1") == ["tests/labs/mapreduce"]
    assert catalog.places_of("5A") == [
        "tests/labs/shardctrler",
        "tests/labs/shardkv",
        "tests/labs/shardgrp",
    ]
    assert catalog.places_of("9") == []


def test_the_table_says_what_passed_what_failed_and_what_is_missing() -> None:
    ids = [f"{RAFT}test_count_3b[{edition}]" for edition in ("2024", "2025")]
    tests = [catalog.recognise(nodeid, nodeid[-5:-1]) for nodeid in ids]

    lines = catalog.table([test for test in tests if test is not None], ids[1:]).splitlines()

    assert f"| 2024 | 3 raft | TestCount3B | `{ids[0]}` | yes |" in lines
    assert f"| 2025 | 3 raft | TestCount3B | `{ids[1]}` | **no** |" in lines
    assert "| both | 3 raft | TestBackup3B |  | not there yet |" in lines


def test_the_table_puts_our_seconds_beside_those_of_the_official_suite() -> None:
    spent = {"3 raft": catalog.Spent(56, 12.34, 900.4), "labgob": catalog.Spent(3, 0.1, 0.0)}

    lines = catalog.table([], [], spent).splitlines()

    assert "| 3 raft | 56 | 12.3 | 900 | 360 |" in lines
    assert "| labgob | 3 | 0.1 | 0 |  |" in lines


def test_the_published_table_is_of_these_tests() -> None:
    """Every official test has its row, every row a test that is there, and all have passed."""
    table = (ROOT / "docs/labs.md").read_text()
    rows = re.findall(
        r"^\| (\S+) \| ([^|]+) \| ([^|]+) \| `([^`]+)` \| yes \|$", table, re.MULTILINE
    )

    assert {(lab, name) for _, lab, name, _ in rows} == {(o.lab, o.name) for o in OFFICIAL}
    for edition, lab, name, nodeid in rows:
        test = catalog.recognise(nodeid, None if edition == "both" else edition)
        assert test is not None and (test.official.lab, test.official.name) == (lab, name)
        source = (ROOT / nodeid.partition("::")[0]).read_text()
        assert f"def {catalog.function_of(nodeid)}(" in source, nodeid
