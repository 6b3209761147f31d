"""The public form of a run: a folder fit for a git repository."""
