"""The labs from the command line: `python -m labs list|run|table|simulate`."""

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import Final

from labs.cli import simulate

Verb = Callable[[argparse.Namespace], int]

_EPILOGUE: Final = """\
examples:
  python -m labs list 3B
  python -m labs run 3B --jobs 2
  python -m labs run 3C figure8_unreliable --edition 2025 --repeat 100 --jobs 2
  python -m labs run raft --impl mymodule:MyRaft        (docs/labs-interface.md)
  python -m labs run kvraft --impl mymodule:MyServer --edition 2025
  python -m labs simulate --seed 4711 --trace story.txt --history operations.jsonl
  python -m labs simulate --seeds 1..200 --jobs 2
  python -m labs simulate --seeds 1..40 --also bereft --seconds 8     (or: extinct, death)
"""


def _verb(module: str, name: str) -> Verb:
    """A verb whose module is imported when it is called: some are heavy, some need pytest."""

    def call(arguments: argparse.Namespace) -> int:
        try:
            verb: Verb = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name != "pytest":
                raise
            raise SystemExit("the labs' tests need pytest: pip install 'shardkv[dev]'") from error
        return verb(arguments)

    return call


def _at_least_1(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _add_selection(verb: argparse.ArgumentParser, part: str | None) -> None:
    help_part = "3B, raft, kvraft1, 4, mr, all..."
    verb.add_argument("part", nargs="?" if part else None, default=part, help=help_part)
    verb.add_argument("test", nargs="?", help="a piece of its name")
    verb.add_argument("--edition", choices=["2024", "2025"], help="of the suites; without: both")


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m labs",
        description=__doc__,
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = whole.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("list", help="the official tests that are here")
    _add_selection(verb, "all")
    verb.set_defaults(call=_verb("labs.cli.suites", "list_tests"))

    verb = verbs.add_parser("run", help="official tests, a line each")
    _add_selection(verb, None)
    verb.add_argument("--seed", help="of all that is drawn; of several runs, the first one's")
    verb.add_argument("--repeat", type=_at_least_1, default=1, help="so often, each another seed")
    verb.add_argument("--jobs", type=_at_least_1, default=1, help="so many processes")
    verb.add_argument(
        "--impl",
        dest="implementation",
        metavar="MODULE:CLASS",
        help="test this Raft (3A to 3D), or this key/value server (kvraft), instead of the "
        "project's; see docs/labs-interface.md",
    )
    verb.add_argument("--real-time", action="store_true", help="on the real clock")
    verb.add_argument("--traceback", action="store_true", help="show failures whole")
    verb.set_defaults(call=_verb("labs.cli.suites", "run_tests"))

    verb = verbs.add_parser("table", help="run all, and write docs/labs.md to standard output")
    verb.add_argument("--jobs", type=_at_least_1, default=1, help="so many processes")
    verb.set_defaults(call=_verb("labs.cli.suites", "write_table"))

    verb = verbs.add_parser("simulate", help="a cluster under faults, from a seed")
    simulate.add_arguments(verb)
    verb.set_defaults(call=simulate.simulate)
    return whole


def main() -> int:
    arguments = parser().parse_args()
    call: Verb = arguments.call
    return call(arguments)


if __name__ == "__main__":
    sys.exit(main())
