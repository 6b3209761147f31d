"""The order of a sweep: blocks, dropping settings, the best."""
