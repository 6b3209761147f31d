"""Runs on many machines: bench, calibration and sweep on the nodes of a Ray cluster."""
