"""Checks of a policy file that go beyond its schema."""
