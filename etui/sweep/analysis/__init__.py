"""The statistics of a sweep."""
