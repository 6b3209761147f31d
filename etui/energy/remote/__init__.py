"""The meter of another machine: its clock, its documents, and its joules in local time."""
