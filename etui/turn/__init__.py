"""One query from decision to record."""
