"""Which tests can test what `--impl` names: a Raft those of 3A to 3D, a server those of kvraft."""

from typing import Final, NamedTuple

from labs.cli import catalog
from labs.harness import foreign, foreign_kv
from labs.harness.foreign import Unfit
from labs.loading import load

RAFT, KVRAFT = "tests/labs/raft", "tests/labs/kvraft"
LABS: Final = {RAFT: "the raft lab (raft, 3A to 3D)", KVRAFT: "the kvraft lab (kvraft, kvraft1)"}


class Fit(NamedTuple):
    """Where its tests are, and of which edition they are to be; None: of both."""

    place: str
    edition: str | None


def fit(name: str, part: str, edition: str | None) -> Fit:
    """See that an implementation can be tested as a user means it.

    Args:
        name: `module:Class` or `file.py:Class`.
        part, edition: What is to be run; see `catalog.matches`.

    Raises:
        LookupError: it cannot be loaded, is not written to the interface, or is for other tests.
    """
    places = [
        place
        for place in catalog.places_of(part)
        if place in LABS and edition in (None, *catalog.editions_of(part, place))
    ]
    if len(places) != 1:
        of = f" of {edition}" if edition is not None else ""
        raise Unfit(f"--impl is for {' and '.join(LABS.values())}, not for {part}{of}")
    (place,) = places
    found = load(name)
    if place == KVRAFT:
        return Fit(place, _edition_of_server(found, part, edition))
    if foreign_kv.is_server(found):
        raise Unfit(f"{name} is a key/value server: it is for {LABS[KVRAFT]}, not for {part}")
    foreign.shape(found, foreign.RAFT_METHODS, "a Raft")
    return Fit(place, edition)


def _edition_of_server(found: object, part: str, wanted: str | None) -> str | None:
    """The one that is run; None: both."""
    foreign_kv.check_server(found)
    have = [edition.value for edition in foreign_kv.editions(found)]
    asked = catalog.editions_of(part, KVRAFT) if wanted is None else [wanted]
    common = [edition for edition in asked if edition in have]
    if not common:
        raise Unfit(
            f"{getattr(found, '__name__', found)} has no clerk of {' or '.join(asked)}, "
            f"only of {' and '.join(have)}; choose its tests with --edition {have[0]}"
        )
    return common[0] if len(common) == 1 else None
