"""Checks of a policy file beyond its schema."""
