"""What the clerks of a lab test were asked and answered, and the rules by which that is judged.

The two models are the labs' own: strings that are put and appended to (2024), and values with
versions (2025). Where the labs look away, ours does not: a get's version counts too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

from labs.harness.edition import Edition
from labs.kv import Err
from labs.linearizability import ILLEGAL, NotLinearizable, Undecided, judge


class Asked(Enum):
    """What a clerk was asked."""

    GET = "get"
    PUT = "put"
    APPEND = "append"


@dataclass(slots=True)
class Call:
    """One call of one clerk. A clerk has no other open at the same time.

    `began` and `ended` count the test's calls and answers, whose order is exact: the loop does one
    thing after the other, also within one moment of virtual time.
    """

    clerk: int
    asked: Asked
    key: str
    value: str
    """What was put or appended; "" of a get."""
    version: int
    """What a versioned put asked for."""
    began: int
    began_at: float
    ended: float = inf
    ended_at: float = inf
    result: str | None = None
    """What a get read, or an append says was there before it; None when it says nothing."""
    result_version: int = 0
    """Of what a versioned get read."""
    err: Err = Err.OK

    def __str__(self) -> str:
        end = f"{self.ended_at:.6f}" if self.ended < inf else "never"
        result = "" if self.result is None else f" -> {_short(self.result)!r}"
        return (
            f"clerk {self.clerk} {self.asked.value} {self.key!r} {_short(self.value)!r}"
            f" v{self.version}{result} v{self.result_version} {self.err.value}"
            f" [{self.began_at:.6f}, {end}]"
        )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}...{text[-24:]}"


class Strings:
    """2024: a string a key, "" at first. Put sets it, append adds to it and may say what was.

    A state is (puts so far, value). After the last put the value only grows, so that it must be
    a beginning of what was read at last, or go on from there: orders of concurrent appends that
    lead elsewhere are given up at once.

    Args:
        calls: All of the key's.
    """

    start: Final = (0, "")
    blind: Final = False

    def __init__(self, calls: Sequence[Call]) -> None:
        self._puts = sum(call.asked is Asked.PUT for call in calls)
        put = max((call.ended for call in calls if call.asked is Asked.PUT), default=0)
        after = [call.result or "" for call in calls if call.asked is Asked.GET if call.began > put]
        self._longest = max(after, key=len, default="")

    def step(self, state: tuple[int, str], call: Call) -> object:
        puts, value = state
        if call.asked is Asked.GET:
            return state if call.result == value else ILLEGAL
        if call.asked is Asked.PUT:
            return (puts + 1, call.value)
        if call.result is not None and call.result != value:
            return ILLEGAL
        value += call.value
        if puts == self._puts and not self._longest.startswith(value[: len(self._longest)]):
            return ILLEGAL
        return (puts, value)

    def is_read(self, call: Call) -> bool:
        return call.asked is Asked.GET


class Versioned:
    """2025: a value and its version a key, ("", 0) at first.

    An ErrMaybe must be explained by some moment inside the call: either the put took effect then,
    or the version had moved on.
    """

    start: Final = ("", 0)
    blind: Final = False

    def step(self, state: tuple[str, int], call: Call) -> object:
        version = state[1]
        if call.asked is Asked.GET:
            absent = call.err is Err.NO_KEY
            read = ("", 0) if absent else (call.result, call.result_version)
            return state if read == state else ILLEGAL
        if call.version == version:
            legal = call.err in (Err.OK, Err.MAYBE)
            return (call.value, version + 1) if legal else ILLEGAL
        refusal = Err.VERSION if version else Err.NO_KEY
        return state if call.err in (refusal, Err.MAYBE) else ILLEGAL

    def is_read(self, call: Call) -> bool:
        return call.asked is Asked.GET or call.err in (Err.VERSION, Err.NO_KEY)


def judge_calls(calls: Iterable[Call], edition: Edition) -> None:
    """Judge a test's calls, each key by itself.

    Raises:
        NotLinearizable, Undecided: of the first key that fails; either fails the test.
    """
    keys: dict[str, list[Call]] = {}
    for call in calls:
        keys.setdefault(call.key, []).append(call)
    for key, of_key in keys.items():
        model = Strings(of_key) if edition is Edition.E2024 else Versioned()
        try:
            judge(of_key, model)
        except (NotLinearizable, Undecided) as failure:
            failure.add_note(f"key {key!r}")
            raise
