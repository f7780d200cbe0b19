"""How much memory an object holds, for tests of what servers keep."""

import gc
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType)
"""What an object refers to without holding it."""


def held_bytes(root: Any) -> int:
    """Bytes of everything that `root` keeps alive: itself and what it refers to, each once."""
    gc.collect()
    seen: set[int] = set()
    stack: list[Any] = [root]
    total = 0
    while stack:
        one = stack.pop()
        if id(one) in seen or isinstance(one, SHARED):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, MethodType) or gc.is_tracked(one):
            stack.extend(gc.get_referents(one))
        elif isinstance(one, dict):  # of plain values only: not tracked
            stack.extend(one)
            stack.extend(one.values())
        elif isinstance(one, tuple):
            stack.extend(one)
    return total
