"""Benchmarks: each module runs alone in its full form, and ``python -m benchmarks`` all in short.

A module exposes ``quick()``, which yields the :class:`benchmarks.figures.Figure` of its short form.
"""
