"""Power sources: one module a driver or kernel interface."""
