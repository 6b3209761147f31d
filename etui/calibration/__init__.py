"""Measures operating curves on this machine."""
