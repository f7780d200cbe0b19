"""`python -m shardkv`."""

from shardkv.cli import main

main()
