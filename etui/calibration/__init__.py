"""Measurement of operating curves on this machine."""
