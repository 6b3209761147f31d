"""The settings that a sweep compares: axes, their values, and what this machine can run."""
