"""The parts of the MapReduce lab below its processes: schedule, files, protocol, apps, inputs."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from labs.mapreduce import files, protocol, texts
from labs.mapreduce.apps import APPS, load_app, words
from labs.mapreduce.files import Pair
from labs.mapreduce.protocol import Exit, MapWork, ReduceWork, Wait, Work
from labs.mapreduce.schedule import Assignment, Phase, Schedule
from labs.mapreduce.sequential import run_sequentially
from labs.mapreduce.worker import run_map, run_reduce

MAP, REDUCE = Phase.MAP, Phase.REDUCE


# The schedule


def test_a_task_is_handed_out_once_and_reduces_follow_the_last_map() -> None:
    schedule = Schedule(2, 1)

    first, second = schedule.assign(0.0), schedule.assign(0.0)
    assert (first, second) == (Assignment(MAP, 0, 0), Assignment(MAP, 1, 0))
    assert schedule.assign(9.9) is None

    assert schedule.report(Assignment(MAP, 1, 0))
    assert schedule.assign(9.9) is None, "a map task is still out"
    assert schedule.report(Assignment(MAP, 0, 0))
    assert schedule.assign(9.9) == Assignment(REDUCE, 0, 0)
    assert not schedule.finished
    assert schedule.report(Assignment(REDUCE, 0, 0))
    assert schedule.finished


@pytest.mark.parametrize("phase", Phase)
def test_a_task_is_handed_out_again_after_ten_seconds_and_not_before(phase: Phase) -> None:
    schedule = Schedule(1, 1)
    if phase is REDUCE:
        schedule.assign(0.0)
        schedule.report(Assignment(MAP, 0, 0))
    assert schedule.assign(1.0) == Assignment(phase, 0, 0)

    assert schedule.assign(10.999) is None
    assert schedule.assign(11.0) == Assignment(phase, 0, 1)
    assert schedule.assign(20.999) is None
    assert schedule.assign(21.0) == Assignment(phase, 0, 2)


def test_the_first_report_counts_and_later_ones_change_nothing() -> None:
    """Nor is a task counted twice, which would begin the reduces too early."""
    schedule = Schedule(2, 1)
    for now in (0.0, 10.0):
        schedule.assign(now)
        schedule.assign(now)

    assert schedule.report(Assignment(MAP, 0, 1))
    assert not schedule.report(Assignment(MAP, 0, 0)), "the straggler"
    assert not schedule.report(Assignment(MAP, 0, 1)), "a report that was repeated"
    assert schedule.assign(10.0) is None, "map 1 is still out"

    assert schedule.report(Assignment(MAP, 1, 0)), "late, and still the first"
    assert schedule.map_attempts == [1, 0]
    assert schedule.assign(10.0) == Assignment(REDUCE, 0, 0)


@pytest.mark.parametrize(
    "report", [Assignment(MAP, 0, 1), Assignment(MAP, 2, 0), Assignment(REDUCE, 0, 0)]
)
def test_what_was_never_handed_out_cannot_be_done(report: Assignment) -> None:
    schedule = Schedule(2, 1)
    schedule.assign(0.0)

    with pytest.raises(ValueError, match="never handed out"):
        schedule.report(report)


def test_a_job_without_tasks_is_over() -> None:
    assert Schedule(0, 0).finished


# Files


def test_ihash_is_the_course_s() -> None:
    expected = {"": 18652613, "a": 1678518572, "the": 873378332}

    assert {key: files.ihash(key) for key in expected} == expected
    assert [files.ihash(key) % 10 for key in "abcdA"] == [2, 9, 0, 5, 4]


def test_pairs_survive_their_files(tmp_path: Path) -> None:
    """Whatever is in them: spaces, newlines, quotes, any alphabet, bytes that are no UTF-8."""
    pairs = [Pair("a b\n", '"'), Pair("中", "é"), Pair("\udcff", "\\"), Pair("", "")]
    files.write_pairs(tmp_path, 0, 0, pairs)
    files.write_pairs(tmp_path, 1, 3, pairs)

    read = [pair for task in range(10) for pair in files.read_pairs(tmp_path, task, [0, 3])]

    assert Counter(read) == Counter(pairs + pairs)


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """A reduce that dies on the way leaves no result, nor does one that nobody counted."""

    class Dying:
        def map(self, file: str, contents: str) -> list[Pair]:
            return [Pair("a", "1"), Pair("k", "1")]

        def reduce(self, key: str, values: list[str]) -> str:
            if key == "k":
                raise RuntimeError("in the second key of its task")
            return "1"

    (tmp_path / "in").write_text("")
    run_map(Dying(), MapWork(Assignment(MAP, 0, 0), "in"), tmp_path)
    assert files.ihash("a") % 10 == files.ihash("k") % 10 == 2

    with pytest.raises(RuntimeError, match="second key"):
        run_reduce(Dying(), ReduceWork(Assignment(REDUCE, 2, 0), [0]), tmp_path)
    right = APPS["wc"](tmp_path, Random(1))
    run_reduce(right, ReduceWork(Assignment(REDUCE, 2, 1), [0]), tmp_path)
    assert list(tmp_path.glob("mr-out*")) == []

    files.publish(tmp_path, 2, 1)
    assert (tmp_path / "mr-out-2").read_text() == "a 1\nk 1\n"


def test_no_other_file_is_taken_for_a_result_or_an_app_s() -> None:
    names = [files.pairs_name(1, 0, 2), files.reduced_name(1, 0), protocol.SOCKET]

    assert not [name for name in names if name.startswith(("mr-out", "mr-worker"))]


# Protocol


@pytest.mark.parametrize(
    "work",
    [
        MapWork(Assignment(MAP, 3, 1), "../pg-\udcff.txt"),
        ReduceWork(Assignment(REDUCE, 0, 2), [0, 1, 0]),
        Wait(),
        Exit(),
    ],
)
def test_work_survives_the_wire(work: Work) -> None:
    assert protocol.decode_work(protocol.encode_work(work)) == work


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"\x91\xa3map", b"\x93\xa1x\x00\x00"])
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="no "):
        protocol.decode_work(body)
    with pytest.raises(ValueError):
        protocol.decode_done(body)


# Apps and inputs


def test_words_are_runs_of_letters_of_any_alphabet() -> None:
    assert words("Été 42nd it's ½жи_λ中") == ["Été", "nd", "it", "s", "жи", "λ中"]


def test_eight_texts_from_a_seed(tmp_path: Path) -> None:
    names = texts.write_texts(tmp_path)
    contents = [(tmp_path / name).read_bytes() for name in names]

    assert len(names) == 8
    assert sum("sherlock" in name for name in names) == sum("tom" in name for name in names) == 1
    assert all(len(text) > 100_000 for text in contents)
    assert all(len(text.decode()) < len(text) for text in contents), "letters beyond ASCII"
    texts.write_texts(tmp_path)
    assert contents == [(tmp_path / name).read_bytes() for name in names]


def test_the_reference_counts_words(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("b a\nb")
    (tmp_path / "y").write_text("c b")

    out = run_sequentially(APPS["wc"](tmp_path, Random(1)), ["x", "y"], tmp_path)
    assert out.read_text() == "a 1\nb 3\nc 1\n"
    out = run_sequentially(APPS["indexer"](tmp_path, Random(1)), ["y", "x"], tmp_path)
    assert out.read_text() == "a 1 x\nb 2 x,y\nc 1 y\n"


def test_an_app_is_loaded_by_name_module_or_path(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("class Mine: pass")

    assert load_app("labs.mapreduce.apps:WordCount") is APPS["wc"]
    assert getattr(load_app(f"{tmp_path}/own.py:Mine"), "__name__", None) == "Mine"
    for nothing in ("cw", "labs.mapreduce.apps:None", "nowhere:X", f"{tmp_path}/no.py:X"):
        with pytest.raises(LookupError, match=r"no app|cannot load"):
            load_app(nothing)
