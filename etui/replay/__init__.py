"""Policies judged on answers that exist already."""
