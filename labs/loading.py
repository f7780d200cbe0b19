"""Somebody else's code, named on a command line: `module:Name` or `path/to/file.py:Name`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def load(name: str) -> Any:
    """What the name stands for. A file may import its neighbours, and is read once.

    Raises:
        LookupError: there is no such thing; also when the module itself fails to import one.
    """
    where, colon, attribute = name.partition(":")
    if not colon:
        raise LookupError(f"{name!r} is not module:Name, nor file.py:Name")
    try:
        module = (
            _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        )
        return getattr(module, attribute)
    except (ImportError, OSError, AttributeError) as error:
        raise LookupError(f"cannot load {name!r}: {error}") from error


def _load_file(path: Path) -> Any:
    path = path.resolve()
    key = f"labs.loading:{path}"  # no name that any import could mean
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None, "a .py file has a loader"
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        module = sys.modules[key] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]
