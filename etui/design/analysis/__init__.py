"""What a design run shows: pure functions from its answers to figures with intervals."""
