"""Predicted accuracy: fitted from graded answers, and applied."""
