"""Power curves with a known integral, and models of real devices that play them to the meter.

The meter's tests and ``benchmarks/meter.py`` judge it by these; nothing here reads hardware.
"""
