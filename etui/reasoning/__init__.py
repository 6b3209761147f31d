"""Reasoning methods: direct answer, chain of thought, majority vote."""
