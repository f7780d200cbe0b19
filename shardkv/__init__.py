"""A sharded, replicated key/value store: linearizable, each write exactly once."""

__version__ = "0.1.0"
