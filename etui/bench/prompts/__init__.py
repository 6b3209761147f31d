"""Prompts of multiple-choice questions, as text and as tokens."""
