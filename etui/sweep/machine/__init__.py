"""Measurement of settings on this machine."""
