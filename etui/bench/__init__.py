"""Benchmark runs and their reports."""
