"""Grammars that constrain what a model writes: JSON of a schema, or calls of tools."""
