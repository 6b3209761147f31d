"""One turn: a query from the routing decision to the log record."""
