"""The rows of the scorecard, those of consensus from `tests/raft/test_safeguards.py`."""

from tests.raft import test_safeguards as consensus
from tests.scorecard import reading, scripts, sharding, shell
from tests.scorecard.trials import Row, chaos, scripted

NOT_THERE: dict[str, str] = {}
"""Safeguards of parts that do not exist."""

_IDS = (
    "A01 A03 A06 A07 A09 A11 A14 A16 A17 A19 A24 A26 "
    "B01 B02 B03 B04 B06 B07 B12 B13 B20 B21 B22 B28 B29 B30 "
    "C01 C02 C04 C05 C08 C09 C18 D01 D02 D05 D11 D13 E01 E02 E05 E14 "
    "F01 F03 F04 F05 F06 F08 F09 F10 F13 F18 F21 F24 F27 F31 "
    "G01 G02 G03 G05 G07 G08 G14 H01 H01b H01c H02 H02b H03 H04 H05 H06 H07 H08 H09 H10 H11 H12 "
    "H13 H14 H15 H16 H17 "
    "J01 J02 J03 J04 J05 J06 J07 J08 J09 K01 K02 K03 K04 K05 K06 K07 K08 K09 K10 K11 K12 K13"
)
LISTED = _IDS.split()
"""Every safeguard that the table must speak of; one without a row is `not tried`."""


def _consensus() -> list[Row]:
    rows = [
        Row(guard.id, guard.what, guard.breaks, guard.caught_by, chaos(guard))
        for guard in consensus.TABLE
        if guard.id != "canary"
    ]
    scripts = [
        Row(script.id, script.what, script.breaks, script.caught_by, scripted(script))
        for script in consensus.SCRIPTS
    ]
    return rows + scripts


def rows() -> list[Row]:
    """All rows, in order of their ids."""
    every = (
        *_consensus(),
        *sharding.rows(),
        *shell.rows(),
        *reading.rows(),
        *scripts.rows(),
    )
    return sorted(every, key=lambda row: row.id)
