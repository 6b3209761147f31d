"""Speculation: draft several tokens, verify them in one batch, keep what the model draws too."""
