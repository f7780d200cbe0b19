"""Backups: a consistent cut of a running cluster as files, and a new cluster made from them."""
