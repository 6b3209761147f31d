"""Statistics over arrays: intervals, tests, resamples and frontiers; imports nothing of etui."""
