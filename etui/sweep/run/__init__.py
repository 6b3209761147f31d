"""Planning, running, resuming and applying a sweep."""
