"""Somebody else's code, named on a command line: `module:Name` or `path/to/file.py:Name`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def load(name: str) -> Any:
    """What the name stands for. A file may import its neighbours, and is read once.

    Raises:
        LookupError: there is no such thing, or the module cannot be imported, whatever it raised.
    """
    where, colon, attribute = name.partition(":")
    if not colon:
        raise LookupError(f"{name!r} is not module:Name, nor file.py:Name")
    try:
        module = (
            _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        )
    except (ImportError, OSError) as error:
        raise LookupError(f"cannot load {name!r}: {error}") from error
    except Exception as error:  # somebody else's code may raise anything while it is imported
        told = f"{type(error).__name__}: {error}"
        raise LookupError(f"cannot load {name!r}: its import raised {told}") from error
    if not hasattr(module, attribute):
        raise LookupError(f"cannot load {name!r}: there is no {attribute!r} in {where}")
    return getattr(module, attribute)


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
