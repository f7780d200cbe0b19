"""The MapReduce lab as processes; each works in the current directory.

python -m labs.mapreduce texts
python -m labs.mapreduce coordinator pg-*.txt &
python -m labs.mapreduce worker wc            (as many as you like)
cat mr-out-* | sort | head
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from random import Random

from labrpc.errors import CannotListen
from labs.mapreduce import apps, texts
from labs.mapreduce.coordinator import LINGER_SECONDS, coordinate
from labs.mapreduce.files import REDUCES
from labs.mapreduce.protocol import SOCKET
from labs.mapreduce.schedule import Schedule
from labs.mapreduce.sequential import run_sequentially
from labs.mapreduce.worker import work_for

HERE = Path()


def _coordinator(arguments: argparse.Namespace) -> None:
    schedule = Schedule(len(arguments.files), REDUCES)
    asyncio.run(
        coordinate(
            arguments.files,
            socket=arguments.socket,
            directory=HERE,
            schedule=schedule,
            linger_seconds=arguments.linger,
        )
    )


def _worker(arguments: argparse.Namespace) -> None:
    app = _make_app(arguments)
    asyncio.run(work_for(app, socket=arguments.socket, directory=HERE))


def _sequential(arguments: argparse.Namespace) -> None:
    run_sequentially(_make_app(arguments), arguments.files, HERE)


def _texts(arguments: argparse.Namespace) -> None:
    for name in texts.write_texts(HERE, arguments.seed):
        sys.stdout.write(f"{name}\n")


def _make_app(arguments: argparse.Namespace) -> apps.App:
    seed = arguments.seed if arguments.seed is not None else os.urandom(8).hex()
    return apps.load_app(arguments.app)(HERE, Random(seed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m labs.mapreduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    apps_help = f"one of {', '.join(apps.APPS)}, or module:Class, or path.py:Class"
    seed_help = "of the chance that the app draws; without one every run is another"

    verb = verbs.add_parser("coordinator", help="a job: one map task a file")
    verb.add_argument("files", nargs="+")
    _add_socket(verb)
    verb.add_argument("--linger", type=float, default=LINGER_SECONDS, help="seconds after the job")
    verb.set_defaults(run=_coordinator)

    verb = verbs.add_parser("worker", help="works until the job is over")
    verb.add_argument("app", help=apps_help)
    _add_socket(verb)
    verb.add_argument("--seed", help=seed_help)
    verb.set_defaults(run=_worker)

    verb = verbs.add_parser("sequential", help="the reference, into mr-out-0")
    verb.add_argument("app", help=apps_help)
    verb.add_argument("files", nargs="+")
    verb.add_argument("--seed", help=seed_help)
    verb.set_defaults(run=_sequential)

    verb = verbs.add_parser("texts", help="write the eight inputs")
    verb.add_argument("--seed", default=texts.SEED)
    verb.set_defaults(run=_texts)
    return parser


def _add_socket(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--socket", type=Path, default=Path(SOCKET), metavar="PATH")


def main() -> int:
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (CannotListen, LookupError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
