"""A key/value server that is wrong on purpose: it does again what is asked again.

    python -m labs run 4A --edition 2024 --impl docs/examples/forgetful_kv.py:ForgetfulKv

The tests say so as soon as an answer gets lost: an element is there twice, or a put finds that its
own first attempt has moved the version on.
"""

from compact_kv import CompactKv


class ForgetfulKv(CompactKv):
    """As `CompactKv`, without a memory of what was done."""

    def is_repeated(self, clerk: int, number: int) -> bool:
        return False
