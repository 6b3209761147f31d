"""Simulated power sensors, GPU and engine, for tests and benchmarks."""
