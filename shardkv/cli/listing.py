"""`shardkv list`: keys in order, a line each, as they come."""

import json
import os
import sys
from typing import Any, Final

import click

from shardkv.cli.finding import Request, Whole, run, talks, text_fields
from shardkv.cli.reading import Reading, reads
from shardkv.limits import INTEGER_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from shardkv.listing import Listed
from shardkv.text import shown

_SHOWN_MAX: Final = KEY_BYTES_MAX + VALUE_BYTES_MAX


@click.command(
    "list",
    epilog="""\b
Examples:
  shardkv list
  shardkv list user/ --limit 20
  shardkv list user/ --after user/0042 --values
  shardkv list user/ --json | jq -r .key
""",
)
@click.argument("prefix", default="", type=click.UNPROCESSED)
@click.option("--limit", type=Whole(1, INTEGER_MAX), metavar="N", help="So many keys at most.")
@click.option("--after", type=click.UNPROCESSED, metavar="KEY", help="Only keys above this one.")
@click.option("--values", is_flag=True, help="Print the values too, after a tab.")
@reads
@talks
def list_(
    request: Request,
    prefix: str,
    limit: int | None,
    after: str | None,
    values: bool,
    how: Reading,
) -> None:
    """Print the keys that begin with PREFIX, in the order of their bytes; without one, all.

    A line each, what is not printable escaped; --json prints every byte, an object a line. A key
    that is there from begin to end is printed, none twice; but the whole is no snapshot: keys that
    come or go meanwhile may be in it or not.
    """

    async def work() -> None:

        async with request.store() as store:
            rows = store.list(
                os.fsencode(prefix),
                after=None if after is None else os.fsencode(after),
                limit=limit,
                values=values,
                **how,
            )
            async for row in rows:
                _print(row, request.as_json)

    run(work())
    sys.stdout.flush()


def _print(row: Listed, as_json: bool) -> None:
    if as_json:
        fields: dict[str, Any] = {**text_fields("key", row.key), "version": row.version}
        if row.value is not None:
            fields |= text_fields("value", row.value)
        sys.stdout.write(json.dumps(fields, ensure_ascii=True) + "\n")
        return
    line = shown(row.key, _SHOWN_MAX)
    if row.value is not None:
        line += "\t" + shown(row.value, _SHOWN_MAX)
    sys.stdout.write(line + "\n")
