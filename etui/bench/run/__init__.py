"""Planning and execution of a run."""
