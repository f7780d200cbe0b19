"""What README.md promises, and the test that holds it to each: no promise without a test.

The words are the README's own, so that who rewrites one is led here. Its commands and code are run
as they stand there by `tests/processes/test_readme.py`.
"""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from shardkv import demo, handover, limits

ROOT: Final = Path(__file__).parents[1]
README: Final = " ".join((ROOT / "README.md").read_text().split())

PROMISES: Final = {
    "every read linearizable, every write exactly once": (
        "simulation/test_cluster.py::test_nothing_is_lost_doubled_or_stale",
        "processes/test_kills.py::test_the_leader_is_killed_again_and_again_under_load",
        "processes/test_kills.py::test_everything_is_killed_at_once_under_load_again_and_again",
    ),
    "every claim tried by simulation and by real processes that are killed": (
        "scorecard/test_scorecard.py::test_every_listed_safeguard_has_one_row_or_a_reason",
    ),
    "groups hand shards to each other while clients keep reading and writing": (
        "simulation/test_cluster.py::test_shards_that_do_not_move_are_served_throughout",
        "processes/test_moves_under_fire.py::"
        "test_groups_leave_and_join_while_leaders_and_everything_are_killed",
    ),
    "The same server, controller and clerk code runs in production on gRPC and LevelDB": (
        "test_architecture.py::test_data_flows_one_way",
        "test_architecture.py::test_time_and_chance_are_handed_in",
    ),
    "each repeats from its seed": (
        "simulation/test_cluster.py::test_a_seed_is_a_run_in_any_process",
    ),
    "six node processes, real files, kill -9; every byte checked at the end": (
        "shardkv/test_demo.py::test_each_file_is_compared",
        "shardkv/test_demo.py::test_a_log_that_is_not_so_fails",
        "test_promises.py::test_the_demo_has_six_nodes",
    ),
    "nothing is installed outside the directory": (
        "test_promises.py::test_make_installs_into_the_venv_alone",
    ),
    "Every node has a web page: `up` prints the address of the first one's": (
        "processes/test_up.py::test_a_cluster_is_founded_used_stopped_and_found_again",
        "shardkv/http/test_page.py::test_a_node_answers_with_the_page",
    ),
    "raises VersionMismatch if somebody was faster": (
        "shardkv/test_clerk.py::test_a_conditional_put_tells_the_version_that_is_there",
    ),
    "by this name done once, whoever repeats it": (
        "shardkv/test_once.py::test_of_two_requests_of_one_name_one_is_done_whoever_carries_it",
    ),
    "both or neither": ("shardkv/test_batches.py::test_a_refused_batch_leaves_nothing",),
    "one process, one directory, the same code": (
        "shardkv/test_embedded.py::test_what_was_written_is_there_after_closing",
    ),
    "Over HTTP, at any node": (
        "shardkv/http/test_keys.py::"
        "test_any_node_serves_any_key_and_a_session_sees_its_writes_everywhere",
    ),
    '"the outcome is unknown" is one of its own': (
        "shardkv/test_errors.py::test_an_unknown_outcome_is_told_apart_from_everything_else",
        "shardkv/test_clerk.py::test_a_write_that_left_and_was_never_answered_is_unknown",
    ),
    "a write with a `request_id` is done once however often it comes": (
        "shardkv/test_typed_reads.py::test_a_named_write_that_comes_again_is_done_once",
    ),
    "Reads spread over replicas, stale reads with a bound, sessions, lists and exports": (
        "processes/test_reads.py::test_each_consistency_shows_what_was_written",
        "processes/test_reads.py::test_a_stale_read_that_nobody_is_new_enough_for_is_3",
        "processes/test_reads.py::test_keys_go_out_and_come_back_exactly",
    ),
    "imports run one way": ("test_architecture.py::test_data_flows_one_way",),
    "they find each other and found the cluster once": (
        "processes/test_auto.py::test_nodes_that_are_killed_anywhere_in_their_birth_form_one_cluster",
    ),
    "a dead node's replicas go to a new one; the steps first": (
        "processes/test_moving_nodes.py::test_a_dead_node_with_a_lost_disk_is_replaced_under_load",
    ),
    "while clients write; `backup verify`, `restore": (
        "processes/test_backup.py::test_a_cluster_is_backed_up_under_load_and_restored",
    ),
    "A test follows them, and this page, to the letter": (
        "processes/test_readme.py::test_the_tour",
        "processes/test_readme.py::test_run_it_for_long",
    ),
    "Nodes that are gone for longer than a grace period are made up for by the others": (
        "processes/test_healing.py::test_a_node_killed_for_good_is_made_up_for",
    ),
    "leaderships are spread": (
        "processes/test_healing.py::test_leaderships_are_even_again_after_all_nodes_were_restarted",
    ),
    "a disk that is slow loses its leaderships": (
        "processes/test_healing.py::test_a_slow_disk_gives_up_its_leaderships",
    ),
    "one that is nearly full refuses writes before it harms anything": (
        "processes/test_healing.py::test_on_a_full_disk_writes_are_refused_until_there_is_room",
    ),
    "a batch is atomic for keys of one shard, as keys with one `{tag}` are": (
        "shardkv/test_batches.py::test_each_write_sees_those_before_it",
        "shardkv/test_routing.py::test_the_first_tag_that_is_not_empty_is_hashed",
    ),
    "every official test of both editions": (
        "labs/test_catalog.py::test_the_published_table_is_of_these_tests",
    ),
    "TLS with client certificates says who may": (
        "processes/test_tls.py::test_a_command_that_is_not_let_in_says_why",
    ),
    "A shard that moves is served all the time but for the last step": (
        "shardkv/test_live_copy.py::test_a_shard_is_served_while_it_is_copied",
    ),
    "they say which acknowledged writes may be gone, and ask for the cluster's id": (
        "processes/test_recover.py::test_two_of_three_nodes_are_lost_and_the_third_goes_on",
        "processes/test_recover.py::test_a_group_that_is_lost_whole_is_given_up",
    ),
}


