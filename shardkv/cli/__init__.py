"""The `shardkv` command: a module a verb, each loaded only when it is called."""

from shardkv.cli.main import main

__all__ = ["main"]
