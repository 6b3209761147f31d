"""Accuracy, cost and comparisons of runs."""
