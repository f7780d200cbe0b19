"""The walls between the rooms, held by reading the sources (nothing is imported here).

Each check is shown to bite: `test_a_breach_is_found` feeds the same functions a source that breaks
the rule.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    "raft": frozenset(),
    "labrpc": frozenset(),
    "shardctrler": frozenset({"raft", "labrpc"}),
    "shardkv": frozenset({"raft", "labrpc", "shardctrler"}),
    "labs": frozenset({"raft", "labrpc", "shardctrler", "shardkv"}),
}
"""Data flows one way: raft and labrpc (strangers) -> shardctrler -> shardkv -> labs."""

ONLY_IN: Final[Mapping[str, tuple[str, ...]]] = {
    "plyvel": ("raft/disk/leveldb.py",),
    "grpc": ("labrpc/grpc/*",),
    "grpc_health": ("labrpc/grpc/*",),
    "grpc_reflection": ("labrpc/grpc/*",),
    "grpc_tools": ("labrpc/grpc/*",),
    "google": ("labrpc/grpc/*",),
    "click": ("shardkv/cli/*",),
    "rich": ("shardkv/cli/*", "labs/cli/*"),
    "ruamel": ("shardkv/config.py", "shardkv/clusterfile.py"),
    "fastapi": ("shardkv/http/app.py",),
    "starlette": ("shardkv/http/app.py",),
    "opentelemetry": ("shardkv/tracing.py", "shardkv/span_export.py", "shardkv/aio.py"),
    "uvicorn": ("shardkv/http/wire.py",),
    "prometheus_client": ("shardkv/http/metrics.py",),
    "uvloop": ("shardkv/node.py", "shardkv/loops.py"),
    "socket": ("labrpc/grpc/*", "shardkv/*.py"),
    "threading": ("raft/disk/*", "labrpc/grpc/*", "shardkv/*", "labs/*"),
    "subprocess": ("shardkv/launcher.py", "shardkv/demo.py", "labrpc/grpc/generate.py", "labs/*"),
}
"""A library that only one room knows can be exchanged there."""

NOWHERE: Final = frozenset({"pickle", "marshal", "shelve", "dill"})
"""Nothing is ever unpickled: bytes from a peer or a disk must not be able to run."""

EDGE: Final = (
    "raft/disk/*",
    "labrpc/grpc/*",
    "shardkv/aio.py",
    "shardkv/auto.py",
    "shardkv/benching.py",
    "shardkv/backup/files.py",
    "shardkv/backup/restoring.py",
    "shardkv/leftovers.py",
    "shardkv/cli/*",
    "shardkv/config.py",
    "shardkv/clusterfile.py",
    "shardkv/logs.py",
    "shardkv/node.py",
    "shardkv/nodedir.py",
    "shardkv/http/wire.py",
    "shardkv/launcher.py",
    "shardkv/demo.py",
    "shardkv/discovery.py",
    "shardkv/aio.py",
    "shardkv/embedded.py",
    "shardkv/span_export.py",
    "shardkv/sync.py",
    "shardkv/loops.py",
    "labs/__main__.py",
    "labs/cli/*",
    "labs/mapreduce/*",
)
"""Where the world is touched. All else is the simulated path: time and chance are handed in there,
so that a seed repeats a run byte for byte."""

FORBIDDEN_CALLS: Final = frozenset(
    {
        *(f"time.{name}" for name in ("time", "time_ns", "monotonic", "monotonic_ns", "sleep")),
        *(f"time.{name}" for name in ("perf_counter", "perf_counter_ns")),
        *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"),
        *("os.urandom", "os.getpid", "uuid.uuid1", "uuid.uuid4", "random.SystemRandom"),
        *(f"asyncio.{name}" for name in ("wait", "as_completed", "TaskGroup", "to_thread")),
        *("weakref.WeakSet", "threading.Thread"),
    }
)
FORBIDDEN_MODULES_ON_SIMULATED_PATH: Final = frozenset({"secrets", "uuid"})
FORBIDDEN_BUILTINS: Final = frozenset({"eval", "exec", "id", "hash", "print", "input"})


def sources(*packages: str) -> list[str]:
    """Every Python file of these packages, as paths from the root, in order."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
    )


OURS: Final = tuple(sources(*MAY_IMPORT))


def matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def imports(tree: ast.AST, path: str) -> Iterator[tuple[str, int]]:
    """Full names of the modules a source imports, wherever it does (lazily too), with the line."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, node.module] if node.module else base)
            yield name, node.lineno
            yield from ((f"{name}.{alias.name}", node.lineno) for alias in node.names)


def wall_breaches(source: str, path: str) -> list[str]:
    """Imports that run against the one way, or of a library that is another room's."""
    own = path.split("/")[0]
    found = []
    for name, line in imports(ast.parse(source), path):
        top = name.split(".")[0]
        if top in NOWHERE or top == "tests":
            found.append(f"{path}:{line} imports {top}")
        if top in MAY_IMPORT and top != own and top not in MAY_IMPORT[own]:
            found.append(f"{path}:{line} {own} imports {name}")
        if top in ONLY_IN and not matches(path, ONLY_IN[top]):
            found.append(f"{path}:{line} imports {top}, which belongs to {ONLY_IN[top]}")
    return found


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, or "" when it is something else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def is_bare_set(node: ast.expr) -> bool:
    return isinstance(node, ast.Set | ast.SetComp) or (
        isinstance(node, ast.Call) and dotted(node.func) in {"set", "frozenset"}
    )


