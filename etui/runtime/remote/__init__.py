"""Models that other machines serve: backends, meters, and the conditions of their turns."""