@pytest.mark.parametrize("words", PROMISES)
def test_a_promise_is_made_and_held(words: str) -> None:
    assert words in README, "the README says it otherwise by now: see that a test still holds it"
    for test in PROMISES[words]:
        file, _, name = test.partition("::")
        source = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"no such test: {test}"


def test_the_numbers() -> None:
    assert "Keys are 1 to 4,096 bytes, values up to 1 MiB" in README
    assert (limits.KEY_BYTES_MIN, limits.KEY_BYTES_MAX) == (1, 4096)
    assert limits.VALUE_BYTES_MAX == 1024 * 1024
    assert "A shard keeps 4,096 sessions" in README and "within two minutes" in README
    assert limits.SESSIONS_MAX == 4096
    assert handover.SESSION_IDLE_SECONDS_WHEN_FULL == 120
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "CPython 3.11 and 3.12" in README
    assert project["requires-python"] == ">=3.11,<3.13"
    assert "MIT license" in README and (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_the_demo_has_six_nodes() -> None:
    assert demo.NODES == 6


def test_make_installs_into_the_venv_alone() -> None:
    """Every `pip` and `npm` of the Makefile is the venv's, or told to stay in the directory."""
    installs = [
        line.strip()
        for line in (ROOT / "Makefile").read_text().splitlines()
        if re.search(r"\b(pip|npm) (install|ci)\b", line) and "##" not in line
    ]

    assert len(installs) >= 4, "they are found"
    for line in installs:
        inside = line.startswith(("$(BIN)/python -m pip", "$(VENV)/"))
        assert inside or "--prefix $(VENV)/" in line or line.startswith("cd web &&"), line


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on the way to a browser."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"(?m)^#+ (.+)$", text)
    }


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda page: page.name,
)  # fmt: skip
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in headings(target), f"{page.name}: {link}"
