"""The run folder, and the runs in the log."""
