"""Intervals, tests, bootstrap and frontiers, over plain arrays."""
