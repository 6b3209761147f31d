"""Facts about a query and the machine that conditions test."""
