"""Power sources: one module for each driver or kernel interface."""