def chance_breaches(source: str, path: str) -> list[str]:
    """Time, chance or order that a seed would not repeat."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}  # what a name of this module stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                aliases[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            head, _, rest = dotted(node).partition(".")
            name = aliases[head] + (f".{rest}" if rest else "") if head in aliases else ""
            draws_globally = name.startswith("random.") and name not in {"random.Random"}
            if name in FORBIDDEN_CALLS or (draws_globally and name.count(".") == 1):
                found.append(f"{path}:{node.lineno} {name}")
            if name.split(".")[0] in FORBIDDEN_MODULES_ON_SIMULATED_PATH and "." not in name:
                found.append(f"{path}:{node.lineno} {name}")
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            head, _, rest = called.partition(".")
            dealiased = aliases.get(head, head) + (f".{rest}" if rest else "")
            if called in FORBIDDEN_BUILTINS:
                found.append(f"{path}:{node.lineno} {called}()")
            if dealiased == "random.Random" and not node.args:
                found.append(f"{path}:{node.lineno} Random() without a seed")
        if isinstance(node, ast.For | ast.comprehension) and is_bare_set(node.iter):
            found.append(f"{path}:{node.iter.lineno} iterates over a set")
    return found


def test_data_flows_one_way() -> None:
    """And each library stays in its room."""
    found = [b for path in OURS for b in wall_breaches((ROOT / path).read_text(), path)]

    assert found == []


def test_time_and_chance_are_handed_in() -> None:
    """On the simulated path: nothing that a seed would not repeat."""
    simulated = [path for path in OURS if not matches(path, EDGE)]
    found = [b for path in simulated for b in chance_breaches((ROOT / path).read_text(), path)]

    assert found == []


def test_no_module_imports_in_a_circle() -> None:
    """Each module can be read after those it imports."""
    modules = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in OURS
    }
    graph = {
        module: sorted(
            {name for name, _ in imports(ast.parse((ROOT / path).read_text()), path)}
            & (modules.keys() - {module})
        )
        for module, path in modules.items()
        if not path.endswith("__init__.py")  # re-exports
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for following in graph.get(module, ()):
                visit(following, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_the_configuration_reads_the_environment() -> None:
    """Nothing below shardkv/config.py does; the labs' tests take a seed from it, and gRPC's core
    can be told in no other way which of its engines to take."""
    readers = [
        path
        for path in OURS
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Attribute) and dotted(node) in {"os.environ", "os.getenv"}
    ]

    assert set(readers) <= {
        "shardkv/config.py",
        "labs/harness/edition.py",
        "labrpc/grpc/engine.py",
    }


def test_every_package_is_typed_and_no_tests_package_hides_one() -> None:
    assert [p for p in MAY_IMPORT if not (ROOT / p / "py.typed").exists()] == []
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        pytest.param("raft/core.py", "import labrpc.errors", id="raft knows no transport"),
        pytest.param("labrpc/sim/loop.py", "from raft import types", id="labrpc knows no raft"),
        pytest.param("shardkv/clerk.py", "def f():\n import labs.raft", id="a lazy import counts"),
        pytest.param("raft/log.py", "import plyvel", id="plyvel outside its module"),
        pytest.param("shardkv/server.py", "import grpc.aio", id="grpc outside its room"),
        pytest.param("raft/codec.py", "from pickle import loads", id="unpickling"),
        pytest.param("raft/core.py", "from ..shardkv import types", id="a relative import counts"),
    ],
)
def test_a_breach_of_the_walls_is_found(path: str, source: str) -> None:
    assert wall_breaches(source, path) != []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "from time import time as now\nnow()",
        "import random\nrandom.random()",
        "from random import choice\nchoice([1])",
        "import random\nrng = random.Random()",
        "import os\nos.urandom(16)",
        "import uuid\nuuid.uuid4()",
        "import asyncio as a\na.as_completed([])",
        "for x in {1, 2}: pass",
        "y = [x for x in set('ab')]",
        "eval('1')",
    ],
)
def test_a_breach_of_time_and_chance_is_found(source: str) -> None:
    assert chance_breaches(source, "raft/core.py") != []


def test_what_is_handed_in_is_no_breach() -> None:
    source = (
        "import asyncio\nfrom random import Random\n"
        "async def f(rng: Random) -> float:\n"
        "    rng.random()\n    Random('7/disk')\n"
        "    for x in sorted({1, 2}): pass\n"
        "    return asyncio.get_running_loop().time()\n"
    )

    assert chance_breaches(source, "raft/core.py") == []
