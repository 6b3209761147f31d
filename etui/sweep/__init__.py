"""Sweeps: which settings of a model cost the fewest joules on this machine."""
